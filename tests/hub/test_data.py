"""Which shards a push of pages makes, replaces and removes, with a Hub that is a dictionary."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from PIL import Image

from deepsynth.errors import UserError
from deepsynth.hub.client import HubUnreachableError, Outcome
from deepsynth.hub.data import Delivery, push_data
from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import Backoff
from deepsynth.types import Document, Page

TARGET = Target("alice/pages", "trained", repo_type="dataset")


class Hub:
    """Takes the place of the Hub and of the worker that pushes to it: what was delivered is there at once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[tuple[str, list[str], list[str]]] = []
        self.error: Exception | None = None
        self.last_outcome: Outcome | None = None
        self.delivers = True
        self.waits: list[Any] = []

    def repo_info(self, repo_id: str, *, repo_type: str, revision: str, timeout: float) -> Any:
        assert (repo_id, repo_type, revision) == (TARGET.repo_id, "dataset", "trained")
        assert 1 < timeout < 60
        if self.error is not None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def worker(self, spool: Spool, *, backoff: Backoff) -> Hub:
        self.spool, self.waits = spool, [backoff]
        return self

    def close(self, deadline_s: float) -> bool:
        self.waits.append(deadline_s)
        for snapshot in self.spool.pending() if self.delivers else ():
            added = {name: snapshot.path(name).read_bytes() for name in snapshot.files}
            self.commits.append((snapshot.message, sorted(added), list(snapshot.delete)))
            self.files |= added
            for name in snapshot.delete:
                del self.files[name]
            self.spool.remove(snapshot)
        return self.delivers

    @property
    def shards(self) -> list[str]:
        return sorted(name for name in self.files if name.endswith(".parquet"))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return pq.read_table(io.BytesIO(self.files[name])).to_pylist()

    @property
    def card(self) -> tuple[dict[str, Any], str]:
        _, front, body = self.files["README.md"].decode().split("---\n", 2)
        return yaml.safe_load(front), body


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **settings: hub)
    monkeypatch.setattr("deepsynth.hub.data.PushWorker", hub.worker)
    return hub


def documents(count: int) -> list[Document]:
    return [Document(f"d{i}", f"text {i}", language="en", source="test") for i in range(count)]


def render(document: Document) -> list[Page]:
    """Return a page for each word, as dark as it is long."""
    words = document.text.split()
    return [Page(Image.new("RGB", (2, 1), (len(word),) * 3), word, number=n) for n, word in enumerate(words)]


def push(tmp_path: Path, made: list[Document], **settings: Any) -> list[str]:
    return push_data(made, render, TARGET, tmp_path, **{"documents_per_shard": 2, **settings})


def test_rows_say_what_each_page_shows_and_where_it_belongs(hub: Hub, tmp_path: Path) -> None:
    made = [Document("a", "one two", language="en", source="s"), Document("b", "three", "target", language="de")]
    (name,) = push(tmp_path, made)
    assert hub.shards == [name]
    rows = hub.rows(name)
    shades = [Image.open(io.BytesIO(row.pop("image")["bytes"])).getpixel((0, 0)) for row in rows]
    assert shades == [(3, 3, 3), (3, 3, 3), (5, 5, 5)]
    first = {"target": None, "language": "en", "source": "s", "document_id": "a"}
    assert rows == [
        {"id": "a#0", "text": "one", "page": 0, **first},
        {"id": "a#1", "text": "two", "page": 1, **first},
        {"id": "b", "text": "three", "page": 0}
        | {"target": "target", "language": "de", "source": None, "document_id": "b"},
    ]
    assert hub.commits == [("train shard 0: 3 pages", ["README.md", name], [])]


def test_readers_need_not_load_a_whole_shard_for_a_page(hub: Hub, tmp_path: Path) -> None:
    (name,) = push(tmp_path, [Document("a", "x " * 101)])
    file = pq.ParquetFile(io.BytesIO(hub.files[name]))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [100, 1]
    assert '"Image"' in str(file.schema_arrow.metadata[b"huggingface"]), "the library shows the column as images"


