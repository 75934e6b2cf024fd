"""Folders of scans and PDFs: every page of every file, its text, and a line for what is not used."""

from __future__ import annotations

import io
import json
import logging
import re
import string
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pypdfium2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from deepsynth.data.formats.pdf import OPEN_DOCUMENTS, PAGES_UNTIL_REOPENED
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.scans import count_scan_pages, load_image, load_scan_pages
from deepsynth.data.sources import rows
from deepsynth.data.sources.documents.source import DocumentSource, ImageSource
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.data.formats.test_page_xml import NAMESPACE, OCR_D, TRANSKRIBUS
from tests.helpers.sources import error_of
from tests.helpers.training import PAGE

PLAIN_PDF = """%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[{kids}]/Count {count}>>endobj
3 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
"""


def write_image(path: Path, gray: int = 128, **kwargs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), gray).save(path, **kwargs)
    return path


def write_tiff(path: Path, *grays: int) -> Path:
    frames = [Image.new("L", (16, 16), gray) for gray in grays]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def write_pdf(path: Path, *texts: str, width: int = 200, height: int = 100) -> Path:
    """Write a born-digital PDF, a page a text."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(texts)))
    body = PLAIN_PDF.format(kids=kids, count=len(texts))
    for number, text in enumerate(texts):
        stream = f"BT /F 12 Tf 10 50 Td ({text}) Tj ET"
        body += (
            f"{4 + 2 * number} 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 {width} {height}]"
            f"/Resources<</Font<</F 3 0 R>>>>/Contents {5 + 2 * number} 0 R>>endobj\n"
            f"{5 + 2 * number} 0 obj<</Length {len(stream)}>>stream\n{stream}\nendstream endobj\n"
        )
    path.write_bytes((body + "trailer<</Root 1 0 R>>\n%%EOF").encode())
    return path


def texts_of(source: Any) -> dict[str, str]:
    return {document.id: document.text for document in source}


def summary_of(source: Any, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    rows.said_lines.clear()
    with caplog.at_level(logging.INFO, "deepsynth"):
        list(source)
    (line,) = [record.getMessage() for record in caplog.records if " files: " in record.getMessage()]
    return line


def page_of(document: Document, number: int, side_px: int = 64) -> Any:
    (page,) = load_scan_pages(document, number, max_pages=8, side_px=side_px)
    return page


# ------------------------------------------------------------------ pages


def test_all_pages_of_a_tiff(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", 10, 20, 30)
    (document,) = DocumentSource(tmp_path)
    assert count_scan_pages(document) == 3
    assert [page_of(document, n).image.getpixel((3, 3))[0] for n in range(3)] == [10, 20, 30]
    (tmp_path / "a.txt").write_text("one\ftwo\fthree\f\n")
    (document,) = DocumentSource(tmp_path)
    assert [page_of(document, n).text for n in range(3)] == ["one", "two", "three"]
    assert not document.is_whole
    (tmp_path / "a.txt").write_text("all of it")
    (document,) = DocumentSource(tmp_path)
    pages = load_scan_pages(document, 0, max_pages=8)
    assert document.is_whole
    assert (len(pages), pages[0].text) == (3, "all of it")


def test_a_tiff_that_a_row_names_has_all_its_pages_in_one_sample(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", 10, 20)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.tif", "text": "both"}))
    (document,) = DocumentSource(tmp_path / "rows.jsonl")
    pages = load_scan_pages(document, 0, max_pages=8)
    assert [page.image.getpixel((0, 0))[0] for page in pages] == [10, 20]


def test_pages_of_a_pdf_in_the_size_of_the_mode_or_by_dpi(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "first", "second")
    (document,) = DocumentSource(tmp_path)
    assert count_scan_pages(document) == 2
    assert page_of(document, 1, side_px=640).image.size == (640, 320)
    first, second = (page_of(document, n, side_px=640).image for n in range(2))
    assert first.mode == "RGB"
    assert first.getpixel((0, 0)) == (255, 255, 255)
    assert first.tobytes() != second.tobytes()
    (at_144,) = DocumentSource(tmp_path, dpi=144)
    assert page_of(at_144, 0).image.size == (400, 200)
    with pytest.raises(UserError, match=r"document 'a.pdf': .*a.pdf, page 1: 400 x 200 pixels, more than 79,999"):
        load_scan_pages(at_144, 0, 8, max_pixels=79_999)


def test_a_page_has_the_pixels_of_the_library_whatever_was_drawn_before(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "first", "second")
    (document,) = DocumentSource(tmp_path)
    for number, side in ((0, 900), (1, 320), (0, 321), (1, 4000)):
        page = pypdfium2.PdfDocument(tmp_path / "a.pdf")[number]
        expected = page.render(scale=side / max(page.get_size())).to_pil().convert("RGB")
        found = page_of(document, number, side_px=side).image
        assert (found.mode, found.size, found.tobytes()) == ("RGB", expected.size, expected.tobytes())
        assert len(set(found.convert("L").tobytes())) > 2


def test_a_born_digital_pdf_has_its_text_by_choice(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "first page", "second page")
    (unknown,) = DocumentSource(tmp_path)
    assert not unknown.text_is_known
    (document,) = DocumentSource(tmp_path, embedded_text=True)
    assert document.text_is_known
    assert [page_of(document, n).text for n in range(2)] == ["first page", "second page"]
    (tmp_path / "a.txt").write_text("better\falso")
    (document,) = DocumentSource(tmp_path, embedded_text=True)
    assert [page_of(document, n).text for n in range(2)] == ["better", "also"]


@pytest.mark.parametrize(
    ("pages", "expected"),
    [("1", ["p1"]), ("2-3", ["p2", "p3"]), ("4-", ["p4", "p5"]), ("5, 1-2", ["p5", "p1", "p2"]), ("1-9", None)],
)
def test_ranges_of_pages(pages: str, expected: list[str] | None, tmp_path: Path) -> None:
    every = [f"p{number}" for number in range(1, 6)]
    write_pdf(tmp_path / "a.pdf", *every)
    (document,) = DocumentSource(tmp_path, pages=pages, embedded_text=True)
    assert [page_of(document, n).text for n in range(count_scan_pages(document))] == (expected or every)


@pytest.mark.parametrize("pages", ["", "a", "1-2-3", "-3", "1,", "2..3", "0", "3,9-2"])
def test_ranges_that_are_none(pages: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pages is .*; it must be page numbers and ranges"):
        DocumentSource(tmp_path, pages=pages)


def test_pdfs_that_cannot_be_opened_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pdf(tmp_path / "a.pdf", "x")
    (tmp_path / "b.pdf").write_bytes(b"no PDF")
    line = summary_of(DocumentSource(tmp_path), caplog)
    assert "2 files: 1 document (1 page); not used: 1 cannot be opened as PDF: " in line
    assert "(b.pdf)" in line
    assert "1 without a page in pages=2 (a.pdf)" in error_of(DocumentSource(tmp_path, pages="2"))


def test_pages_are_rasterized_one_by_one_and_few_files_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is drawn when it is asked for, and what PDFium keeps of drawn pages is given back now and then."""
    opened: list[Path] = []
    closed: list[Any] = []

    class Counting(pypdfium2.PdfDocument):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(pypdfium2, "PdfDocument", Counting)
    drawn: list[int] = []
    render = pypdfium2.PdfPage.render
    monkeypatch.setattr(pypdfium2.PdfPage, "render", lambda self, **kw: (drawn.append(1), render(self, **kw))[1])
    count = PAGES_UNTIL_REOPENED * 2
    write_pdf(tmp_path / "a.pdf", *(f"page {number}" for number in range(count)))
    (document,) = DocumentSource(tmp_path)
    assert (len(drawn), len(opened)) == (0, 1)
    page_of(document, count - 1)
    assert (len(drawn), len(opened)) == (1, 1)
    for number in range(count):
        page_of(document, number)
    assert len(opened) == 3
    for number in range(10):
        write_pdf(tmp_path / f"more{number}.pdf", "x")
    assert len(list(DocumentSource(tmp_path))) == 11
    assert len(opened) - len(closed) == OPEN_DOCUMENTS


