"""Scans with their text, and every way in which an image file can be odd or broken."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepsynth.data.scans import load_image
from deepsynth.data.sources.base import read_documents
from deepsynth.data.sources.documents.source import ImageSource
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.sources import error_of

SCANS = Path(__file__).parents[4] / ".." / "shared" / "data" / "ocr_real"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a JSON-lines file of two scans."""
    (tmp_path / "pages").mkdir()
    rows = []
    for number in range(2):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "pages" / f"{number}.png")
        rows.append({"image": f"pages/{number}.png", "text": f"page {number}", "language": "en", "level": "page"})
    path = tmp_path / "scans.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_with_images(scans: Path) -> None:
    documents = list(ImageSource(scans))
    assert [document.id for document in documents] == ["pages/0.png", "pages/1.png"]
    assert documents[1] == Document(id="pages/1.png", text="page 1", image=scans.parent / "pages/1.png", language="en")
    assert list(ImageSource(scans.parent)) == documents
    assert load_image(documents[1]).getpixel((0, 0)) == (1, 0, 0)


def test_folder_with_and_without_texts(scans: Path) -> None:
    pages = scans.parent / "pages"
    documents = list(ImageSource(pages))
    assert [(document.id, document.text) for document in documents] == [("0.png", ""), ("1.png", "")]
    (pages / "0.txt").write_text("null\n")
    with pytest.raises(UserError, match=r"1\.png: the text of scan '1\.png' is unknown or empty"):
        read_documents(ImageSource(pages), need_text=True)
    (pages / "1.txt").write_text("eins")
    assert [document.text for document in ImageSource(pages)] == ["null", "eins"]


def test_summaries_of_scans(scans: Path) -> None:
    rows = [json.loads(line) for line in scans.read_text().splitlines()]
    scans.write_text("".join(json.dumps({**row, "summary": "short"}) + "\n" for row in rows))
    documents = list(ImageSource(scans, target_field="summary"))
    assert [document.task for document in documents] == ["summarize", "summarize"]


def test_mistakes_in_rows(scans: Path) -> None:
    good = scans.read_text()
    scans.write_text(good + '{"image": "pages/2.png", "text": "x"}\n')
    message = error_of(ImageSource(scans))
    assert message.startswith(f"{scans}, line 3: no file {scans.parent / 'pages/2.png'} (No such file or directory)")
    scans.write_text(good + '{"file": "pages/1.png", "text": "x"}\n')
    message = error_of(ImageSource(scans))
    assert message.startswith(f"{scans}, line 3: no image in the field 'image'; the fields found are 'file', 'text'")
    scans.write_text(good + good.splitlines()[0] + "\n")
    assert f"line 3: the same document as {scans}, line 1 (no field 'id'" in error_of(ImageSource(scans))
    assert "no field 'transcription'" in error_of(ImageSource(scans, text_field="transcription"))
    (document,) = ImageSource(scans.parent / "pages/0.png")
    assert document.id == "0.png"
    assert "no such file" in error_of(ImageSource(scans.parent / "none"))


@pytest.mark.parametrize("way", ["up", "absolute", "link", "linked folder"])
def test_rows_name_images_below_their_folder_alone(way: str, scans: Path, tmp_path: Path) -> None:
    """What a row names is trained on and may be published: a stranger's rows must not reach a user's other images."""
    data, private = tmp_path / "data", tmp_path / "private.png"
    (data / "pages").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(private)
    name = {"up": "../private.png", "absolute": str(private), "link": "link.png"}.get(way, "away/private.png")
    (data / "link.png").symlink_to(private)
    (data / "away").symlink_to(tmp_path)
    rows = data / "scans.jsonl"
    rows.write_text(json.dumps({"image": name, "text": "x"}) + "\n")
    message = error_of(ImageSource(rows))
    assert message.startswith(f"{rows}, line 1: the file {name} lies outside {data}; move it there, or set")
    (document,) = ImageSource(rows, outside_paths=True)
    assert load_image(document).size == (8, 6)


def test_images_and_texts_of_a_folder_are_no_links_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "private.png")
    (tmp_path / "private.txt").write_text("secret")
    (folder / "0.png").symlink_to(tmp_path / "private.png")
    assert "the file 0.png lies outside" in error_of(ImageSource(folder))
    (folder / "0.png").unlink()
    Image.new("RGB", (8, 6)).save(folder / "0.png")
    (folder / "0.txt").symlink_to(tmp_path / "private.txt")
    assert "the file 0.txt lies outside" in error_of(ImageSource(folder))
    assert [document.text for document in ImageSource(folder, outside_paths=True)] == ["secret"]


def test_an_absolute_path_below_the_folder_is_its_own(scans: Path) -> None:
    scans.write_text(json.dumps({"image": str(scans.parent / "pages/0.png"), "text": "x"}) + "\n")
    (document,) = ImageSource(scans)
    assert document.image == scans.parent / "pages/0.png"


@pytest.mark.parametrize("name", ["pipe.png", "a" * 5000, "a\0b", "loop.png"])
def test_names_of_no_file_are_one_line(name: str, scans: Path) -> None:
    os.mkfifo(scans.parent / "pipe.png")
    (scans.parent / "loop.png").symlink_to("loop.png")
    scans.write_text(json.dumps({"image": name, "text": "x"}) + "\n")
    message = error_of(ImageSource(scans))
    assert message.startswith(f"{scans}, line 1: ")
    assert len(message) < 500


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("x")
    message = error_of(ImageSource(tmp_path))
    assert "no image and no PDF here; 1 file: 0 documents (0 pages); not used: 1 of a format that" in message
    assert "(notes.doc)" in message
    (tmp_path / "notes.doc").unlink()
    assert error_of(ImageSource(tmp_path)) == f"{tmp_path}: no image and no PDF here; there are no files"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif"])
def test_truncated(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"document 'x': image .*cut.*: cannot be decoded \(.*; replace") as caught:
        load_image(Document(id="x", text="", image=path))
    assert "\n" not in str(caught.value)


def test_no_image(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(UserError, match=r"text.png: no image that can be decoded; it must be"):
        load_image(Document(id="x", text="", image=path))
    path.unlink()
    with pytest.raises(UserError, match=r"document 'x': image .*text.png: cannot be read: No such file"):
        load_image(Document(id="x", text="", image=path))


def test_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (300, 300)).save(path)
    document = Document(id="x", text="", image=path)
    with pytest.raises(UserError, match=r"document 'x': .*bomb.png: 300 x 300 pixels, more than 89,999"):
        load_image(document, 89_999)
    assert load_image(document, 90_000).size == (300, 300)


def test_encoded_and_decoded_images() -> None:
    encoded = io.BytesIO()
    Image.new("L", (8, 8), 7).save(encoded, "png")
    assert load_image(Document(id="x", text="", image=encoded.getvalue())).getpixel((0, 0)) == (7, 7, 7)
    assert load_image(Document(id="x", text="", image=Image.new("L", (8, 8), 9))).getpixel((0, 0)) == (9, 9, 9)


def test_the_first_page_of_a_file_of_several(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert load_image(Document(id="x", text="", image=tmp_path / "pages.tif")).getpixel((0, 0)) == (40, 40, 40)


def test_real_scans() -> None:
    if not SCANS.is_dir():
        pytest.skip("no real scans here")
    documents = list(ImageSource(SCANS))
    assert len(documents) == 121
    assert all(load_image(document).mode == "RGB" for document in documents[::10])