CHANGES: dict[str, Any] = {
    "id": "e",
    "text": "another",
    "target": "another",
    "language": "fa",
    "source": "another",
    "image": Path("another.png"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_shard_is_made_again_when_any_part_of_a_document_changes(field: str, hub: Hub, tmp_path: Path) -> None:
    document = Document("d", "text", "target", Path("scan.png"), "en", "test")
    (before,) = push(tmp_path, [document])
    assert push(tmp_path, [dataclasses.replace(document)]) == []
    (after,) = push(tmp_path, [dataclasses.replace(document, **{field: CHANGES[field]})])
    assert hub.shards == [after]
    assert before != after
    assert hub.commits[-1][2] == [before], "replaced in the same commit"


@pytest.mark.parametrize(
    ("recipe", "again"),
    [
        ({"seed": 1, "font": "/x/y.ttf"}, False),
        ({"font": "/elsewhere/y.ttf", "seed": 1}, False),
        ({"seed": 2, "font": "/x/y.ttf"}, True),
        ({"seed": 1, "font": "/x/z.ttf"}, True),
        ({"seed": 1}, True),
        (None, True),
    ],
)
def test_a_shard_is_made_again_when_its_recipe_changes(recipe: Any, again: bool, hub: Hub, tmp_path: Path) -> None:
    first = push(tmp_path, documents(3), recipe={"seed": 1, "font": "/x/y.ttf"})
    assert len(first) == 2
    second = push(tmp_path, documents(3), recipe=recipe)
    assert len(second) == (2 if again else 0)
    assert hub.shards == (second or first)


def test_only_what_changed_is_rendered_and_only_its_place_is_taken(hub: Hub, tmp_path: Path) -> None:
    first = push(tmp_path, documents(12), documents_per_shard=1)
    other = push(tmp_path, documents(2), split="validation", documents_per_shard=1)
    assert [name.rpartition("-")[0] for name in first] == [f"data/train-{i:05d}" for i in range(12)]
    assert [name.rpartition("-")[0] for name in other] == [f"data/validation-{i:05d}" for i in range(2)]
    rendered: list[str] = []

    def noted(document: Document) -> list[Page]:
        rendered.append(document.id)
        return render(document)

    changed = documents(12)
    changed[1] = Document("d1", "another text")
    (second,) = push_data(changed, noted, TARGET, tmp_path, documents_per_shard=1)
    assert rendered == ["d1"]
    assert hub.shards == sorted({*first, *other, second} - {first[1]})


def test_shards_that_the_source_has_no_more_are_removed_from_its_split_alone(hub: Hub, tmp_path: Path) -> None:
    first = push(tmp_path, documents(5))
    other = push(tmp_path, documents(5), split="test")
    hub.files["data/notes.txt"] = b""
    assert push(tmp_path, documents(2), delivery=Delivery(part=(1, 2))) == []
    assert hub.shards == sorted([*first, *other]), "another process does that"
    assert push(tmp_path, documents(2)) == []
    assert hub.shards == sorted([first[0], *other])
    assert hub.commits[-1] == ("remove 2 train shards", ["README.md"], first[1:])
    assert "data/notes.txt" in hub.files


@pytest.mark.parametrize(("part", "expected"), [((0, 1), [0, 1, 2, 3, 4]), ((0, 2), [0, 2, 4]), ((1, 3), [1, 4])])
def test_each_of_several_processes_has_every_nth_shard(
    part: tuple[int, int], expected: list[int], hub: Hub, tmp_path: Path
) -> None:
    pushed = push(tmp_path, documents(9), delivery=Delivery(part=part))
    assert [int(name.split("-")[1]) for name in pushed] == expected


def test_the_card_lists_all_splits_and_the_recipe_that_was_used(hub: Hub, tmp_path: Path) -> None:
    push(tmp_path, documents(1), split="validation")
    push(tmp_path, documents(1), recipe={"seed": 0, "font": "/home/me/y.ttf", "unset": None})
    front, body = hub.card
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in ("train", "validation")],
        }
    ]
    assert front["task_categories"] == ["image-to-text"]
    assert set(front["tags"]) == {"ocr", "deepsynth"}
    assert body.strip().splitlines()[0] == "# pages"
    assert [line for line in body.splitlines() if line.startswith("-")] == ["- seed: 0", "- font: y.ttf"]
    push(tmp_path, documents(1), recipe={"unset": None})
    assert "Recipe" not in hub.card[1]


def test_a_shard_that_is_not_delivered_is_an_error_that_says_why(hub: Hub, tmp_path: Path) -> None:
    push(tmp_path, documents(1))
    assert hub.waits == [Backoff(), 1800.0]
    hub.delivers = False
    delivery = Delivery(7.0, Backoff(1.0, 2.0))
    for outcome, reason in ((None, "no attempt ended"), (Outcome("retry", "HTTP 503"), "HTTP 503")):
        hub.last_outcome = outcome
        with pytest.raises(
            HubUnreachableError, match=rf"^train shard 0: 4 pages: not delivered \({reason}\); the same"
        ):
            push(tmp_path, documents(2), delivery=delivery)
    assert hub.waits == [Backoff(1.0, 2.0), 7.0]


@pytest.mark.parametrize(
    ("error", "status", "refused"),
    [
        (RepositoryNotFoundError, 404, False),
        (RevisionNotFoundError, 404, False),
        (RepositoryNotFoundError, 401, True),  # what nobody without a token may see
    ],
)
def test_a_repository_that_is_not_there_yet_has_no_shards(
    error: Any, status: int, refused: bool, hub: Hub, tmp_path: Path
) -> None:
    hub.error = error("none", response=SimpleNamespace(status_code=status, headers={}, request=None))
    if refused:
        with pytest.raises(UserError, match=r"^alice/pages: it cannot be read \(HTTP 401: .* \(log in with"):
            push(tmp_path, documents(1))
    else:
        assert len(push(tmp_path, documents(1))) == 1


@pytest.mark.parametrize(
    ("made", "settings", "message"),
    [
        ([], {"split": "a b"}, "split is 'a b'; it must be a word"),
        ([], {"split": ""}, "split is ''; it must be a word"),
        ([], {"split": "1st"}, "split is '1st'; it must be a word"),
        ([], {"documents_per_shard": 0}, "documents_per_shard is 0; it must be at least 1"),
        ([], {}, "data.source has no documents; there is nothing to push"),
        ([Document("d", "two pages", "target")], {}, "document 'd' has a target and 2 pages, but a row"),
    ],
)
def test_mistakes_are_one_line(made: Any, settings: Any, message: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        push(tmp_path, made, **settings)
    assert hub.commits == []


def test_one_document_may_be_a_shard(hub: Hub, tmp_path: Path) -> None:
    assert len(push(tmp_path, documents(2), documents_per_shard=1, split="a_1")) == 2


def test_five_hundred_documents_are_a_shard(hub: Hub, tmp_path: Path) -> None:
    made = [Document(f"d{i}", "") for i in range(501)]  # without a page, so that nothing is drawn
    made[0] = Document("d0", "a")
    made[500] = Document("d500", "a")
    push_data(made, render, TARGET, tmp_path)
    assert [message for message, _, _ in hub.commits] == ["train shard 0: 1 page", "train shard 1: 1 page"]
