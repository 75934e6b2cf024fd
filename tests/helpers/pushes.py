"""What tests of the push worker share: snapshots, what the Hub has of them, and attempts that start quickly."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.forkserver
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepsynth.hub.client import Outcome
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import Backoff
from tests.helpers.hub_server import HubProcess
from tests.helpers.local_hub import TOKEN

QUICK = Backoff(first_s=0.05, longest_s=0.2)


def use_hub(hub: HubProcess, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN, xet: bool | None = None):
    """Point this process, and what it starts, at the stand-in."""
    env = hub.env(hub.home, token=token, xet=xet, redirect=False)
    for key in set(os.environ) - set(env):
        monkeypatch.delenv(key)
    for key, value in env.items():
        monkeypatch.setenv(key, value)


def add_snapshot(spool: Spool, target: Target, step: int = 1, tag: str | None = None, size: int = 200_000) -> Snapshot:
    staged = spool.stage()
    (staged / "adapter_model.safetensors").write_bytes(f"step {step} ".encode() + os.urandom(size))
    (staged / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "step": step}))
    (staged / "README.md").write_text(f"---\nlibrary_name: peft\n---\nStep {step}\n")
    return spool.seal(staged, target, f"step {step}", tag=tag)


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: snapshot.path(name).read_bytes() for name in snapshot.files}


def titles(hub: HubProcess, target: Target, revision: str | None = None) -> list[str]:
    found = hub.repo(target.repo_id).commits(revision or target.revision)
    return [commit["title"] for commit in found][:-1]  # without the Hub's own first commit


def on_hub(hub: HubProcess, target: Target, revision: str | None = None) -> dict[str, bytes]:
    repo, revision = hub.repo(target.repo_id), revision or target.revision
    return {name: repo.read(name, revision) for name in repo.files(revision)}


class WarmAttempts:
    """Attempts in processes that are forked from one with huggingface_hub imported: ten times cheaper to start.

    Args:
        environment: of an attempt, by the repository that it pushes to; by default that of this process.
    """

    def __init__(self, environment: Callable[[str], dict[str, str]] | None = None) -> None:
        self.environment = environment or (lambda repo_id: dict(os.environ))
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["huggingface_hub.hf_api", "hf_xet", "deepsynth.hub.commit", __name__])
        with pytest.MonkeyPatch.context() as patch:  # Python 3.11 does not tell the fork server where modules are
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            multiprocessing.forkserver.ensure_running()

    def __call__(self, snapshot, *, request_timeout_s, use_xet, canceled) -> Outcome:
        environ = self.environment(snapshot.target.repo_id)
        receiver, sender = self.context.Pipe(duplex=False)
        xet = use_xet and "HF_HUB_DISABLE_XET" not in environ
        # The fork server keeps the environment, and the Hub, that it was started with.
        job = (sender, snapshot.folder, request_timeout_s, xet, environ)
        process = self.context.Process(target=attempt_in_child, args=job)
        process.start()
        sender.close()
        try:
            while not receiver.poll(0.05):
                if canceled():
                    return Outcome("retry", "the Hub did not finish in time")
            return receiver.recv()
        except EOFError:
            return Outcome("retry", "the push broke off")
        finally:
            process.kill()
            process.join()


def attempt_in_child(sender, folder: Path, request_timeout_s: float, xet: bool, environ: dict[str, str]) -> None:
    from huggingface_hub import constants

    from deepsynth.hub.client import use_timeouts
    from deepsynth.hub.commit import push_once

    os.environ.clear()
    os.environ.update(environ)
    constants.ENDPOINT = environ["HF_ENDPOINT"]
    constants.HF_HUB_OFFLINE = False
    ssl.create_default_context = lambda *args, **kwargs: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no roots to parse
    constants.HF_HUB_DISABLE_XET = not xet
    os.environ.update(HF_XET_CLIENT_READ_TIMEOUT="3s", HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="2")
    os.environ.update(HF_XET_CLIENT_RETRY_BASE_DELAY="1s")
    use_timeouts(request_timeout_s)
    sender.send(push_once(Snapshot.load(folder)))
