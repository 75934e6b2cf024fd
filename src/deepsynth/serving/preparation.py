"""Files of strangers as samples: opened, counted, checked against the limits, decoded."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deepsynth.data import OcrProcessor
from deepsynth.data.formats.pdf import PdfPages
from deepsynth.errors import UserError
from deepsynth.io.images import ImageTooLarge, open_image, page_count, to_rgb
from deepsynth.serving.jobs import Job, Limits, RequestError
from deepsynth.types import Document, Page, Sample

#: PDFium is not safe for threads, in all its calls and all its documents.
_PDFIUM = threading.Lock()
#: Bytes at the start of a PDF in which its mark may stand.
_PDF_START = 1024


@dataclass(frozen=True, slots=True)
class PreparedPage:
    """A sample of a request.

    Attributes:
        pages: numbers of all pages of the request that have a text of their own, from 0.
        sample: one of them.
    """

    pages: tuple[int, ...]
    sample: Sample


class Preparation:
    """Makes samples of the files of requests, in the thread that calls it.

    Args:
        processor: of the model.
        limits: of a request.
    """

    def __init__(self, processor: OcrProcessor, limits: Limits) -> None:
        self._processor, self._limits = processor, limits

    def __call__(self, job: Job, prompt: str | None, index: int) -> PreparedPage:
        """Return the sample of one of the pages that a job asks for, or the one of all where they belong together.

        Args:
            job: with the files.
            prompt: of the job or its model; ``None`` for the published one.
            index: of the page among those that are asked for.

        Raises:
            RequestError: when a file is broken (422) or has too many pixels or pages (413).
        """
        with _Files(job.files, self._limits) as files:
            chosen = _chosen_pages(job, len(files), self._limits)
            numbers = chosen if job.together else [chosen[index]]
            pages = [Page(files.load(number, self._processor), "", number=number) for number in numbers]
            document = Document("request", "", prompt=prompt, one_sample=job.together)
            return PreparedPage((0,) if job.together else tuple(chosen), _sample(document, pages, self._processor))

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


def _chosen_pages(job: Job, count: int, limits: Limits) -> list[int]:
    wanted = range(count) if job.pages is None else job.pages
    beyond = [number for number in wanted if number >= count]
    if beyond:
        raise RequestError(422, f"page {beyond[0] + 1} is asked for; the document has {count} page(s)")
    if len(wanted) > limits.max_pages:
        raise RequestError(
            413, f"{len(wanted)} pages are asked for; a request may have {limits.max_pages}: ask for some with pages"
        )
    return list(wanted)


def _sample(document: Document, pages: Sequence[Page], processor: OcrProcessor) -> Sample:
    try:
        sample = processor(document, pages, prompt_only=True)
    except UserError as error:  # it has too many tokens, or <image> at the wrong places
        raise RequestError(422, str(error)) from None
    assert sample is not None, "the processor of a service drops nothing"
    return sample


class _Files:
    """The pages of a request's files, in their order.

    Args:
        files: images, or one PDF; images of several frames have as many pages.
        limits: of a request.
    """

    def __init__(self, files: Sequence[bytes], limits: Limits) -> None:
        self._limits = limits
        self._pdf: PdfPages | None = None
        self._pages: list[tuple[bytes, int]] = []
        if len(files) == 1 and b"%PDF-" in files[0][:_PDF_START]:
            self._open_pdf(files[0])
            return
        for content in files:
            if b"%PDF-" in content[:_PDF_START]:
                raise RequestError(422, "a PDF must be the only file of a request")
            with _refusals(), open_image(content, limits.max_pixels) as image:
                self._pages += [(content, frame) for frame in range(page_count(image))]

    def _open_pdf(self, content: bytes) -> None:
        handle, name = tempfile.mkstemp(suffix=".pdf")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        try:
            with _PDFIUM, _refusals(name):
                self._pdf = PdfPages.of(Path(name))
        except RequestError:
            Path(name).unlink()
            raise

    def __enter__(self) -> _Files:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the PDF; the last few stay open, as ``data.formats.pdf`` has it."""
        if self._pdf is not None:
            self._pdf.path.unlink()

    def __len__(self) -> int:
        """Return the number of pages."""
        return len(self._pages) if self._pdf is None else len(self._pdf)

    def load(self, number: int, processor: OcrProcessor) -> Image.Image:
        """Return a page as RGB."""
        if self._pdf is not None:
            with _PDFIUM, _refusals(str(self._pdf.path)):
                return self._pdf.load(number, self._limits.max_pixels, processor.longest_side_px)
        content, frame = self._pages[number]
        with _refusals(), open_image(content, self._limits.max_pixels) as image:
            return to_rgb(image, frame, self._limits.max_pixels)


@contextmanager
def _refusals(path: str = "") -> Iterator[None]:
    """Turn what is wrong with a file into a refusal, without a path of this machine."""
    try:
        yield
    except ImageTooLarge as error:
        raise RequestError(413, str(error)) from None
    except UserError as error:
        raise RequestError(422, str(error).replace(path, "the PDF") if path else str(error)) from None
