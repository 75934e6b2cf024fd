"""A source for scans and PDFs: a folder, a file or a glob, with the texts beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.data.formats.frames import PAGED_SUFFIXES, FramePages, frame_count
from deepsynth.data.formats.pdf import PdfPages, Raster, pdf_page_count
from deepsynth.data.sources.columns import AUTO, Columns, listed
from deepsynth.data.sources.documents.ground_truth import GroundTruth, TruthFiles, read_truth
from deepsynth.data.sources.documents.listing import Found, Listing, list_place
from deepsynth.data.sources.documents.tables import TABLE_SUFFIXES, table_rows
from deepsynth.data.sources.image_values import ImagePlace
from deepsynth.data.sources.rows import BlankPages, Row, RowSource, say_once
from deepsynth.errors import UserError
from deepsynth.io.paged_file import PagedFile
from deepsynth.io.paths import file_below
from deepsynth.types import PAGE_BREAK

_RANGES = re.compile(r"\d+(-\d*)?(,\d+(-\d*)?)*")


@dataclass(frozen=True)
class DocumentSource(RowSource):
    r"""Read scans and PDFs with their texts, without decoding them before they are needed.

    Images are of every format that Pillow reads for pages (HEIC with pillow-heif), all pages of TIFFs, and PDFs. Their
    texts are found beside them: ``NAME.gt.txt``, ``.txt``, ``.md``, PAGE XML or ALTO (also in the folders ``page`` and
    ``alto``, or naming their image), or in a table (``.csv``, ``.tsv``, ``.json``, ``.jsonl``, ``.xlsx``) whose rows
    name images relative to it. A table that names images is used alone. Every file that is not used is counted in one
    line by reason. Documents without texts can be predicted, not trained on.

    A page of a PDF or TIFF is a sample of its own, if the text of the file has a form feed (``"\f"``) between pages or
    is unknown; otherwise all pages are one sample.

    Args:
        path: a folder, a file, a glob such as ``scans/**/*.png``, or a list of these.
        image_field: column of a table: the image's path.
        text_field: column of a table: what the image shows.
        target_field: column of a table: text that the model is to write; null: the text itself.
        id_field: column of a table: unique ids; without them the image's path as the row has it.
        language_field: column of a table: language code.
        source_field: column of a table: name of the collection.
        outside_paths: allow images outside the folder, by ``..``, absolute paths or links: set it only for rows and
            folders that you trust, since what they name can be published.
        prompt_field: column of a table: the row's prompt; null for that of the task.
        blank_pages: documents whose text is empty: of unknown text (``error`` when training), samples (``keep``), or
            left out (``skip``).
        recursive: look through the folders in a folder.
        ground_truth: kind of the texts beside images; ``auto`` for the first that is there of ``gt.txt``, ``txt``,
            ``md``, ``page``, ``alto``; ``none`` for no texts.
        pages: pages of PDFs and TIFFs, such as ``1-3,7,10-``; all by default.
        dpi: resolution at which pages of PDFs are rasterized; by default their longest side is the longest that the
            model can use.
        embedded_text: take the text that a born-digital PDF holds for what its pages show, where no other is found.

    Raises:
        UserError: for page ranges or a resolution that cannot be.
    """

    path: list[Path] | Path
    image_field: str | None = AUTO
    text_field: str = AUTO
    target_field: str | None = AUTO
    id_field: str = AUTO
    language_field: str = AUTO
    source_field: str = AUTO
    outside_paths: bool = False
    prompt_field: str | None = AUTO
    blank_pages: BlankPages = "error"
    recursive: bool = False
    ground_truth: GroundTruth = "auto"
    pages: str | None = None
    dpi: float | None = None
    embedded_text: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: for page ranges or a resolution that cannot be.
        """
        pages = None if self.pages is None else self.pages.replace(" ", "")
        if pages is not None and not (_RANGES.fullmatch(pages) and all(map(_is_range, pages.split(",")))):
            raise UserError(f"pages is {self.pages!r}; it must be page numbers and ranges from 1, such as 1-3,7,10-")
        if self.dpi is not None and not 1 <= self.dpi <= 2400:
            raise UserError(f"dpi is {self.dpi}; it must be from 1 to 2400")

    def rows(self) -> Iterator[Row]:
        """Yield a row for each document, and log what became of every file.

        Raises:
            UserError: when the place is missing or holds no document.
        """
        listing = list_place(self.path, recursive=self.recursive)
        tables = [table for table in listing.tables if _names_images(table, listing, self.image_field)]
        yield from self._table_rows(tables, listing) if tables else self._image_rows(listing)

    def columns(self, where: str, head: Sequence[Mapping[str, Any]], found: Iterable[str] = ()) -> Columns:
        """Return the columns of a table, which must have one of images.

        Raises:
            UserError: when it has none, or a column that was set is not there.
        """
        if head and isinstance(head[0].get(_IMAGE), (Path, PagedFile)):
            return Columns(_IMAGE, id=_NAME)
        columns = super().columns(where, head, found)
        if columns.image is None:
            names = dict.fromkeys(name for row in head for name in row)
            raise UserError(f"{where}: no image path in any field; the fields found are {listed(names)}")
        return columns

    def image_place(self, folder: Path | None) -> ImagePlace:
        """Return where the images of a table lie, and how PDFs become images."""
        return ImagePlace(folder, outside=self.outside_paths, raster=self._raster)

    @property
    def _raster(self) -> Raster:
        return Raster(self.dpi, self.embedded_text)

    def _table_rows(self, tables: Sequence[Found], listing: Listing) -> Iterator[Row]:
        """Yield the rows of tables; the images that they name are the only ones."""
        named: set[Path] = set()  # of all tables, however many rows a file has
        for table in tables:
            listing.used.add(table.path)
            for where, found in table_rows(table.path):
                row = Row.of(where, found, table.path.parent)
                named |= {_absolute(table.path.parent / value) for value in row.fields.values() if _is_short(value)}
                yield row
        images, listing.images = listing.images, []
        for image in images:
            if _absolute(image.path) in named:
                listing.images.append(image)
            else:
                listing.leave_out("named by no row of a table", image.name)
        for other in (*listing.truths, *(table for table in listing.tables if table not in tables)):
            listing.leave_out("next to a table that has the texts", other.name)
        listing.with_text = len(listing.images)
        listing.pages = len(listing.images)
        say_once(f"{self.origin}: {listing.summary()}")

    def _image_rows(self, listing: Listing) -> Iterator[Row]:
        """Yield a row for each image, with the text beside it."""
        truths = TruthFiles((*(truth.path for truth in listing.truths), *listing.beside), self.ground_truth)
        truths.add_named_images(image.path for image in listing.images)
        opened = self._open_paged(listing)
        beside = {image.path: truth for image in listing.images if (truth := truths.of(image.path)) is not None}
        listing.used |= set(beside.values())
        listing.with_text = len(beside)
        unknown = set(truths.unknown)
        for other in listing.truths:
            if other.path in unknown:
                listing.leave_out("XML that is neither PAGE nor ALTO", other.name)
            elif other.path not in listing.used:
                listing.leave_out("texts that belong to no image, or to one that has another text", other.name)
        for table in listing.tables:
            listing.leave_out("tables that name no image here", table.name)
        if not listing.images:
            found = listing.summary() if listing.count else "there are no files"
            raise UserError(f"{self.origin}: no image and no PDF here; {found}")
        say_once(f"{self.origin}: {listing.summary()}")
        for image in listing.images:
            try:
                yield self._row(image, opened.get(image.path), beside.get(image.path))
            except UserError as error:
                yield Row.of(str(image.path), error)

    def _row(self, image: Found, paged: PagedFile | None, truth: Path | None) -> Row:
        file_below(image.root, image.path.relative_to(image.root), outside=self.outside_paths)
        fields: dict[str, Any] = {_IMAGE: paged or image.path, _NAME: image.name}
        if truth is not None:
            if truth.is_relative_to(image.root):
                file_below(image.root, truth.relative_to(image.root), outside=self.outside_paths)
            text = read_truth(truth)
            fields["text"] = _page_texts(text, paged) if paged is not None else text.strip(f"{PAGE_BREAK} \t\r\n")
        return Row(str(image.path), fields, image.root)

    def _open_paged(self, listing: Listing) -> dict[Path, PagedFile]:
        """Return the files of several pages, and count the pages of all; those without a page are left out."""
        opened: dict[Path, PagedFile] = {}
        kept: list[Found] = []
        for image in listing.images:
            suffix = image.path.suffix.lower()
            try:
                if suffix == ".pdf":
                    numbers = self._numbers(pdf_page_count(image.path))
                    opened[image.path] = PdfPages(image.path, numbers, self._raster)
                elif suffix in PAGED_SUFFIXES and (count := frame_count(image.path)) > 1:
                    opened[image.path] = FramePages(image.path, numbers := self._numbers(count))
                else:
                    numbers = range(1)
            except UserError as error:
                listing.leave_out(str(error).removeprefix(f"{image.path}: "), image.name)
                continue
            if not numbers:
                opened.pop(image.path, None)
                listing.leave_out(f"without a page in pages={self.pages}", image.name)
                continue
            kept.append(image)
            listing.pages += len(numbers)
        listing.images = kept
        return opened

    def _numbers(self, count: int) -> Sequence[int]:
        """Return the numbers from 0 of the wanted pages of a file."""
        if self.pages is None:
            return range(count)
        chosen: dict[int, None] = {}
        for part in self.pages.replace(" ", "").split(","):
            first, dash, last = part.partition("-")
            end = int(last) if last else (count if dash else int(first))
            chosen |= dict.fromkeys(range(int(first) - 1, min(end, count)))
        return tuple(chosen)


