"""A stand-in for the Hub for one test file, and Python processes that talk to it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.hub_server import HubProcess

TOKEN = "hf_" + "q7Zk3VbN" * 4

#: Longest wait for a process, in seconds.
_LONGEST_S = 200
#: A process that has imported much and forks for each request, which so starts at once and with nothing of the others.
_FORKING = """
import gc, importlib, json, os, sys
gc.disable()
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.freeze()  # of no interest to a search for garbage, not even to that at the end of a process
gc.enable()
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
for line in sys.stdin:
    code, args, env, folder, files = json.loads(line)
    child = os.fork()
    if not child:
        for number, file in enumerate([os.devnull, *files]):
            os.dup2(os.open(file, os.O_RDWR), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["-c", *args]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def local_hub(folder: Path, *options: str, preload: tuple[str, ...] = ("deepsynth.hub",)) -> Iterator[HubProcess]:
    """Serve a Hub whose user alice has TOKEN; fail at the end when the token went where it must not.

    Args:
        folder: for its state and for the caches of those who talk to it.
        options: of the server.
        preload: modules that the code given to :func:`run_python` needs.
    """
    with HubProcess(folder / "state", 0, "--user", f"alice:{TOKEN}:write", *options) as hub:
        hub.home = folder / "home"
        hub.preload, hub.forking = preload, None
        try:
            yield hub
        finally:
            if hub.forking is not None:
                with hub.forking:
                    hub.forking.kill()
        assert hub.leaks() == []


def run_python(hub: HubProcess, code: str, *args: object, check: bool = True, token: str | None = TOKEN, **env: str):
    """Run code in a process of its own: huggingface_hub reads its settings when it is imported.

    Other settings than those of the Hub itself need a process that has imported nothing.
    """
    command = [sys.executable, "-c", code, *map(str, args)]
    settings = hub.env(hub.home, token=token, redirect=False, **env)
    if env:
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=_LONGEST_S)
    else:
        done = _forked(hub, command, settings)
    assert not check or done.returncode == 0, done.stderr
    return done


def _forked(hub: HubProcess, command: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if hub.forking is None:
        hub.forking = subprocess.Popen(
            [sys.executable, "-c", _FORKING, *hub.preload],
            env=hub.env(hub.home, token=None, redirect=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    files = [hub.home.with_name(f"{name}.txt") for name in ("stdout", "stderr")]
    for file in files:
        file.write_bytes(b"")
    hub.forking.stdin.write(json.dumps([command[2], command[3:], settings, os.getcwd(), list(map(str, files))]) + "\n")
    hub.forking.stdin.flush()
    if not select.select([hub.forking.stdout], [], [], _LONGEST_S)[0]:
        hub.forking.kill()
        raise subprocess.TimeoutExpired(command, _LONGEST_S)
    return subprocess.CompletedProcess(command, int(hub.forking.stdout.readline()), *(f.read_text() for f in files))
