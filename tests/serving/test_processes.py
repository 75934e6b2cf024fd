"""Pages that other processes prepare: the same samples and refusals, and what becomes of processes that die."""

from __future__ import annotations

import io
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import torch
from PIL import Image

from deepsynth.serving.jobs import Job, Limits, RequestError
from deepsynth.serving.models import ModelSettings, ServedModel, processor_of
from deepsynth.serving.preparation import Preparation
from deepsynth.serving.processes import PreparationProcesses
from tests.helpers.service import page

SETTINGS = ModelSettings((ServedModel("tiny", None, "deepsynth/tiny", max_new_tokens=64),), slots=2)
LIMITS = Limits(max_pixels=256 * 256)


@pytest.fixture(scope="module")
def processes() -> Iterator[PreparationProcesses]:
    found = PreparationProcesses(SETTINGS, LIMITS, 1)
    yield found
    found.close()


def test_samples_and_refusals_are_those_of_a_thread(processes: PreparationProcesses) -> None:
    here = Preparation(processor_of(SETTINGS), LIMITS)
    pages = (page(), page("second", (200, 120)))
    for job, index in ((Job("tiny", pages), 1), (Job("tiny", pages, together=True), 0)):
        found, wanted = processes(job, "<image>\nRead.", index), here(job, "<image>\nRead.", index)
        assert found.pages == wanted.pages
        for name in wanted.sample.__dataclass_fields__:
            ours, theirs = getattr(found.sample, name), getattr(wanted.sample, name)
            ours, theirs = (value if isinstance(value, dict) else {"": value} for value in (ours, theirs))
            assert ours.keys() == theirs.keys()
            for key in theirs:
                if isinstance(theirs[key], torch.Tensor):
                    assert ours[key].dtype == theirs[key].dtype, name
                    assert torch.equal(ours[key], theirs[key]), name
                else:
                    assert ours[key] == theirs[key], name
    large = io.BytesIO()
    Image.new("RGB", (257, 256)).save(large, "PNG")
    for content, status in ((large.getvalue(), 413), (b"no image", 422)):
        with pytest.raises(RequestError) as refused:
            processes(Job("tiny", (content,)), None, 0)
        with pytest.raises(RequestError) as wanted_refusal:
            here(Job("tiny", (content,)), None, 0)
        assert (refused.value.status, refused.value.message) == (status, wanted_refusal.value.message)


def test_a_process_that_dies_is_replaced(processes: PreparationProcesses) -> None:
    job = Job("tiny", (page(),))
    before = processes(job, None, 0)
    ours = _children()
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(RequestError) as died:
        processes(job, None, 0)
    assert died.value.status == 503
    again = processes(job, None, 0)
    assert torch.equal(again.sample.input_ids, before.sample.input_ids)
    assert len(_children() - ours) == 1


def _children() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}


def test_processes_end_with_the_service() -> None:
    before = _children()
    made = PreparationProcesses(SETTINGS, LIMITS, 2)
    made(Job("tiny", (page(),)), None, 0)
    own = _children() - before
    assert len(own) == 2
    made.close()
    assert not own & _children()


@pytest.mark.slow
def test_processes_end_with_a_service_that_is_killed() -> None:
    program = """
import multiprocessing, sys
from deepsynth.serving.jobs import Job, Limits
from deepsynth.serving.models import ModelSettings, ServedModel
from deepsynth.serving.processes import PreparationProcesses

if __name__ == "__main__":
    settings = ModelSettings((ServedModel("tiny", None, "deepsynth/tiny"),), slots=2)
    made = PreparationProcesses(settings, Limits(), 2)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        own = [psutil.Process(int(pid)) for pid in service.stdout.readline().split()]
        assert len(own) == 2
        service.kill()
    gone, alive = psutil.wait_procs(own, timeout=60)
    assert len(gone) == 2
    assert not alive
