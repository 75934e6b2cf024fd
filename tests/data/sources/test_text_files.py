"""Documents from files of text, and the one line that each mistake gives."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from deepsynth.data.sources import row_files
from deepsynth.data.sources.base import Source, has_printable, text_id
from deepsynth.data.sources.python_docs import PythonDocsSource
from deepsynth.data.sources.rows import RowSource
from deepsynth.data.sources.text_files import CsvSource, JsonlSource, ParquetSource, TextFolderSource
from deepsynth.types import Document
from tests.helpers.sources import error_of

Row = dict[str, Any]
ROWS: list[Row] = [
    {"id": "a", "text": "First text", "target": "One", "language": "en", "source": "s"},
    {"id": "b", "text": "Zweiter „Text“,\nzwei Zeilen", "target": "Zwei", "language": "de", "source": "s"},
]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[Row]) -> Path:
    """Write rows as CSV with every value quoted."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = (",".join('"' + str(value or "").replace('"', '""') + '"' for value in line) for line in lines)
    path.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    """Write rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


FORMATS: list[tuple[type[RowSource], str, Callable[[Path, list[Row]], Path]]] = [
    (JsonlSource, "rows.jsonl", write_jsonl),
    (CsvSource, "rows.csv", write_csv),
    (ParquetSource, "rows.parquet", write_parquet),
]
each_format = pytest.mark.parametrize(("source", "name", "write"), FORMATS, ids=["jsonl", "csv", "parquet"])


@each_format
def test_rows_become_documents_each_time(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    documents = source(write(tmp_path / name, ROWS))
    expected = [Document(**row) for row in ROWS]
    assert list(documents) == expected
    assert list(documents) == expected
    assert [document.task for document in documents] == ["summarize", "summarize"]


@each_format
def test_own_field_names(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / name, [{"key": "7", "body": "Text", "abstract": "Short", "lang": "fa", "set": "x"}])
    names = {"text_field": "body", "target_field": "abstract", "id_field": "key"}
    (document,) = source(path, **names, language_field="lang", source_field="set")
    assert document == Document(id="7", text="Text", target="Short", language="fa", source="x")


@each_format
def test_without_target_the_task_is_transcription(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    for row in ({"text": "Text"}, {"text": "Text", "target": ""}, {"text": "Text", "target": None}):
        (document,) = source(write(tmp_path / name, [row]))
        assert document.target is None
        assert document.task == "transcribe"
    (document,) = source(write(tmp_path / name, ROWS[:1]), target_field=None)
    assert document.task == "transcribe"


@each_format
def test_without_ids_the_hash_of_the_text(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    rows = [{"text": "eins"}, {"text": "zwei"}]
    documents = list(source(write(tmp_path / name, rows)))
    assert [document.id for document in documents] == [text_id("eins"), text_id("zwei")]
    more = list(source(write(tmp_path / name, [{"text": "null"}, *rows])))
    assert [document.id for document in more[1:]] == [document.id for document in documents]


@each_format
def test_a_folder_and_a_list_of_files(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    suffix = Path(name).suffix
    last = write(tmp_path / f"b{suffix}", ROWS[1:])
    first = write(tmp_path / f"a{suffix}", ROWS[:1])
    assert [document.id for document in source(tmp_path)] == ["a", "b"]
    assert [document.id for document in source([last, first])] == ["b", "a"]


@each_format
def test_the_named_field_is_missing(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / name, ROWS)
    for argument in ("text_field", "target_field", "id_field", "language_field", "source_field"):
        message = error_of(source(path, **{argument: "summary"}))
        assert str(path) in message
        assert "no field 'summary'" in message
        assert "'id', 'text', 'target', 'language', 'source'" in message


@each_format
def test_equal_ids_and_equal_texts(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    rows = [{**ROWS[0]}, {**ROWS[1], "id": "a"}]
    message = error_of(source(write(tmp_path / name, rows)))
    assert "'a'" in message
    assert message.count(name) == 2
    message = error_of(source(write(tmp_path / name, [{"text": "same"}, {"text": "same"}])))
    assert "the same document as" in message
    assert message.count(name) == 2


@each_format
def test_targets_in_some_rows_only(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "target": None}]
    assert "has no target (field 'target')" in error_of(source(write(tmp_path / name, rows)))
    assert "has a target (field 'target')" in error_of(source(write(tmp_path / name, rows[::-1])))


@each_format
def test_no_printable_character(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    for text in ("", " \n\t", "\u200b\u200e\u00a0"):
        message = error_of(source(write(tmp_path / name, [ROWS[0], {**ROWS[1], "text": text}])))
        assert "no printable character" in message
        assert any(place in message for place in ("line 2", "line 3", "row 2"))


@each_format
def test_missing_file_and_empty_folder(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    assert "no such file" in error_of(source(tmp_path / name))
    assert f"no {Path(name).suffix} file in this folder" in error_of(source(tmp_path))


@each_format
def test_line_ends_become_unix_ones(source: Any, name: str, write: Any, tmp_path: Path) -> None:
    (document,) = source(write(tmp_path / name, [{"text": "a\r\nb\rc\nd\u2028e"}]))
    assert document.text == "a\nb\nc\nd\u2028e"


def test_line_that_is_not_json(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {number}"}) for number in range(20)]
    lines[16] = '{"text": "unfinished'
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    assert error_of(JsonlSource(path)) == f"{path}, line 17: not JSON: Unterminated string starting at (column 10)"
    lines[16] = '["a", "list"]'
    path.write_text("\n".join(lines))
    assert error_of(JsonlSource(path)) == f"{path}, line 17: a JSON list; it must be an object ({{...}})"


def test_a_number_of_too_many_digits_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text(f'{{"id": {"1" * 100_000}, "text": "a"}}\n')
    with pytest.raises(ValueError, match=r"docs.jsonl, line 1: not usable JSON: .*digits") as caught:
        list(JsonlSource(path))
    assert len(str(caught.value)) < 400


def test_a_json_list_has_its_rows_and_names_those_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": "one"}, {"text": "two"}]))
    assert [document.text for document in JsonlSource(path)] == ["one", "two"]
    path.write_text(json.dumps([{"text": "one"}, ["two"]]))
    assert error_of(JsonlSource(path)) == f"{path}, row 2: a JSON list; it must be an object ({{...}})"
    for wrong in ("[" * 100_000, '[{"text": "one"},'):
        path.write_text(wrong)
        message = error_of(JsonlSource(path))
        assert message.startswith(f"{path}: not JSON: ")
        assert message.endswith("; it must be JSON lines or a list of objects")


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.csv", "texts/a.txt"])
def test_a_line_that_is_no_document_is_not_read_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, 10**12)  # a hole, which takes no room on the disk
    kinds = {".jsonl": JsonlSource(path), ".csv": CsvSource(path), ".txt": TextFolderSource(path.parent)}
    with pytest.raises(ValueError, match=rf"{path.name}.*: (longer|more) than 1,000 bytes.*split it into documents"):
        list(kinds[path.suffix])


def test_a_quote_that_never_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "docs.csv"
    path.write_text('text\n"' + "some words\n" * 200)
    with pytest.raises(ValueError, match=r"docs.csv, line 9\d: not CSV: field larger than field limit \(1000\)"):
        list(CsvSource(path))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "first"}\n{"text": "caf\xe9"}\n')
    message = error_of(JsonlSource(path))
    assert message.startswith(f"{path}, line 2: byte 0xe9 at offset 31 is not UTF-8")
    assert path.read_bytes()[31] == 0xE9


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\\ud83d b"}\n')
    assert "half a surrogate pair, '\\ud83d' at character 1" in error_of(JsonlSource(path))


def test_empty_source_and_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n")
    assert error_of(JsonlSource(path)) == f"{path}: it holds no document; give a file or dataset with at least one row"
    write_jsonl(path, [{"text": 3}])
    assert "text is of type int; it must be a text" in error_of(JsonlSource(path))
    write_jsonl(path, [{"text": "a", "id": [1]}])
    assert "id is of type list" in error_of(JsonlSource(path))
    write_jsonl(path, [{"text": "a", "id": " "}])
    assert "id is empty" in error_of(JsonlSource(path))


def test_byte_order_mark_and_number_ids(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "id": 1}\n\n{"text": "b", "id": 2}\n')
    assert [document.id for document in JsonlSource(path)] == ["1", "2"]


def test_csv_that_does_not_fit_its_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,target\n"two\nlines",x\nplain,y,z\n')
    assert f"{path}, line 4: 3 fields, and line 1 names 2" in error_of(CsvSource(path))
    path.write_text('text\n"never closed\n')
    assert "not CSV" in error_of(CsvSource(path))
    path.write_text("text,text\na,b\n")
    assert "the field 'text' is named twice" in error_of(CsvSource(path))
    path.write_text("text\ttarget\na\tb\n")
    assert "'text\\ttarget'" in error_of(CsvSource(path))
    assert [document.target for document in CsvSource(path, delimiter="\t")] == ["b"]
    with pytest.raises(ValueError, match=r"delimiter is .*; it must be one character"):
        CsvSource(path, delimiter="::")


def test_csv_with_a_book_in_a_field(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"text": "word " * 60_000}])
    (document,) = CsvSource(path)
    assert len(document.text) == 300_000


def test_file_that_is_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    assert "cannot be read as Parquet" in error_of(ParquetSource(path))


def test_text_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffZwei\r\nZeilen".encode())
    (tmp_path / "sub" / "a.txt").write_text("Eins")
    (tmp_path / "notes.md").write_text("not text")
    documents = list(TextFolderSource(tmp_path, language="de"))
    assert [(document.id, document.text) for document in documents] == [
        ("b.txt", "Zwei\nZeilen"),
        ("sub/a.txt", "Eins"),
    ]
    assert {document.language for document in documents} == {"de"}
    assert [document.id for document in TextFolderSource(tmp_path, pattern="*.md")] == ["notes.md"]


def test_text_folder_mistakes(tmp_path: Path) -> None:
    assert "no file matches '**/*.txt'" in error_of(TextFolderSource(tmp_path))
    assert "no such folder; it must be a folder" in error_of(TextFolderSource(tmp_path / "none"))
    path = tmp_path / "a.txt"
    path.write_text(" \n")
    assert f"{path}: no printable character" in error_of(TextFolderSource(tmp_path))
    assert "a file; it must be a folder" in error_of(TextFolderSource(path))
    path.write_bytes("Größe".encode("latin-1"))
    assert f"{path}, line 1: byte 0xf6 at offset 2" in error_of(TextFolderSource(tmp_path))


def test_a_text_folder_follows_no_link_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "key").write_text("secret")
    (folder / "a.txt").symlink_to(tmp_path / "key")
    with pytest.raises(ValueError, match=r"the file a.txt lies outside .*; move it there, or set outside_paths=true"):
        list(TextFolderSource(folder))
    assert [document.text for document in TextFolderSource(folder, outside_paths=True)] == ["secret"]


@pytest.mark.parametrize("source", [JsonlSource, CsvSource, ParquetSource])
def test_a_pipe_is_refused(source: Any, tmp_path: Path) -> None:
    """It can be read once, and a source is read several times; opening one that nobody writes to waits for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: not a regular file; a source needs files that can be read again"):
        list(source(tmp_path / "pipe"))


