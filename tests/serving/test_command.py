"""``deepsynth serve`` in processes of its own, as users start it."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.service import TEXT, page

pytestmark = pytest.mark.slow  # it imports torch in two processes

URL = "data:image/png;base64," + base64.b64encode(page()).decode()
MESSAGES: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    (tmp_path / "key").write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--model_name", "deepsynth/tiny", "--port", str(port), "--api_key_file", str(tmp_path / "key")]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepsynth", "serve", *options, "--slots", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{url}/health").close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < end, process.communicate()[0]  # noqa: PT018
            time.sleep(0.2)
    yield process, url
    process.kill()
    process.wait()


def test_the_official_client_a_key_and_an_end_that_answers_what_is_under_way(
    service: tuple[subprocess.Popen[str], str],
) -> None:
    import openai

    process, url = service
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
    assert client.chat.completions.create(model="tiny", messages=MESSAGES).choices[0].message.content == TEXT
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0).models.list()
    for path in ("/metrics", "/info", "/"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url + path)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/openapi.json")
    # Three texts, two rows: the last one begins when the service is already asked to end.
    found: list[str | None] = []

    def ask() -> None:
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        found.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    output, _ = process.communicate(timeout=60)
    assert found == [TEXT] * 3, output
    assert process.returncode == 0, output
    assert output.splitlines()[0].startswith("serving tiny on cpu at ")
    # Nothing that no user can act on: warnings of libraries, what is trainable.
    assert re.sub(r"\[[^]]*\]", "", output).splitlines()[1:] == ["deepsynth/tiny: 7,463,504 parameters in float32"]
