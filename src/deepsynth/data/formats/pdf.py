"""Pages of PDFs as images, each rasterized when it is asked for, and the text that born-digital ones hold."""

from __future__ import annotations

import atexit
import ctypes
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.paged_file import PagedFile

#: Documents that a process keeps open, and pages after which one is opened anew: PDFium keeps the fonts and images of
#: every page that it has drawn.
OPEN_DOCUMENTS = 4
PAGES_UNTIL_REOPENED = 64
#: Memory on which pages are drawn, if they fit: 2,048 pixels squared.
_CANVAS_BYTES = 4 * 2048**2
#: Dots an inch of a PDF's unit.
_POINTS = 72.0


@dataclass(frozen=True, slots=True)
class Raster:
    """How a page becomes an image.

    Attributes:
        dpi: dots an inch; ``None`` for the longest side that the model can use.
        embedded_text: whether the text that the PDF holds is what the page shows.
    """

    dpi: float | None = None
    embedded_text: bool = False


@dataclass(frozen=True)
class PdfPages(PagedFile):
    """Pages of a PDF.

    Attributes:
        path: the file.
        numbers: numbers of the pages in the file, from 0.
        raster: how they become images.
    """

    path: Path
    numbers: Sequence[int]
    raster: Raster = Raster()

    @classmethod
    def of(cls, path: Path, raster: Raster | None = None) -> PdfPages:
        """Return all pages of a PDF.

        Raises:
            UserError: when it cannot be opened.
        """
        return cls(path, range(pdf_page_count(path)), raster or Raster())

    @property
    def has_text(self) -> bool:  # type: ignore[override]  # an attribute of the base
        """Whether the PDF says what its pages show."""
        return self.raster.embedded_text

    def __len__(self) -> int:
        """Return the number of pages."""
        return len(self.numbers)

    def load(self, number: int, max_pixels: int, side_px: int) -> Image.Image:
        """Rasterize a page to RGB on white.

        Raises:
            UserError: when it cannot be, or would have too many pixels.
        """
        page = _page(self.path, self.numbers[number])
        try:
            width, height = page.get_size()
            scale = self.raster.dpi / _POINTS if self.raster.dpi else side_px / max(width, height, 1.0)
            if width * height * scale**2 > max_pixels:
                raise UserError(
                    f"{self.path}, page {self.numbers[number] + 1}: {width * scale:,.0f} x {height * scale:,.0f} "
                    f"pixels, more than {max_pixels:,}; lower dpi, or raise data.max_image_pixels if you trust the file"
                )
            # Four bytes a pixel: PDFium fills and blends them faster than three, by more than dropping one costs.
            drawn = page.render(scale=scale, prefer_bgrx=True, bitmap_maker=_bitmap)
            return Image.frombuffer("RGB", (drawn.width, drawn.height), drawn.buffer, "raw", "BGRX", drawn.stride, 1)
        finally:
            page.close()

    def text(self, number: int) -> str:
        """Return the text that the PDF holds for a page, in the order of the file."""
        page = _page(self.path, self.numbers[number])
        try:
            text_page = page.get_textpage()
            try:
                found = str(text_page.get_text_bounded())
            finally:
                text_page.close()
        finally:
            page.close()
        lines = (line.rstrip() for line in found.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        return "\n".join(lines).replace("\ufffe", "-").strip("\n")


def pdf_page_count(path: Path) -> int:
    """Return the number of pages of a PDF.

    Raises:
        UserError: when it cannot be opened.
    """
    return len(_document(path))


@cache
def _canvas() -> Any:
    return (ctypes.c_ubyte * _CANVAS_BYTES)()


def _bitmap(width: int, height: int, *args: Any, **kwargs: Any) -> Any:
    """Return a bitmap on the canvas of this process: new memory for each page costs a page fault for every 4 KiB."""
    import pypdfium2

    buffer = _canvas() if width * height * 4 <= _CANVAS_BYTES else None
    return pypdfium2.PdfBitmap.new_native(width, height, *args, buffer=buffer, **kwargs)


_documents: OrderedDict[tuple[int, Path, int, int], list[Any]] = OrderedDict()


def _document(path: Path) -> Any:
    """Return an open PDF. Each process has its own: a forked one would share the position in the file."""
    import pypdfium2
    import pypdfium2.raw

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file")
        key = (os.getpid(), path, status.st_mtime_ns, status.st_size)
        entry = _documents.get(key)
        if entry is not None and entry[1] >= PAGES_UNTIL_REOPENED:
            _documents.pop(key)[0].close()
            entry = None
        if entry is None:
            if not _documents:
                atexit.unregister(_close_all)
                atexit.register(_close_all)  # after pypdfium2's own, which would complain of open documents
            while len(_documents) >= OPEN_DOCUMENTS:
                oldest, (document, _) = _documents.popitem(last=False)
                if oldest[0] == os.getpid():
                    document.close()
            entry = _documents[key] = [pypdfium2.PdfDocument(path), 0]
        _documents.move_to_end(key)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except pypdfium2.PdfiumError as error:
        locked = error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD
        reason = "it has a password; save it without one" if locked else f"{error}; replace or remove it"
        raise UserError(f"{path}: cannot be opened as PDF: {reason}") from None
    entry[1] += 1
    return entry[0]


def _close_all() -> None:
    """Close the documents of this process; those of its parent, which it was forked with, are not its own."""
    for (process, *_), (document, _) in _documents.items():
        if process == os.getpid():
            document.close()
    _documents.clear()


def _page(path: Path, number: int) -> Any:
    import pypdfium2

    try:
        return _document(path)[number]
    except (pypdfium2.PdfiumError, IndexError) as error:
        raise UserError(f"{path}, page {number + 1}: cannot be opened: {error}") from None