def _is_range(part: str) -> bool:
    """Return whether a page or range of pages begins at 1 or later, and does not end before it begins."""
    first, _, last = part.partition("-")
    return 1 <= int(first) <= int(last or first)


@dataclass(frozen=True)
class ImageSource(DocumentSource):
    """Read scans with their texts: :class:`DocumentSource` under its old name, recursive."""

    recursive: bool = True


#: Fields of the rows that are made of files.
_IMAGE, _NAME = "image", "name"


def _names_images(table: Found, listing: Listing, image_field: str | None) -> bool:
    """Return whether a table names images: it was given itself, or a value of its first row is an image here."""
    if table.path.suffix.lower() not in TABLE_SUFFIXES:
        return False
    if not listing.images and not listing.truths and len(listing.tables) == 1:
        return True
    first = next((found for _, found in table_rows(table.path) if not isinstance(found, UserError)), {})
    if image_field not in (None, AUTO) and image_field in first:
        return True
    images = {_absolute(image.path) for image in listing.images}
    values = [value for value in first.values() if _is_short(value)]
    named = any(_absolute(table.path.parent / value) in images for value in values)
    return named or any(name in first for name in ("image", "images", "file_name"))


def _absolute(path: Path) -> Path:
    """Return a path without ``..``; links are not followed, which may lead in a circle."""
    return Path(os.path.abspath(path))


def _is_short(value: Any) -> bool:
    """Return whether a value may be a path."""
    return isinstance(value, str) and 0 < len(value) < 1024 and "\n" not in value and "\0" not in value


def _page_texts(text: str, paged: PagedFile) -> str:
    """Return the texts of pages without what ends the last one: programs end every page with a form feed."""
    return text[:-1] if text.endswith(PAGE_BREAK) and text.count(PAGE_BREAK) == len(paged) else text
