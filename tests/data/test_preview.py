"""The preview of pages: images, contact sheet and table."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepsynth.data.pipeline import Pipeline
from deepsynth.data.preview import PageReport, contact_sheet, format_table, report_page, write_preview
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.models.tokens import MODES
from deepsynth.types import Document, Line, Page

RENDERER = TextRenderer(page_width_px=256, page_height_px=128, margin_px=8, font_size_px=12.0, system_fonts=False)
DOCUMENTS = [Document("a/b", "words " * 100), Document("c", "one"), Document("never reached", "\ud800")]


def test_pages_images_and_table_are_written(tmp_path: Path) -> None:
    pipeline = Pipeline(RENDERER, None, None)
    count = pipeline.count_pages(DOCUMENTS[0]) + 1
    layout = MODES["deepseek_ocr"]["tiny"]
    reports = write_preview(DOCUMENTS, pipeline, tmp_path / "out", count, layout, lambda text: len(text.split()))
    assert [report.document_id for report in reports] == ["a/b"] * (count - 1) + ["c"]
    assert sum(report.text_tokens for report in reports[:-1]) == 100
    first = reports[0]
    assert first.image_tokens == layout.tokens(256, 128)
    assert first.characters_per_image_token == round(first.characters / first.image_tokens, 2)
    for report in reports:
        with Image.open(tmp_path / "out" / report.file) as image:
            assert image.size == (256, 128)
    with (tmp_path / "out" / "pages.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["characters"] for row in rows] == [str(report.characters) for report in reports]
    assert (tmp_path / "out" / "contact.png").is_file()
    table = format_table(reports).split("\n")
    assert len(table) == count + 2
    assert table[1].startswith("a/b#0")
    assert table[-1].startswith("mean")


def test_an_id_is_no_formula_in_the_table(tmp_path: Path) -> None:
    write_preview([Document('=HYPERLINK("http://x")', "one")], Pipeline(RENDERER, None, None), tmp_path)
    with (tmp_path / "pages.csv").open(encoding="utf-8") as file:
        assert [row["document_id"] for row in csv.DictReader(file)] == ['\'=HYPERLINK("http://x")']


def test_without_a_model_there_are_no_token_counts(tmp_path: Path) -> None:
    (report,) = write_preview(DOCUMENTS, Pipeline(RENDERER, None, None), tmp_path, 1)
    assert report.image_tokens is report.text_tokens is report.characters_per_image_token is None
    assert " - " in format_table([report])


def test_nothing_to_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no document"):
        write_preview([], Pipeline(RENDERER, None, None), tmp_path)
    with pytest.raises(ValueError, match="num is 0"):
        write_preview(DOCUMENTS, Pipeline(RENDERER, None, None), tmp_path, 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/out: the preview cannot be written \(.*/file is a file, not a folder\); choose another"
    ):
        write_preview(DOCUMENTS, Pipeline(RENDERER, None, None), tmp_path / "file" / "out")
    (tmp_path / "out" / "contact.png").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r"contact.png: the contact sheet cannot be written \(.*contact.png is a folder, not a file\); choose",
    ):
        write_preview(DOCUMENTS, Pipeline(RENDERER, None, None), tmp_path / "out", 1)


def test_a_contact_sheet_shows_all_images() -> None:
    images = [Image.new("RGB", (10, 20), color) for color in ("red", "green", "blue", "white", "black")]
    sheet = contact_sheet(images, columns=2)
    colors = {color for _, color in sheet.getcolors()}
    assert colors >= {image.getpixel((0, 0)) for image in images}


def test_images_of_a_contact_sheet_stand_in_rows_with_gaps_between_them() -> None:
    sizes = {"red": (10, 20), "lime": (7, 13), "blue": (10, 5)}
    sheet = contact_sheet([Image.new("RGB", size, color) for color, size in sizes.items()], columns=2)
    boxes = {}
    for channel, color in enumerate(sizes):
        alone = np.asarray(sheet) == [255 * (channel == other) for other in range(3)]
        rows, columns = np.nonzero(alone.all(axis=2))
        boxes[color] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert len(rows) == sizes[color][0] * sizes[color][1], "whole, and on no other"
    gap = boxes["red"][0]
    assert gap == boxes["red"][1] > 0
    assert boxes["lime"][:2] == (boxes["red"][2] + gap, gap)
    assert boxes["blue"][:2] == (gap, boxes["red"][3] + gap)
    assert sheet.size == (boxes["red"][2] + gap + 10 + gap, boxes["blue"][1] + 20 + gap)


def test_the_table_has_a_line_for_each_page_and_the_means_of_what_is_known() -> None:
    page = PageReport(
        *("f.png", "document-with-a-very-long-name", 2, 1024, 768, "DejaVu Sans Mono Oblique", 20.5, 100, 50, 10, 10.0),
        *(5.0, 3, 1),
    )
    plain = PageReport("g.png", "b", 0, 30, 40, "", 11.0, 50, None, None, None, None, 0, 0)
    head, first, second, mean = (re.split(" {2,}", line) for line in format_table([page, plain]).split("\n"))
    assert head == [
        *("page", "size", "font", "px", "characters", "text tok", "image tok", "char/tok", "text/image", "cut", "n/a")
    ]
    assert first == [
        *("document-with-a-very-lon#2", "1024x768", "DejaVu Sans Mono O", "20.5", "100", "50", "10", "10", "5"),
        *("3", "1"),
    ]
    assert second == ["b#0", "30x40", "11", "50", "-", "-", "-", "-", "0", "0"]
    assert [float(value) for value in mean[1:]] == [75, 10, 5]


def test_a_page_is_reported_by_what_it_shows() -> None:
    stats = {"font_size_px": 9.5, "characters_cut": 7.0, "characters_replaced": 2.0}
    line = Line("ab c", (0, 0, 5, 5), (), "DejaVu Serif")
    page = Page(Image.new("RGB", (64, 128)), " ab \n c ", (line, Line("d", (0, 0, 1, 1), (), "other")), 3, stats=stats)
    layout = MODES["deepseek_ocr"]["tiny"]
    found = report_page(Document("d", ""), page, "d.png", layout, lambda text: 30)
    tokens = layout.tokens(64, 128)
    assert found == PageReport(
        *("d.png", "d", 3, 64, 128, "DejaVu Serif", 9.5, 4, 30, tokens, round(4 / tokens, 2), round(30 / tokens, 2)),
        *(7, 2),
    )
    bare = report_page(Document("d", ""), Page(Image.new("RGB", (64, 128)), ""), "d.png", layout)
    assert (bare.font, bare.font_size_px, bare.characters, bare.text_tokens) == ("", 0, 0, None)
    assert (bare.characters_per_image_token, bare.text_tokens_per_image_token) == (0, None)
