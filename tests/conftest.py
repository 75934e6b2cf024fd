"""What several test files share: a small text file, a module and data that train in seconds."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# No test may reach a network; a forgotten download fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Small models gain nothing from threads, and threads that wait for each other burn the cores of a busy machine. The
# processes that tests start take it from the environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background job of a shell ignores Ctrl-C, and so does whatever it starts; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs.",
    "How vexingly quick daft zebras jump!",
    "Sphinx of black quartz, judge my vow.",
    "The five boxing wizards jump quickly.",
    "Jackdaws love my big sphinx of quartz.",
    "Waltz, bad nymph, for quick jigs vex.",
    "Glib jocks quiz nymph to vex dwarf.",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import and collect without searches for garbage, and keep what is there then out of all later ones.

    The tests took nearly twice as long when each search went through all libraries.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000)


def pytest_unconfigure() -> None:
    """Leave what there is to the end of the process: a search for garbage takes it a second."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Begin each test with one thread, whatever the one before it has set."""
    import torch  # not where tests are only handed out

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _lightning_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests see what Lightning logs: it keeps that to itself when it is imported before pytest listens.

    An older pytest begins to listen after the ``conftest.py`` of the folders that it is called with.
    """
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture(autouse=True)
def _quiet_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns when pytest's own arguments stand in sys.argv."""
    monkeypatch.setattr("sys.argv", ["deepsynth"])


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Eight short English documents without targets."""
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def summaries(tmp_path: Path) -> Path:
    """Eight documents with targets."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"id": f"d{i}", "text": text, "target": text.split()[0]} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def steady_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let measured generation take 100 ms and 10 ms a token: the real times of a tiny model are noise."""
    from deepsynth.measurement import generation

    generate = generation.timed_generation

    def steady(harness: Any, work: Any, index: int, new_tokens: int) -> tuple[float, Any]:
        _, generations = generate(harness, work, index, new_tokens)
        return 0.1 + 0.01 * new_tokens, generations

    monkeypatch.setattr(generation, "timed_generation", steady)
