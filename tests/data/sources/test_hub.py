"""Datasets in local folders, read through the library that reads those of the Hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepsynth.data.scans import load_image
from deepsynth.data.sources.hub import HubSource
from tests.helpers.sources import error_of

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what ``datasets`` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def folder_of(tmp_path: Path, columns: dict[str, list[Any]], saved: bool, images: bool = False) -> str:
    """Write a dataset as parquet files or as ``save_to_disk`` does, and return its folder."""
    table = datasets.Dataset.from_dict(columns)
    if images:
        table = table.cast_column("image", datasets.Image())
    folder = tmp_path / "data"
    folder.mkdir()
    if saved:
        table.save_to_disk(str(folder))
    else:
        table.to_parquet(str(folder / "train.parquet"))
    return str(folder)


def page(value: int) -> dict[str, Any]:
    """Return an encoded gray page."""
    encoded = io.BytesIO()
    Image.new("L", (16, 16), value).save(encoded, "png")
    return {"bytes": encoded.getvalue(), "path": None}


ways = pytest.mark.parametrize(
    ("saved", "streaming"), [(False, False), (False, True), (True, False), (True, True)], ids=str
)


@ways
def test_texts(saved: bool, streaming: bool, tmp_path: Path) -> None:
    columns = {"body": ["one", "two"], "abstract": ["1", "2"], "key": [7, 8], "unused": [0, 0]}
    folder = folder_of(tmp_path, columns, saved)
    source = HubSource(folder, streaming=streaming, text_field="body", target_field="abstract", id_field="key")
    assert source.streaming is streaming
    documents = list(source)
    assert [(document.id, document.text, document.target) for document in documents] == [
        ("7", "one", "1"),
        ("8", "two", "2"),
    ]
    assert list(source) == documents


@ways
def test_pages(saved: bool, streaming: bool, tmp_path: Path) -> None:
    columns = {"image": [page(10), page(200)], "text": ["dark", "light"], "language": ["en", "en"]}
    folder = folder_of(tmp_path, columns, saved, images=True)
    documents = list(HubSource(folder, streaming=streaming))
    assert [document.text for document in documents] == ["dark", "light"]
    assert [load_image(document).getpixel((3, 3))[0] for document in documents] == [10, 200]
    assert len({document.id for document in documents}) == 2
    assert documents[0].language == "en"


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_name_files_of_this_machine_are_refused(streaming: bool, tmp_path: Path) -> None:
    """A stranger's table may hold a path where others hold the image."""
    private, folder = tmp_path / "private.png", tmp_path / "data"
    Image.new("L", (16, 16), 9).save(private)
    folder.mkdir()
    table = datasets.Dataset.from_dict({"image": [str(private)], "text": ["a"]}).cast_column("image", datasets.Image())
    assert table.data.column("image").to_pylist() == [{"bytes": None, "path": str(private)}]
    pq.write_table(table.data.table, folder / "train.parquet")
    message = error_of(HubSource(str(folder), streaming=streaming))
    assert f"row 1: the file {private} lies outside {folder}; move it there, or set outside_paths" in message
    (document,) = HubSource(str(folder), streaming=streaming, outside_paths=True)
    assert load_image(document).getpixel((3, 3)) == (9, 9, 9)


def test_pages_beside_their_table_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("L", (16, 16), 9).save(folder / "0.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n')
    (document,) = HubSource(str(folder))
    assert load_image(document).getpixel((3, 3)) == (9, 9, 9)


def test_pages_without_texts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"image": [page(1), page(2)]}, saved=False, images=True)
    assert [document.text for document in HubSource(folder)] == ["", ""]
    assert "no field 'words'; the fields found are 'image'" in error_of(HubSource(folder, text_field="words"))


def test_equal_pages_are_found(tmp_path: Path) -> None:
    columns = {"image": [page(1), page(1)], "text": ["a", "b"]}
    message = error_of(HubSource(folder_of(tmp_path, columns, saved=False, images=True)))
    assert "row 2" in message
    assert "row 1" in message


def test_broken_page(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": b"no image", "path": None}], "text": ["a"]}
    message = error_of(HubSource(folder_of(tmp_path, columns, saved=False, images=True)))
    assert "(train), row 1: image: no image that can be decoded" in message


def test_missing_field_split_and_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, {"body": ["one"]}, saved=False)
    assert f"{folder} (train): no field 'text'; the fields found are 'body'" in error_of(HubSource(folder))
    assert 'Unknown split "test"' in error_of(HubSource(folder, split="test"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in error_of(HubSource(str(empty)))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "owner/none (train): " in error_of(HubSource("owner/none"))
