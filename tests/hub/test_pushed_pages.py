"""Rendered pages to the Hub and back: resumable, nothing twice, private."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest

from tests.helpers.local_hub import local_hub, run_python

PUSH = """
import json, sys
from pathlib import Path
from PIL import Image
from deepsynth.hub.data import Delivery, push_data
from deepsynth.hub.snapshot import Target
from deepsynth.hub.worker import Backoff
from deepsynth.types import Document, Page

repo, work, first, count, seed, deadline = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:7])
rendered = []

def render(document):
    rendered.append(document.id)
    shade = int(document.id[1:])
    texts = document.text.split("|")
    return [Page(Image.new("RGB", (64, 48), (shade, n, seed)), text, number=n) for n, text in enumerate(texts)]

documents = [Document(f"d{i}", f"page one of {i}|page two", language="en", source="test") for i in range(first, count)]
try:
    pushed = push_data(
        documents, render, Target(repo, repo_type="dataset"), work, recipe={"seed": seed, "font": "/x/y.ttf"},
        documents_per_shard=3, delivery=Delivery(deadline, Backoff(0.05, 0.2)),
    )
    print(json.dumps({"pushed": pushed, "rendered": rendered}))
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
READ = """
import json, sys
from deepsynth.data.sources.hub import HubSource
from deepsynth.data.scans import load_image
rows = [(d.id, d.text, d.language, d.source, load_image(d).getpixel((5, 5))) for d in HubSource(sys.argv[1])]
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with local_hub(tmp_path_factory.mktemp("hub")) as process:
        yield process


@pytest.fixture(autouse=True)
def no_faults(hub):
    hub.clear_faults()


def push(hub, repo, work, first=0, count=8, seed=7, deadline=60, check=True):
    done = run_python(hub, PUSH, repo, work, first, count, seed, deadline, check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def ids(hub, repo) -> list[str]:
    stored = hub.repo(repo, "dataset")
    shards = [name for name in stored.files() if name.endswith(".parquet")]
    return [row for name in shards for row in pq.read_table(io.BytesIO(stored.read(name)))["id"].to_pylist()]


def test_pages_come_back_as_they_were_rendered(hub, tmp_path):
    done = push(hub, "alice/pages", tmp_path)
    assert len(done["pushed"]) == 3
    stored = hub.repo("alice/pages", "dataset")
    assert stored.meta["private"]
    assert "y.ttf" in stored.read("README.md").decode()
    assert "/x/" not in stored.read("README.md").decode()
    assert [c["title"] for c in stored.commits()][:-1] == [
        "train shard 2: 4 pages",
        "train shard 1: 6 pages",
        "train shard 0: 6 pages",
    ]
    rows = json.loads(run_python(hub, READ, "alice/pages").stdout)
    texts = {(i, n): "page two" if n else f"page one of {i}" for i in range(8) for n in (0, 1)}
    assert rows == [[f"d{i}#{n}", text, "en", "test", [i, n, 7]] for (i, n), text in texts.items()]


def test_what_is_there_is_neither_sent_nor_rendered_again(hub, tmp_path):
    push(hub, "alice/again", tmp_path, count=2)
    before = hub.mark()
    assert push(hub, "alice/again", tmp_path, count=2) == {"pushed": [], "rendered": []}
    assert hub.uploads(since=before) == []


@pytest.mark.slow
def test_a_changed_source_replaces_what_changed(hub, tmp_path):
    first = push(hub, "alice/grows", tmp_path, count=8)["pushed"]
    grown = push(hub, "alice/grows", tmp_path, count=10)
    assert len(grown["pushed"]) == 2, "the last shard was not full"
    assert grown["rendered"] == ["d6", "d7", "d8", "d9"]
    assert ids(hub, "alice/grows") == [f"d{i}#{n}" for i in range(10) for n in (0, 1)]
    push(hub, "alice/grows", tmp_path, count=3)
    assert ids(hub, "alice/grows") == [f"d{i}#{n}" for i in range(3) for n in (0, 1)]
    assert len(push(hub, "alice/grows", tmp_path, count=3, seed=8)["pushed"]) == 1
    assert first[0] not in hub.repo("alice/grows", "dataset").files()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/commit/", "action": "drop", "when": "after", "skip": 1},
        {"path": "/preupload/", "status": 400, "skip": 1},
        {"path": "/commit/", "action": "hang", "seconds": 600, "times": -1, "skip": 1},
    ],
    ids=["lost reply", "refused", "hangs"],
)
def test_what_broke_off_goes_on_where_it_stopped(hub, tmp_path, fault, request):
    repo = f"alice/{request.node.callspec.id.replace(' ', '-')}"
    hub.fault(**fault)
    first = push(hub, repo, tmp_path, deadline=4, check=False)
    hub.clear_faults()
    if isinstance(first, str):
        assert first.strip().splitlines()[-1].startswith("HubUnreachableError: train shard 1: 6 pages: not delivered")
        assert push(hub, repo, tmp_path)["rendered"] == ["d3", "d4", "d5", "d6", "d7"]
    hub.wait_idle(quiet=0.1)
    assert ids(hub, repo) == [f"d{i}#{n}" for i in range(8) for n in (0, 1)]
    assert sum(c["title"].startswith("train shard") for c in hub.repo(repo, "dataset").commits()) == 3