def test_samples_of_a_pdf(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "one", "two")
    (document,) = DocumentSource(tmp_path, embedded_text=True)
    assert max(load_image(document).size) == max(load_scan_pages(document, 1, 8)[0].image.size) == 1024
    pipeline = Pipeline(TextRenderer(**PAGE), None, OcrProcessor("deepsynth/tiny-random"))
    samples = [pipeline.sample(document, number, 0) for number in range(pipeline.count_pages(document))]
    assert [(s.id, s.document_id, s.page, s.target) for s in samples if s is not None] == [
        ("a.pdf#0", "a.pdf", 0, "one"),
        ("a.pdf#1", "a.pdf", 1, "two"),
    ]


# ------------------------------------------------------------------ ground truth


@pytest.mark.parametrize("ending", [".txt", ".TXT", ".gt.txt", ".GT.txt", ".md", ".Md", ".xml", ".XML"])
def test_a_text_beside_an_image(ending: str, tmp_path: Path) -> None:
    write_image(tmp_path / "line.1.png")
    content = TRANSKRIBUS.format(ns=NAMESPACE) if "xml" in ending.lower() else "# the text\n"
    (tmp_path / f"line.1{ending}").write_text(content, encoding="utf-8")
    expected = "Überſchrift & mehr\n\nerſte Zeile\nzweite Zeile" if "xml" in ending.lower() else "# the text"
    assert texts_of(DocumentSource(tmp_path)) == {"line.1.png": expected}
    assert texts_of(DocumentSource(tmp_path / "line.1.png")) == {"line.1.png": expected}
    assert texts_of(DocumentSource(tmp_path / "*.png")) == {"line.1.png": expected}
    assert texts_of(DocumentSource(tmp_path, ground_truth="none")) == {"line.1.png": ""}


