"""Conversations in every spelling: prompts, answers, images, turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepsynth.data.scans import load_image
from deepsynth.data.sources.conversation_source import ConversationSource
from deepsynth.data.sources.conversations import Exchange, exchanges_of
from deepsynth.errors import UserError

datasets = pytest.importorskip("datasets")

USER = "<image>\nFree OCR."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two images, whose gray is their number."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        Image.new("L", (16, 16), number).save(folder / f"{number}.png")
    return folder


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def exchanges(row: dict[str, Any], last: bool = False) -> list[Exchange]:
    return list(exchanges_of(row, last=last))


OPENAI = {"messages": [{"role": "user", "content": USER}, {"role": "assistant", "content": "A"}], "images": ["0.png"]}
SHAREGPT = {"conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": "A"}], "images": ["0.png"]}
LLAVA = {"conversations": SHAREGPT["conversations"], "image": "0.png"}
SWIFT = {"query": USER, "response": "A", "images": ["0.png"]}
COLUMNS = {"messages": {"role": ["user", "assistant"], "content": [USER, "A"]}, "images": ["0.png"]}
PARTS = {
    "messages": [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Free OCR."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
    ],
    "images": ["0.png"],
}
INSIDE = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "0.png"}},
                {"type": "text", "text": "Free OCR."},
            ],
        },
        {"role": "assistant", "content": "A"},
    ]
}


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT, LLAVA, SWIFT, COLUMNS, PARTS, INSIDE])
def test_every_spelling_gives_the_same_sample(row: dict[str, Any], folder: Path) -> None:
    assert exchanges(row) == [Exchange(USER, ("0.png",), "A")]
    (document,) = ConversationSource(write(folder, row))
    assert (document.id, document.prompt, document.text) == ("0.png", USER, "A")
    assert document.image == folder / "0.png"
    assert document.task == "transcribe"


def test_turns_and_system_text(folder: Path) -> None:
    row = {
        "id": "x",
        "system": "Be exact.",
        "messages": [
            {"role": "user", "content": USER},
            {"role": "assistant", "content": "A"},
            {"role": "user", "content": "And <image>?"},
            {"role": "assistant", "content": "B"},
        ],
        "images": ["0.png", "1.png"],
    }
    first, second = exchanges(row)
    assert first == Exchange(f"Be exact.\n\n{USER}", ("0.png",), "A")
    assert second == Exchange(f"Be exact.\n\n{USER}\n\nA\n\nAnd <image>?", ("0.png", "1.png"), "B")
    assert exchanges(row, last=True) == [second]
    documents = list(ConversationSource(write(folder, row)))
    assert [document.id for document in documents] == ["x", "x~turn2"]
    assert [document.one_sample for document in documents] == [False, True]
    (only,) = ConversationSource(write(folder, row), turns="last")
    assert only.text == "B"
    unnamed = list(ConversationSource(write(folder, {**row, "id": None, "images": ["0.png", "1.png"]})))
    assert len({document.id for document in unnamed}) == 2


def test_answers_that_are_not_to_be_learned() -> None:
    messages = [*OPENAI["messages"], {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "B"}]
    for mark in ({"loss": False}, {"weight": 0}):
        marked = [messages[0], {**messages[1], **mark}, *messages[2:]]
        (kept,) = exchanges({"messages": marked, "images": ["0.png"]})
        assert (kept.answer, kept.prompt) == ("B", f"{USER}\n\nA\n\nSure?")
    history = {"query": "Sure?", "response": "B", "history": [[USER, "A"]], "images": ["0.png"]}
    assert exchanges(history)[-1] == kept


def test_without_places_the_images_come_first(folder: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Compare."}, OPENAI["messages"][1]], "images": ["0.png", "1.png"]}
    (document,) = ConversationSource(write(folder, row))
    assert document.prompt == "Compare."
    assert isinstance(document.image, tuple)


def test_a_question_without_an_answer_can_be_predicted(folder: Path) -> None:
    (document,) = ConversationSource(write(folder, {"messages": OPENAI["messages"][:1], "images": ["0.png"]}))
    assert not document.text_is_known
    assert document.prompt == USER


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [], "images": ["0.png"]}, "messages is empty; it must be a list of messages"),
        ({"messages": OPENAI["messages"]}, "no image; the fields found are 'messages'; a conversation needs"),
        ({**OPENAI, "images": ["0.png", "1.png"]}, "1 <image> places and 2 images; there must be as many"),
        ({**INSIDE, "images": ["0.png"]}, "images in the messages and in a column of their own"),
        ({"messages": [{"role": "tool", "content": "x"}], "images": ["0.png"]}, "message 1: the role is 'tool'"),
        ({"messages": [{"role": "user", "content": 3}], "images": ["0.png"]}, "message 1: the content is a int"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "message 1: a part of type 'audio'"),
        ({"text": "x", "image": "0.png"}, "no conversation; the fields found are 'text', 'image'"),
        ({**OPENAI, "images": ["https://example.org/0.png"]}, "is a remote image"),
        ({**OPENAI, "images": ["2.png"]}, "no file"),
    ],
)
def test_mistakes(row: dict[str, Any], message: str, folder: Path) -> None:
    path = write(folder, OPENAI, row)
    with pytest.raises(UserError) as caught:
        list(ConversationSource(path))
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_parquet_and_data_sets_of_the_library(folder: Path) -> None:
    content = (folder / "1.png").read_bytes()
    rows = [{**PARTS, "images": [{"bytes": content, "path": None}]}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    table = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    table.save_to_disk(str(folder / "saved"))
    for path in (folder / "rows.parquet", folder / "saved"):
        (document,) = ConversationSource(path)
        assert (document.prompt, document.text) == (USER, "A")
        assert load_image(document).getpixel((3, 3)) == (1, 1, 1)
