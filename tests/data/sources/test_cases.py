"""Data sets and folders in the forms that people have them: every scan is read, and nothing is drawn from its text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepsynth.data.scans import load_image
from deepsynth.data.sources.base import read_documents
from deepsynth.data.sources.documents.source import DocumentSource
from deepsynth.data.sources.hub import HubSource
from deepsynth.data.sources.rows import RowSource
from deepsynth.data.sources.text_files import CsvSource, JsonlSource, ParquetSource
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.sources import error_of

datasets = pytest.importorskip("datasets")

COUNT = 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what ``datasets`` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image a receipt, whose gray is its number."""
    folder = tmp_path / "data"
    (folder / "img").mkdir(parents=True)
    for number in range(COUNT):
        Image.new("L", (32, 24), number * 50).save(folder / f"img/r{number}.png")
    return folder


def names() -> list[str]:
    return [f"img/r{number}.png" for number in range(COUNT)]


def texts() -> list[str]:
    return [f"Receipt total {number} euro" for number in range(COUNT)]


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names()]


def check(source: Any) -> list[Document]:
    """Check that a source gives the receipts as scans with their texts; the order says which is which."""
    documents = list(source)
    assert [document.text for document in documents] == texts()
    assert [load_image(document).getpixel((5, 5))[0] for document in documents] == [n * 50 for n in range(COUNT)]
    assert len({document.id for document in documents}) == COUNT
    return documents


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(",".join(line) for line in [list(rows[0]), *(row.values() for row in rows)]) + "\n")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("column", ["image", "images", "page_image", "file_name", "path", "scan"])
@pytest.mark.parametrize(
    ("source", "name", "write"),
    [
        (JsonlSource, "a.jsonl", write_jsonl),
        (CsvSource, "a.csv", write_csv),
        (ParquetSource, "a.parquet", write_parquet),
    ],
    ids=["jsonl", "csv", "parquet"],
)
def test_paths_under_any_likely_name(column: str, source: Any, name: str, write: Any, folder: Path) -> None:
    rows = [{column: image, "transcription": text} for image, text in zip(names(), texts(), strict=True)]
    documents = check(source(write(folder / name, rows)))
    assert [document.id for document in documents] == names()


@pytest.mark.parametrize("form", ["bytes", "struct", "url", "list of bytes", "list of structs", "list of urls"])
def test_images_in_the_rows(form: str, folder: Path) -> None:
    forms: dict[str, Any] = {"bytes": bytes, "struct": lambda c: {"bytes": c, "path": "x.png"}, "url": data_url}
    single = form.removeprefix("list of ").removesuffix("s") if form.startswith("list") else form
    make = forms["bytes" if single == "byte" else single]
    values = [[make(content)] if form.startswith("list") else make(content) for content in contents(folder)]
    rows = [{"picture": value, "text": text} for value, text in zip(values, texts(), strict=True)]
    check(ParquetSource(write_parquet(folder / "a.parquet", rows)))
    if "url" in form:
        check(JsonlSource(write_jsonl(folder / "a.jsonl", rows)))


def test_several_images_are_the_pages_of_one_sample(folder: Path) -> None:
    (document,) = JsonlSource(write_jsonl(folder / "a.jsonl", [{"images": names(), "text": "all"}]))
    assert isinstance(document.image, tuple)
    assert len(document.image) == COUNT
    assert document.one_sample


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("form", ["paths", "another name", "list of images"])
def test_data_sets_of_the_library(form: str, saved: bool, folder: Path, tmp_path: Path) -> None:
    paths = [str(folder / name) for name in names()]
    column = {"paths": "image", "another name": "page_image", "list of images": "images"}[form]
    table = datasets.Dataset.from_dict({column: [[p] for p in paths] if "list" in form else paths, "text": texts()})
    if form == "another name":
        table = table.cast_column(column, datasets.Image())
    if form == "list of images":
        table = table.cast_column(column, datasets.List(datasets.Image()))
    target = tmp_path / "set"
    if saved:
        table.save_to_disk(str(target))
    else:
        target.mkdir()
        table.to_parquet(str(target / "train.parquet"))
    for streaming in (False, True):
        check(HubSource(str(target), streaming=streaming, outside_paths=True))
    if form == "paths":
        assert f"the file {paths[0]} lies outside" in error_of(HubSource(str(target)))


def test_an_image_folder(folder: Path) -> None:
    rows = [{"file_name": name, "text": text} for name, text in zip(names(), texts(), strict=True)]
    write_jsonl(folder / "metadata.jsonl", rows)
    check(HubSource(str(folder)))
    check(DocumentSource(folder, recursive=True))


