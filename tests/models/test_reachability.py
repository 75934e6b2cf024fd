"""A model's name without a network: one line, or the files that were downloaded before, within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.local_hub import local_hub

LOAD = """
import sys, time
from pathlib import Path
from transformers import AutoConfig
from deepsynth.models.registry import load_pretrained

def load():
    started = time.monotonic()
    try:
        print(type(load_pretrained(AutoConfig, "alice/model")).__name__)
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
    print(time.monotonic() - started)

load()
if len(sys.argv) > 1:  # a configuration where huggingface_hub keeps its downloads
    folder = Path(sys.argv[1], "hub/models--alice--model")
    (folder / "snapshots/0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0123")
    (folder / "snapshots/0123/config.json").write_text('{"model_type": "deepseek_ocr2"}')
    load()
"""


def load(endpoint: str, home: Path, *cached: str) -> list[tuple[str, float]]:
    """Return what loading alice/model printed, and how many seconds it took: once, and with it in the cache."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", LOAD, *cached]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    return [(said, float(seconds)) for said, seconds in zip(lines[::2], lines[1::2], strict=True)]


def test_a_refused_connection_is_one_line_or_the_cache(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        (missing, seconds), (found, cached_seconds) = load(endpoint, tmp_path, str(tmp_path))
    assert missing.startswith("UserError: model_name is 'alice/model', which was not downloaded before, and the Hub")
    assert found == "DeepseekOcr2Config"
    assert max(seconds, cached_seconds) < 10


@pytest.mark.slow
def test_a_hub_that_is_silent_and_a_page_in_between(tmp_path: Path) -> None:
    with local_hub(tmp_path) as hub:
        hub.fault(path="/api/models", action="hang", seconds=60, times=-1)
        ((said, seconds),) = load(hub.url, tmp_path / "silent")
        assert "the Hub does not answer (" in said
        assert seconds < 10
        hub.clear_faults()
        hub.fault(path="/api/models", status=200, body="<html>log in to this network</html>", times=-1)
        ((said, seconds),) = load(hub.url, tmp_path / "portal")
        assert "its reply is not JSON" in said
        assert seconds < 10
        hub.clear_faults()
        ((said, _),) = load(hub.url, tmp_path / "missing")
        assert said.startswith("UserError: model_name 'alice/model' cannot be loaded: alice/model is not a local")


@pytest.mark.slow
def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    started = time.monotonic()
    ((said, seconds),) = load("http://no-such-host.invalid", tmp_path)
    assert "the Hub does not answer (" in said
    assert seconds < 10, time.monotonic() - started
