"""Worker processes: how many there are, and that they start and end."""

from __future__ import annotations

import gc
import io
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from deepsynth.data.loading import server, workers
from deepsynth.data.loading.loader import ResumableLoader
from deepsynth.data.loading.sampler import EpochSampler
from deepsynth.data.loading.workers import DatasetInFile, Workers, collect_seldom, count_workers
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.training import make_data

DOCUMENTS = [f"{index} " + "word " * 200 for index in range(1003)]


class Documents(Dataset[str]):
    """A data set of texts."""

    def __init__(self, documents: list[str]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, key: tuple[int, int]) -> str:
        return self.documents[key[1]]


# ---------------------------------------------------------------------- how many


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the numbers of GPUs and cores."""

    def have(gpus: int, cores: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(workers, "available_cores", lambda: cores)
        monkeypatch.setattr(workers, "start_server", lambda: None)

    return have


@pytest.mark.parametrize(
    ("gpus", "cores", "seconds", "count"),
    [
        (0, 16, [0.01] * 8, 0),
        (1, 16, [], 8),
        (1, 4, [], 3),
        (1, 1, [], 1),
        (1, 16, [3.0, 1.0, 0.01, 0.01], 2),  # the first load fonts
        (1, 16, [0.001] * 8, 2),
        (1, 16, [0.02] * 8, 4),
        (1, 16, [0.2] * 8, 15),
        (4, 16, [0.2] * 8, 3),
    ],
)
def test_as_many_workers_as_a_gpu_needs_for_what_samples_cost(
    gpus: int, cores: int, seconds: list[float], count: int, machine: Any
) -> None:
    machine(gpus, cores)
    assert count_workers(seconds) == count


def test_the_number_is_chosen_by_the_first_samples_unless_it_was_given(
    machine: Any, jsonl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(1, 16)
    clock = iter(range(1000))
    monkeypatch.setattr("deepsynth.data.loading.usable.time.perf_counter", lambda: 2**-5 * next(clock))
    with caplog.at_level(logging.INFO, "deepsynth"):
        for given, count in (("auto", 7), (3, 3)):
            data = make_data(jsonl, num_workers=given)
            data.setup("fit")
            assert data.workers.count == count
            assert data.workers.loader(Documents(DOCUMENTS)).num_workers == count
    lines = [record.getMessage() for record in caplog.records if "workers" in record.getMessage()]
    assert lines == ["data: 7 workers, as a sample takes 31 ms on one of 16 cores"]


# ---------------------------------------------------------------------- how they start


def test_spawned_workers_are_told_little_so_that_none_waits_for_anothers_imports() -> None:
    dataset = DatasetInFile(Documents(DOCUMENTS))
    told = [pickle.dumps(dataset) for _ in range(2)]
    assert len(pickle.dumps(DOCUMENTS)) > 2**16 > 2**10 > len(told[0])
    for message in told:
        received = pickle.loads(message)
        assert [received[0, index] for index in range(len(received))] == DOCUMENTS


def test_a_full_disk_is_said_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, *_: Any) -> int:
            raise OSError(28, "No space left on device")

    dataset = DatasetInFile(Documents(DOCUMENTS))
    monkeypatch.setattr("deepsynth.data.loading.workers.tempfile.TemporaryFile", Full)
    for _ in range(2):
        with pytest.raises(UserError, match="No space left on device; set TMPDIR"):
            pickle.dumps(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_give_what_there_is(method: str) -> None:
    processes = Workers(3, start_method=method)
    sampler = EpochSampler(DOCUMENTS, shuffle=False, seed=0)
    loader = ResumableLoader(Documents(DOCUMENTS), sampler, processes, batch_size=8, collate_fn=list)
    assert [text for batch in loader for text in batch] == DOCUMENTS
    assert len(multiprocessing.active_children()) >= 3
    processes.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("args", "driver", "starts"),
    [
        (["fit", "--config", "quickstart"], True, True),
        (["predict"], True, True),
        (["fit"], False, False),
        (["fit", "--data.num_workers=0"], True, False),
        (["fit", "--help"], True, False),
        (["render"], True, False),
        ([], True, False),
    ],
)
def test_the_server_starts_early_where_workers_will_be_wanted(
    args: list[str], driver: bool, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(server, "start_server", lambda: started.append(True))
    monkeypatch.setattr(server.os.path, "exists", lambda path: driver)
    server.start_server_early(args)
    assert bool(started) == starts


#: Starts the server, says which processes there are, and ends at once or after a worker.
_STARTS = """
import os, sys
from deepsynth.data.loading.server import start_server
start_server()
print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
if sys.argv[1] == "late":
    import multiprocessing
    worker = multiprocessing.get_context("forkserver").Process(target=sum, args=([],))
    worker.start()
    worker.join()
os._exit(0)
"""


def is_running(pid: int) -> bool:
    """Return whether there is such a process, or a zombie of one that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="asks /proc for a process")
@pytest.mark.parametrize("when", ["early", "late"])
def test_the_server_ends_with_the_run_also_while_it_imports(when: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _STARTS, when], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    children = [int(pid) for pid in run.stdout.split()]
    assert children
    end = time.monotonic() + 30
    while any(map(is_running, children)):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_worker_draws_a_page_without_a_search_for_garbage() -> None:
    table = "| a | b |\n|---|---|\n" + "| one | two |\n" * 12
    renderer = TextRenderer(system_fonts=False, markup="markdown")
    searches: list[str] = []
    before = gc.get_threshold()
    try:
        collect_seldom()
        gc.callbacks.append(lambda phase, info: searches.append(phase))
        pages = renderer(Document("tables", "\n\n".join([table] * 3)), np.random.default_rng(0))
        assert sum(len(line.words) for page in pages for line in page.lines) > 70
    finally:
        gc.callbacks.pop()
        gc.set_threshold(*before)
    assert not searches
