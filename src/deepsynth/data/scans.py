"""The pages of documents that are images already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.images import MAX_PIXELS, open_image, page_count, to_rgb
from deepsynth.io.paged_file import PagedFile
from deepsynth.types import PAGE_BREAK, Document, Page


def count_scan_pages(document: Document) -> int:
    """Return the number of samples of a scan: the pages of a file of several, or 1."""
    return len(document.image) if isinstance(document.image, PagedFile) else 1


def load_scan_pages(
    document: Document, number: int | None, max_pages: int, max_pixels: int = MAX_PIXELS, side_px: int = 1024
) -> list[Page]:
    """Decode the pages of one sample of a scan.

    Args:
        document: one with an ``image``; the decoded pixels are not kept in it.
        number: page of a :class:`PagedFile`, from 0; ``None`` for all. Other scans are one sample: every image of a
            list, and every frame of a file.
        max_pages: most pages of a sample.
        max_pixels: largest number of pixels of each page.
        side_px: longest side of pages that have no size of their own.

    Raises:
        UserError: when a page is not an image, is broken or too large, or there are too many.
    """
    image = document.image
    if isinstance(image, PagedFile) and number is not None and not document.is_whole:
        texts = document.text.split(PAGE_BREAK) if document.text else []
        with_text = texts[number] if number < len(texts) else ""
        with _naming(document):
            loaded = image.load(number, max_pixels, side_px)
            return [Page(loaded, with_text if texts or not image.has_text else image.text(number), number=number)]
    pages: list[Page] = []
    for page in _each_page(document, max_pixels, side_px):
        if len(pages) == max_pages:
            raise UserError(
                f"document {document.id!r} is one sample of more than {max_pages} pages (data.max_pages); raise it, or "
                "give each page its own text"
            )
        pages.append(Page(page, document.text if not pages else "", number=len(pages)))
    if isinstance(image, PagedFile) and image.has_text and not document.text:
        return [Page(page.image, image.text(page.number), number=page.number) for page in pages]
    return pages


def load_image(document: Document, max_pixels: int = MAX_PIXELS, side_px: int = 1024) -> Image.Image:
    """Decode the first page of a scan to RGB; see :func:`deepsynth.io.images.to_rgb`.

    Args:
        document: one with an ``image``; the decoded pixels are not kept in it.
        max_pixels: largest number of pixels.
        side_px: longest side of a page that has no size of its own.

    Raises:
        UserError: when it is not an image, is broken, or is too large.
    """
    return next(_each_page(document, max_pixels, side_px))


@contextmanager
def _naming(document: Document) -> Iterator[None]:
    """Say which document an error is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"document {document.id!r}: {error}") from None


def _each_page(document: Document, max_pixels: int, side_px: int) -> Iterator[Image.Image]:
    """Yield every page of a scan; errors name the document."""
    image = document.image
    assert image is not None, "a document without an image is rendered"
    if isinstance(image, PagedFile):
        for number in range(len(image)):
            with _naming(document):
                page = image.load(number, max_pixels, side_px)
            yield page
        return
    for one in image if isinstance(image, tuple) else (image,):
        with _naming(document):
            opened = open_image(one, max_pixels) if isinstance(one, Path | bytes) else one
            frames = page_count(opened)
        for frame in range(frames):
            with _naming(document):
                page = to_rgb(opened, frame=frame, max_pixels=max_pixels)
            yield page
