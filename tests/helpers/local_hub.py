"""A stand-in for the Hub for one test file, and Python processes that talk to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.hub_server import HubProcess

TOKEN = "hf_" + "q7Zk3VbN" * 4


@contextmanager
def local_hub(folder: Path, *options: str) -> Iterator[HubProcess]:
    """Serve a Hub whose user alice has TOKEN; fail at the end when the token went where it must not."""
    with HubProcess(folder / "state", 0, "--user", f"alice:{TOKEN}:write", *options) as hub:
        hub.home = folder / "home"
        yield hub
        assert hub.leaks() == []


def run_python(hub: HubProcess, code: str, *args: object, check: bool = True, token: str | None = TOKEN, **env: str):
    """Run code in a process of its own: huggingface_hub reads its settings when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=hub.env(hub.home, token=token, redirect=False, **env),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