def test_which_of_several_texts_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png")
    for ending, text in ((".gt.txt", "by hand"), (".txt", "by a program"), (".md", "# marked")):
        (tmp_path / f"a{ending}").write_text(text)
    assert texts_of(DocumentSource(tmp_path)) == {"a.png": "by hand"}
    assert texts_of(DocumentSource(tmp_path, ground_truth="md")) == {"a.png": "# marked"}
    line = summary_of(DocumentSource(tmp_path, ground_truth="txt"), caplog)
    assert "2 texts that belong to no image, or to one that has another text (a.gt.txt, a.md)" in line


def test_names_of_binarized_lines(tmp_path: Path) -> None:
    for name in ("0001.bin.png", "0001.nrm.png"):
        write_image(tmp_path / name)
    (tmp_path / "0001.gt.txt").write_text("a line")
    assert texts_of(DocumentSource(tmp_path)) == {"0001.bin.png": "a line", "0001.nrm.png": "a line"}


def test_folders_of_transkribus(tmp_path: Path) -> None:
    write_image(tmp_path / "0001.jpg")
    (tmp_path / "page").mkdir()
    (tmp_path / "page/0001.xml").write_text(TRANSKRIBUS.format(ns=NAMESPACE), encoding="utf-8")
    for recursive in (False, True):
        assert texts_of(DocumentSource(tmp_path, recursive=recursive))["0001.jpg"].startswith("Überſchrift")


