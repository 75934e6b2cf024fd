"""Rows that are no documents: each is named where it stands, the first is raised, or all are passed over and told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepsynth.data import (
    ConversationSource,
    CsvSource,
    DocumentSource,
    JsonlSource,
    MixedSource,
    ParquetSource,
    Source,
    TextFolderSource,
)
from deepsynth.data.sources.base import read_documents
from deepsynth.errors import UserError
from deepsynth.types import Document


def jsonl(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    """Return a source, the ids of its documents, and what is wrong by the end of the place."""
    lines = [
        '{"image": "1.png", "text": null}',
        '{"image": "0.png", "text": "one"}',
        '{"image": "0.png", "text": "again"}',
        "no json",
        '["a list"]',
        '{"image": "none.png", "text": "two"}',
        '{"image": "2.png", "text": 3}',
        '{"image": "2.png", "text": "three", "target": "t"}',
        '{"image": "https://example.org/1.png", "text": "four"}',
        '{"image": "1.png", "text": "five"}',
    ]
    (folder / "rows.jsonl").write_bytes(b"\n".join(line.encode() for line in lines) + b'\n{"text": "\xff"}\n')
    wrong = {
        "line 1": "the text of scan '1.png' is unknown or empty",
        "line 3": "the same document as ",
        "line 4": "not JSON: Expecting value",
        "line 5": "a JSON list; it must be an object",
        "line 6": "no file ",
        "line 7": "text is of type int; it must be a text",
        "line 8": "has a target (field 'target'), and ",
        "line 9": "https://example.org/1.png is a remote image",
        "line 11": "byte 0xff at offset ",
    }
    return JsonlSource(folder / "rows.jsonl"), ["0.png", "1.png"], wrong


def csv(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    (folder / "rows.csv").write_text('id,text\na,one\nb,"two",more\na,three\nc,\nd,"four\nlines"\n')
    wrong = {
        "line 3": "3 fields, and line 1 names 2",
        "line 4": "the id 'a' is already that of ",
        "line 5": "the field 'text' has no printable character",
    }
    return CsvSource(folder / "rows.csv"), ["a", "d"], wrong


def parquet(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": ["a", "b", "a", "c"], "text": [None, "two", "three", "four"]})
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    wrong = {"row 1": "the field 'text' has no printable character"}
    return ParquetSource(folder / "rows.parquet"), ["b", "a", "c"], wrong


def conversations(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    def row(**fields: Any) -> str:
        said = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}]
        return json.dumps({"messages": said, "images": ["0.png"], "id": "a", **fields})

    lines = (row(messages=[]), row(), "{", row(id="b", images=["0.png"] * 2))
    (folder / "chat.jsonl").write_text("".join(f"{line}\n" for line in lines))
    wrong = {"line 1": "messages is empty", "line 3": "not JSON", "line 4": "1 <image> places and 2 images"}
    return ConversationSource(folder / "chat.jsonl"), ["a"], wrong


def scans(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    (folder / "0.txt").write_text("known")
    (folder / "1.xml").write_text("<PcGts><Page></PcGts>")
    wrong = {"1.png": "not XML", "2.png": "the text of scan '2.png' is unknown or empty"}
    return DocumentSource(folder), ["0.png"], wrong


def table(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    (folder / "table.csv").write_text("file,text\n0.png\n1.png,one\n2.png,two,more\n0.png,zero\n")
    wrong = {"line 2": "1 fields, and line 1 names 2", "line 4": "3 fields"}
    return DocumentSource(folder), ["1.png", "0.png"], wrong


def texts(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    for name, content in (("a.txt", b" \n"), ("b.txt", b"text"), ("c.txt", b"\xff")):
        (folder / name).write_bytes(content)
    return TextFolderSource(folder), ["b.txt"], {"a.txt": "no printable character", "c.txt": "not UTF-8"}


def mix(folder: Path) -> tuple[Source, list[str], dict[str, str]]:
    source, _, wrong = csv(folder)
    return MixedSource({"s": source}, epoch_size=4), ["s/a", "s/d", "s/a~2", "s/d~2"], wrong


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.new("L", (20, 20), 40 * number).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("make", [jsonl, csv, parquet, conversations, scans, table, texts, mix])
def test_every_mistake_is_named_where_it_stands(
    make: Callable[[Path], tuple[Source, list[str], dict[str, str]]], folder: Path
) -> None:
    source, ids, wrong = make(folder)
    told: list[tuple[str, str]] = []
    documents = read_documents(source, need_text=True, skip=lambda place, error: told.append((place, str(error))))
    assert [document.id for document in documents] == ids
    assert len(told) == len(wrong)
    for place, message in told:
        end = next(end for end in wrong if place.endswith(end))
        assert message.startswith((place, f"{folder / '1.xml'}: "))
        assert wrong.pop(end) in message
    with pytest.raises(UserError) as raised:
        read_documents(source, need_text=True)
    assert str(raised.value) in [message for _, message in told]


def test_a_source_in_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="holds no document that can be used"):
        read_documents(JsonlSource(tmp_path / "a.jsonl"), need_text=True, skip=lambda place, error: None)


def test_a_subclass_may_choose_documents_by_iterating(folder: Path) -> None:
    class Chosen(JsonlSource):
        def __iter__(self) -> Iterator[Document]:
            return (document for document in super().__iter__() if document.id != "a")

    (folder / "a.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    assert [document.id for document in read_documents(Chosen(folder / "a.jsonl"), need_text=True)] == ["b"]


def test_scans_with_and_without_texts_can_be_predicted_together(folder: Path) -> None:
    (folder / "1.txt").write_text("known")
    documents = read_documents(DocumentSource(folder), need_text=False)
    assert [document.text for document in documents] == ["", "known", ""]