def test_a_webdataset(folder: Path, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/train-000.tar", "w") as tar:
        for number, (content, text) in enumerate(zip(contents(folder), texts(), strict=True)):
            for name, data in ((f"{number:03d}.png", content), (f"{number:03d}.txt", text.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    documents = check(HubSource(str(tmp_path / "shards")))
    assert [document.id for document in documents] == ["000", "001", "002", "003"]


def test_a_json_list(folder: Path) -> None:
    rows = [{"image": name, "text": text} for name, text in zip(names(), texts(), strict=True)]
    (folder / "list.json").write_text(json.dumps(rows, indent=1))
    check(JsonlSource(folder / "list.json"))
    (folder / "list.json").write_text('[{"image": "x"')
    assert "it must be JSON lines or a list of objects" in error_of(JsonlSource(folder / "list.json"))


def test_prompts_of_rows(folder: Path) -> None:
    prompts = ["<image>\nFree OCR.", "<image>\nRead the total."] * (COUNT // 2)
    rows = [{"image": n, "prompt": p, "text": t} for n, p, t in zip(names(), prompts, texts(), strict=True)]
    documents = check(JsonlSource(write_jsonl(folder / "a.jsonl", rows)))
    assert [document.prompt for document in documents] == prompts
    again = [{**rows[0], "prompt": "Date?"}, {**rows[0], "prompt": "Place?"}]
    ids = [document.id for document in JsonlSource(write_jsonl(folder / "b.jsonl", again))]
    assert ids == ["img/r0.png", "img/r0.png~prompt2"]
    assert "the same document as" in error_of(JsonlSource(write_jsonl(folder / "c.jsonl", [again[0], again[0]])))
    assert {d.prompt for d in JsonlSource(folder / "a.jsonl", prompt_field=None)} == {None}


def test_a_row_is_never_drawn_from_its_text_in_silence(folder: Path) -> None:
    path = folder / "a.jsonl"
    write_jsonl(path, [{"image": "img/r0.png", "text": "a"}, {"image": None, "text": "b"}])
    assert "line 2: no image in the field 'image'" in error_of(JsonlSource(path))
    write_jsonl(path, [{"text": str(number)} for number in range(30)] + [{"image": "img/r0.png", "text": "b"}])
    assert "line 31: an image (field 'image'), and the first rows have none" in error_of(JsonlSource(path))
    write_jsonl(path, [{"image": 3, "text": "a"}])
    assert "line 1: an image of type int" in error_of(JsonlSource(path))
    write_jsonl(path, [{"img": "img/r0.png", "text": "a"}])
    assert "no field 'picture'; the fields found are 'img', 'text'" in error_of(
        JsonlSource(path, image_field="picture")
    )
    (document,) = JsonlSource(path, image_field=None)  # by design
    assert document.image is None
    write_jsonl(path, [{"scan": "a.png", "page": "b.png", "text": "a"}])
    assert "'scan', 'page' may be the image; set image_field" in error_of(JsonlSource(path))


@pytest.mark.parametrize("url", ["https://example.org/r.png", "s3://bucket/r.png", "hf://datasets/a/r.png"])
def test_remote_images_are_refused_with_the_reason(url: str, folder: Path) -> None:
    path = write_jsonl(folder / "a.jsonl", [{"image": url, "text": "x"}])
    message = error_of(JsonlSource(path))
    assert message.startswith(f"{path}, line 1: {url} is a remote image; images are not fetched")
    assert "download them" in message


def test_a_data_url_that_is_cut(folder: Path) -> None:
    whole = data_url(contents(folder)[1])
    for cut in (whole[:-5], whole[:40], whole[:12]):
        message = error_of(JsonlSource(write_jsonl(folder / "a.jsonl", [{"image": cut, "text": "x"}])))
        assert "line 1: " in message
        assert "truncated or damaged" in message


def test_the_columns_are_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"img": n, "sentence": t, "lang": "en", "level": "3"} for n, t in zip(names(), texts(), strict=True)]
    source = JsonlSource(write_jsonl(folder / "once.jsonl", rows))
    with caplog.at_level(logging.INFO, "deepsynth"):
        check(source)
        check(source)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (f"{folder / 'once.jsonl'}: image = 'img', text = 'sentence', language = 'lang'; not used: 'level'")


def test_chat_rows_name_the_source_that_reads_them(folder: Path) -> None:
    path = write_jsonl(folder / "a.jsonl", [{"messages": [], "images": names()}])
    assert "the field 'messages' holds conversations; read them with ConversationSource" in error_of(JsonlSource(path))


@pytest.mark.parametrize("source", [JsonlSource, DocumentSource])
def test_blank_pages(source: type[RowSource], folder: Path) -> None:
    rows = [{"image": names()[0], "text": ""}, {"image": names()[1], "text": "a"}]
    path: Any = write_jsonl(folder / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"line 1: the text of scan .* is unknown or empty.*blank_pages=keep"):
        read_documents(source(path), need_text=True)
    kept = list(source(path, blank_pages="keep"))
    assert [(document.text, document.blank) for document in kept] == [("", True), ("a", False)]
    assert [document.text for document in source(path, blank_pages="skip")] == ["a"]


def test_tables_of_other_columns_are_rendered_as_before(tmp_path: Path) -> None:
    rows = [{"text": "A text about cats.png", "question": "?", "file": "a.txt", "answer": "x"}]
    (document,) = JsonlSource(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (document.image, document.text, document.prompt) == (None, "A text about cats.png", None)


def test_rows_are_named_by_the_files_of_their_images(folder: Path) -> None:
    """Whose names may repeat, as files of several folders do: then a hash of the image tells them apart."""
    one, two, three = contents(folder)[:3]
    images = [
        {"bytes": one, "path": "scans/a.png"},
        {"bytes": two, "path": "C:\\more\\a.png"},
        {"bytes": three, "path": None},
        {"bytes": two, "path": "b"},
        {"bytes": one, "path": "b"},
    ]
    table = pa.table({"image": images[:3], "text": ["x", "y", "z"]})
    pq.write_table(table, folder / "named.parquet")
    ids = [document.id for document in ParquetSource(folder / "named.parquet")]
    digests = [hashlib.sha256(content).hexdigest() for content in (one, two, three)]
    assert ids == ["a.png", f"a-{digests[1][:8]}.png", digests[2][:16]]
    pq.write_table(pa.table({"image": images[3:], "text": ["x", "y"]}), folder / "named.parquet")
    assert [document.id for document in ParquetSource(folder / "named.parquet")] == ["b", f"b-{digests[0][:8]}"]
    pq.write_table(pa.table({"image": images[1::2], "text": ["x", "y"]}), folder / "named.parquet")
    assert "row 2: the same document as " in error_of(ParquetSource(folder / "named.parquet"))