def test_a_workspace_of_ocr_d(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The XML stands in another folder under another name, and names its image."""
    write_image(tmp_path / "OCR-D-IMG/p1.tif")
    (tmp_path / "OCR-D-GT").mkdir()
    (tmp_path / "OCR-D-GT/PAGE_0001.xml").write_text(OCR_D.format(ns=NAMESPACE))
    (tmp_path / "mets.xml").write_text("<mets/>")
    source = DocumentSource(tmp_path, recursive=True)
    assert texts_of(source)["OCR-D-IMG/p1.tif"].startswith("first\n\nsecond")
    assert "1 XML that is neither PAGE nor ALTO (mets.xml)" in summary_of(
        DocumentSource([tmp_path], recursive=True), caplog
    )


TABLE_ROWS = [["file", "transcription"], ["a.png", "eins"], ["b.png", "007"]]


def write_table(path: Path) -> Path:
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in TABLE_ROWS:
            book.active.append(row)
        book.save(path)
    elif path.suffix in (".csv", ".tsv"):
        path.write_text("\n".join(("\t" if path.suffix == ".tsv" else ",").join(row) for row in TABLE_ROWS))
    else:
        path.write_text("\n".join(json.dumps(dict(zip(TABLE_ROWS[0], row, strict=True))) for row in TABLE_ROWS[1:]))
    return path


def test_a_table_may_name_images_beside_numbers_and_texts_that_are_no_paths(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    row = {"number": 5, "none": None, "": "", "long": "y" * 5000, "lines": "a\nb", "zero": "a\0b", "file": "a.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "text": "words"}))
    assert texts_of(DocumentSource(tmp_path)) == {"a.png": "words"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".xlsx"])
def test_a_table_of_names_and_texts(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name)
    (tmp_path / "a.txt").write_text("not this")
    table = write_table(tmp_path / f"labels{suffix}")
    expected = {"a.png": "eins", "b.png": "007"}
    assert texts_of(DocumentSource(tmp_path)) == expected
    assert texts_of(DocumentSource(table)) == expected
    line = summary_of(DocumentSource([tmp_path]), caplog)
    assert "5 files: 2 documents" in line
    assert "1 named by no row of a table (c.png); 1 next to a table that has the texts (a.txt)" in line


def test_a_sheet_that_names_a_field_twice_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    book = openpyxl.Workbook()
    for row in (["file", "text", None, "text", None], ["a.png", "x", None, "y", None]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    assert "labels.xlsx, row 1: the field 'text' is named twice" in error_of(DocumentSource(tmp_path / "labels.xlsx"))


def test_broken_and_foreign_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "notes.csv").write_text("date,weather\n1,rain\n")
    assert "1 tables that name no image here (notes.csv)" in summary_of(DocumentSource(tmp_path), caplog)
    (tmp_path / "notes.csv").rename(tmp_path / "notes.xlsx")
    assert f"{tmp_path / 'notes.xlsx'}: cannot be read as XLSX" in error_of(DocumentSource(tmp_path))


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = tmp_path / "labels.xlsx"
    path.write_bytes(b"x")
    assert "pip install 'deepsynth-ocr[xlsx]'" in error_of(DocumentSource(path))


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("a.JPG", "JPEG"), ("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.HEIC", "JPEG"), ("a.heic", "HEIF")),
        *(("a.pgm", "PPM"), ("a.avif", "AVIF"), ("a.webp", "WEBP"), ("a.jp2", "JPEG2000"), ("a.bmp", "BMP")),
        ("a.gif", "GIF"),
    ],
)
def test_every_raster_format(name: str, form: str, tmp_path: Path) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / name, form)
    (document,) = DocumentSource(tmp_path)
    red, green, _ = page_of(document, 0).image.getpixel((8, 8))
    assert red > 180
    assert green < 40


def test_heic_without_its_library_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (64, 64)).save(tmp_path / "a.heic", "HEIF")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.heic", "JPEG")
    find_spec = "deepsynth.data.sources.documents.listing.importlib.util.find_spec"
    monkeypatch.setattr(find_spec, lambda name: None)
    line = summary_of(DocumentSource(tmp_path), caplog)
    assert "1 HEIC, for which pillow-heif is missing (pip install 'deepsynth-ocr[heic]') (a.heic)" in line
    assert "1 document " in line


def test_folders_in_folders_are_read_when_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "in/b.png"):
        write_image(tmp_path / name)
    assert "1 in subfolders (recursive=true includes them) (in/b.png)" in summary_of(DocumentSource(tmp_path), caplog)
    for source in (
        DocumentSource(tmp_path, recursive=True),
        ImageSource(tmp_path),
        DocumentSource(tmp_path / "**/*.png"),
    ):
        assert sorted(texts_of(source)) == ["a.png", "in/b.png"]
    assert list(texts_of(DocumentSource([tmp_path / "in", tmp_path / "a.png"]))) == ["a.png", "b.png"]
    assert "no such file or folder" in error_of(DocumentSource(tmp_path / "*.gif"))


KINDS = ["png", "PNG", "tif", "pdf", "txt", "gt.txt", "md", "xml", "csv", "doc", "zip", "jpg", "DS_Store", "heic"]
NAMES = st.text(string.ascii_lowercase[:3], min_size=1, max_size=2)
FILES = st.lists(st.tuples(st.sampled_from(["", "in/", "page/", ".git/"]), NAMES, st.sampled_from(KINDS)), max_size=12)
CONTENTS: dict[str, bytes] = {}


def content_of(kind: str, folder: Path) -> bytes:
    """Return the content of a file of a kind, made once."""
    if kind not in CONTENTS:
        if kind in ("png", "PNG", "jpg", "tif"):
            buffer = io.BytesIO()
            Image.new("L", (4, 4)).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, "PNG"))
            CONTENTS[kind] = buffer.getvalue()
        elif kind == "pdf":
            CONTENTS[kind] = write_pdf(folder / "made.pdf", "x").read_bytes()
            (folder / "made.pdf").unlink()
        elif kind == "xml":
            CONTENTS[kind] = TRANSKRIBUS.format(ns=NAMESPACE).encode()
        else:
            CONTENTS[kind] = b"a,b\n1,2\n"
    return CONTENTS[kind]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES, recursive=st.booleans(), broken=st.booleans())
def test_every_file_of_a_folder_is_counted_once(
    files: list[tuple[str, str, str]],
    recursive: bool,
    broken: bool,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for place, name, kind in files:
        path = folder / place / f"{name}.{kind}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"broken" if broken and kind == "pdf" else content_of(kind, folder))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    source = DocumentSource(folder, recursive=recursive)
    documents: list[str] = []
    caplog.set_level(logging.INFO, "deepsynth")
    try:
        documents += [row.fields["name"] for row in source.rows() if "name" in row.fields]  # no rows of tables
        line = caplog.messages[-1]
    except UserError as error:
        line = str(error)
        assert "no image and no PDF here" in line
    assert len(documents) == len(set(documents)) == count_in(line, r"files?: (\d+) documents?")
    assert documents or not there or "0 documents" in line
    assert set(documents) <= there
    used, unused = count_in(line, r"(\d+) with texts"), line.partition("not used: ")[2]
    assert count_in(line, r"(\d+) files?: ") == len(there)
    assert len(documents) + used + sum(map(int, re.findall(r"(?:^|; )(\d+) ", unused))) == len(there)


def count_in(line: str, pattern: str) -> int:
    found = re.search(pattern, line)
    return int(found[1]) if found else 0


def test_the_text_of_a_drawn_page_fits_its_pixels(tmp_path: Path) -> None:
    """The page of a PDF is upright and not mirrored: what is drawn at the top left is there."""
    image = Image.new("RGB", (100, 50), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 20, 10), fill=(255, 0, 0))
    image.save(tmp_path / "a.pdf", resolution=72)
    (document,) = DocumentSource(tmp_path)
    page = page_of(document, 0, side_px=100).image
    assert page.size == (100, 50)
    red, green, blue = page.getpixel((5, 5))
    assert red > 200
    assert max(green, blue) < 60
    assert min(page.getpixel((80, 40))) > 240
