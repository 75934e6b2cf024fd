"""Pages to look at before training: images, a contact sheet, and how dense each page is."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.files import explain_write_errors
from deepsynth.io.text import plain_cell
from deepsynth.models.tokens import ImageLayout
from deepsynth.types import Document, Page

if TYPE_CHECKING:
    from deepsynth.data.pipeline import Pipeline

_THUMBNAIL_PX = 320
_SHEET_COLUMNS = 4
_GAP_PX = 8


@dataclass(frozen=True)
class PageReport:
    """Size, font and token counts of one page.

    Attributes:
        file: name of the image file.
        document_id: id of the document.
        page: number of the page in the document, from 0.
        width: width of the page in pixels.
        height: height of the page in pixels.
        font: font of the first line.
        font_size_px: font size of the body text in pixels.
        characters: number of characters on the page, white space folded.
        text_tokens: number of tokens of the page's text; ``None`` without a tokenizer.
        image_tokens: number of tokens of the image; ``None`` without a model's layout.
        characters_per_image_token: compression in characters.
        text_tokens_per_image_token: compression in tokens.
        characters_cut: number of the document's characters that no page shows.
        characters_replaced: number of characters that no font has.
    """

    file: str
    document_id: str
    page: int
    width: int
    height: int
    font: str
    font_size_px: float
    characters: int
    text_tokens: int | None
    image_tokens: int | None
    characters_per_image_token: float | None
    text_tokens_per_image_token: float | None
    characters_cut: int
    characters_replaced: int


def write_preview(
    documents: Iterable[Document],
    pipeline: Pipeline,
    folder: Path,
    num: int = 16,
    layout: ImageLayout | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> list[PageReport]:
    """Write the first pages that training would see as PNG files, with a contact sheet and a table.

    Args:
        documents: documents, read only as far as needed.
        pipeline: stages of the data module; pages are those of epoch 0.
        folder: folder for ``NNN_<document>_<page>.png``, ``contact.png`` and ``pages.csv``; made if missing.
        num: number of pages.
        layout: image layout of the model, for the number of image tokens.
        count_tokens: function that returns the number of tokens of a text.

    Returns:
        A report for each page.

    Raises:
        UserError: when ``num`` is not positive, there is no page, or the folder cannot be written.
    """
    if num < 1:
        raise UserError(f"num is {num}; it must be at least 1")
    with explain_write_errors(folder, "the preview"):
        folder.mkdir(parents=True, exist_ok=True)
    reports: list[PageReport] = []
    thumbnails: list[Image.Image] = []
    for document, page in _pages(documents, pipeline):
        name = re.sub(r"[^\w.-]+", "_", document.id)[:60]
        report = report_page(document, page, f"{len(reports):03d}_{name}_{page.number}.png", layout, count_tokens)
        with explain_write_errors(folder / report.file, "the page"):
            page.image.save(folder / report.file)
        thumbnail = page.image.copy()
        thumbnail.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
        thumbnails.append(thumbnail)
        reports.append(report)
        if len(reports) == num:
            break
    if not reports:
        raise UserError("the source has no document, so there is no page to show")
    with explain_write_errors(folder / "contact.png", "the contact sheet"):
        contact_sheet(thumbnails).save(folder / "contact.png")
    csv_file = folder / "pages.csv"
    with explain_write_errors(csv_file, "the table"), csv_file.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(PageReport)])
        table.writeheader()
        for report in reports:
            row = asdict(report)
            table.writerow({key: plain_cell(value) if isinstance(value, str) else value for key, value in row.items()})
    return reports


def report_page(
    document: Document,
    page: Page,
    file: str,
    layout: ImageLayout | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> PageReport:
    """Return the report of a page; see :func:`write_preview` for the arguments."""
    characters = len(" ".join(page.text.split()))
    image_tokens = layout.tokens(*page.image.size) if layout else None
    text_tokens = count_tokens(page.text) if count_tokens else None
    return PageReport(
        file=file,
        document_id=document.id,
        page=page.number,
        width=page.image.width,
        height=page.image.height,
        font=page.lines[0].font if page.lines else "",
        font_size_px=page.stats.get("font_size_px", 0.0),
        characters=characters,
        text_tokens=text_tokens,
        image_tokens=image_tokens,
        characters_per_image_token=round(characters / image_tokens, 2) if image_tokens else None,
        text_tokens_per_image_token=round(text_tokens / image_tokens, 2) if image_tokens and text_tokens else None,
        characters_cut=int(page.stats.get("characters_cut", 0)),
        characters_replaced=int(page.stats.get("characters_replaced", 0)),
    )


def format_table(reports: Sequence[PageReport]) -> str:
    """Return the reports as lines of text in columns, with the mean of what can be averaged."""
    heads = (
        "page",
        "size",
        "font",
        "px",
        "characters",
        "text tok",
        "image tok",
        "char/tok",
        "text/image",
        "cut",
        "n/a",
    )
    rows = [heads]
    for report in reports:
        rows.append(
            (
                f"{report.document_id[:24]}#{report.page}",
                f"{report.width}x{report.height}",
                report.font[:18],
                f"{report.font_size_px:g}",
                str(report.characters),
                _shown(report.text_tokens),
                _shown(report.image_tokens),
                _shown(report.characters_per_image_token),
                _shown(report.text_tokens_per_image_token),
                str(report.characters_cut),
                str(report.characters_replaced),
            )
        )
    characters = [report.characters for report in reports]
    densities = [report.characters_per_image_token for report in reports if report.characters_per_image_token]
    ratios = [report.text_tokens_per_image_token for report in reports if report.text_tokens_per_image_token]
    means = (_mean(characters), "", "", _mean(densities), _mean(ratios), "", "")
    rows.append(("mean", "", "", "", *means))
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def contact_sheet(images: Sequence[Image.Image], columns: int = _SHEET_COLUMNS) -> Image.Image:
    """Return small images side by side on gray.

    Args:
        images: at least one image.
        columns: largest number of columns.
    """
    columns = min(columns, len(images))
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    rows = -(-len(images) // columns)
    size = (columns * (width + _GAP_PX) + _GAP_PX, rows * (height + _GAP_PX) + _GAP_PX)
    sheet = Image.new("RGB", size, (128, 128, 128))
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        sheet.paste(image, (_GAP_PX + column * (width + _GAP_PX), _GAP_PX + row * (height + _GAP_PX)))
    return sheet


def _pages(documents: Iterable[Document], pipeline: Pipeline) -> Iterator[tuple[Document, Page]]:
    for document in documents:
        for number in range(pipeline.count_pages(document)):
            for page in pipeline.pages(document, number, 0):
                yield document, page


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "-"