def test_printable() -> None:
    assert all(map(has_printable, ["a", "维", "़", "!", " . "]))
    assert not any(map(has_printable, ["", " \n", "\u200d\u2028", "\x00\x07", "\ufeff"]))


@pytest.mark.parametrize("path", ["rows.jsonl", ["a.jsonl", "b.jsonl"]])
def test_arguments_survive_the_command_line(path: str | list[str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    options = {"path": path, "target_field": None}
    given = parser.parse_object({"source": {"class_path": "JsonlSource", "init_args": options}})
    written = parser.dump(given, skip_none=False)
    source = parser.instantiate(parser.parse_string(written)).source
    assert source == JsonlSource(
        [Path(one) for one in path] if isinstance(path, list) else Path(path), target_field=None
    )


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "a.txt").write_text("text")
    assert len(list(JsonlSource(Path("~/rows.jsonl")))) == 2
    assert len(list(TextFolderSource(Path("~")))) == 1


def test_messages_call_a_source_by_its_class_and_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    assert str(JsonlSource(path)) == f"JsonlSource {path}"
    assert str(PythonDocsSource()) == "PythonDocsSource"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_may_not_name_images_outside_their_folder(kind: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    file = tmp_path / "rows" / f"rows.{kind}"
    file.parent.mkdir()
    row = {"image": "../secret.png", "text": "a"}
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    else:
        file.write_text(json.dumps(row) + "\n" if kind == "jsonl" else "image,text\n../secret.png,a\n")
    source: Any = {"jsonl": JsonlSource, "csv": CsvSource, "parquet": ParquetSource}[kind]
    assert "secret.png lies outside" in error_of(source(file))
    (document,) = source(file, outside_paths=True)
    assert document.image.samefile(tmp_path / "secret.png")
