"""Several processes of one run, forked from the test: they need not import anything again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(number: int, folder: Path, function: Callable[..., Any], *args: Any, timeout_s: float = 240.0) -> list[Any]:
    """Return what ``function(*args)`` returned in each of ``number`` processes, which stand as torchrun's workers."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_work, args=(rank, number, port, folder, function, args), daemon=False)
        for rank in range(number)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout_s)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
    results = []
    errors = [file.read_text() for file in sorted(folder.glob("rank*.error"))]
    assert not errors, "\n".join(errors)
    for rank, worker in enumerate(workers):
        assert worker.exitcode == 0, f"rank {rank} ended with {worker.exitcode}"
        results.append(pickle.loads((folder / f"rank{rank}.result").read_bytes()))
    return results


def _work(rank: int, number: int, port: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    # After a fork torch makes its pool of threads anew, which several threads that load weights must not do at once.
    torch.set_num_threads(1)
    try:
        result = function(*args)
    except BaseException:
        (folder / f"rank{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
    (folder / f"rank{rank}.result").write_bytes(pickle.dumps(result))
