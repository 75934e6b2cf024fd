"""What the benchmark of the data draws: excerpts, as pages a second and as memory, and the loop they are held against.

The yardstick is Pillow's ``ImageDraw.text``, called once a line, with the lines of our pages in their font, on a page
of the same size. It is run in turn with what is measured, round by round, so that a machine that others use too slows
both; the figures are medians over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from PIL import Image, ImageDraw, ImageFont

from deepsynth.data.fonts.files import bundled_faces
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.rendering.renderer import TextRenderer, forget_drawn_text
from deepsynth.data.sources.base import Source
from deepsynth.data.sources.python_docs import PythonDocsSource
from deepsynth.data.sources.text_files import decoded_lines
from deepsynth.measurement.cells import Result
from deepsynth.types import Document

#: Side of the page in pixels, and characters on it: a full page of a book, and a note.
SIZES = ((1024, 1500), (512, 300))
#: Rounds of a measurement.
ROUNDS = 5
_FONT_SIZE_PX, _MARGIN_PX = 20, 48


@dataclass(frozen=True)
class Excerpts(Source):
    """Prose, cut into documents of equal length at white space where there is some.

    Attributes:
        characters: of each document.
        count: of documents; it begins again when there is not enough text.
        path: of a text file, UTF-8; ``None`` is Python's own documentation.
    """

    characters: int
    count: int
    path: Path | None = None

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            ValueError: for a file that is shorter than one document, or no UTF-8.
        """
        text = _text(self.path) if self.path else _documentation(self.characters * self.count)
        start = 0
        for number in range(self.count):
            if start + self.characters > len(text):
                start = 0
            end = text.rfind(" ", start + 1, start + self.characters + 1)
            if end < start + self.characters // 2:
                end = start + self.characters
            if end > len(text):
                raise ValueError(f"{self.path}: {len(text)} characters, and one page takes {self.characters}")
            yield Document(id=str(number), text=text[start:end].strip())
            start = end


def _text(path: Path) -> str:
    return " ".join("".join(line for _, line in decoded_lines(path)).split())


@cache
def _documentation(characters: int) -> str:
    """Return at least so many characters of prose, or all that there is."""
    parts: list[str] = []
    for document in PythonDocsSource(task="transcribe"):
        parts.append(" ".join(document.text.split()))
        characters -= len(parts[-1])
        if characters < 0:
            break
    return " ".join(parts)


def page_renderer(side: int, system_fonts: bool = False) -> TextRenderer:
    """Return a renderer of square pages of one look; with the system's fonts, what they lack is replaced."""
    return TextRenderer(
        page_width_px=side,
        page_height_px=side,
        margin_px=_MARGIN_PX,
        font_size_px=_FONT_SIZE_PX,
        system_fonts=system_fonts,
        on_missing_glyph="replace" if system_fonts else "error",
    )


@dataclass(frozen=True)
class Measured:
    """A pipeline's pages a second in one process, against the yardstick's.

    Attributes:
        pipeline: what makes the pages.
        side_px: of the pages.
        characters: on each page.
        num_pages: in all rounds together.
        path: of the text, as for :class:`Excerpts`.
        known: what was drawn before each round: "nothing", so that the caches of glyphs and words are empty, "other
            pages" of the same text, or "these pages" too.
        process: make samples of the pages too.
    """

    pipeline: Pipeline
    side_px: int
    characters: int
    num_pages: int
    path: Path | None = None
    known: Literal["nothing", "other pages", "these pages"] = "other pages"
    process: bool = False

    def __call__(self) -> Result:
        """Measure in rounds and return the medians."""
        share = self.num_pages // ROUNDS
        documents = list(Excerpts(self.characters, (ROUNDS + 1) * share, self.path))
        warm, documents = documents[:share], documents[share:]
        pages = [self._lines(document) for document in documents]
        forget_drawn_text()
        for document in [*warm, *documents] if self.known == "these pages" else warm:
            self._make(document)
        bare_rates, rates = [], []
        for start in range(0, len(documents), share):
            part = slice(start, start + share)
            font = _font_of(pages[start][0][0])
            texts = [[text for _, text in lines] for lines in pages[part]]
            bare_rates.append(_rate(partial(self._draw_text, font), texts))
            if self.known == "nothing":
                forget_drawn_text()
            rates.append(_rate(self._make, documents[part]))
        rate = statistics.median(rates)
        return {
            "pages_per_s": rate,
            "pages_per_s_per_core": rate,
            "draw_text_pages_per_s": statistics.median(bare_rates),
            "ratio": statistics.median(rate / bare for rate, bare in zip(rates, bare_rates, strict=True)),
        }

    def _lines(self, document: Document) -> list[tuple[str, str]]:
        """Return the fonts and texts of a document's lines."""
        pages = self.pipeline.renderer(document, self.pipeline.layout_rng(document))
        return [(line.font, line.text) for page in pages for line in page.lines]

    def _make(self, document: Document) -> None:
        if self.process:
            self.pipeline.sample(document, None, 0)
        else:
            self.pipeline.pages(document, None, 0)

    def _draw_text(self, font: ImageFont.FreeTypeFont, lines: list[str]) -> None:
        """Draw a page as the yardstick does."""
        page = Image.new("RGB", (self.side_px, self.side_px), "white")
        pen = ImageDraw.Draw(page)
        for number, line in enumerate(lines):
            pen.text((_MARGIN_PX, _MARGIN_PX + 1.3 * _FONT_SIZE_PX * number), line, fill="black", font=font)


@cache
def _font_of(name: str) -> ImageFont.FreeTypeFont:
    """Return the font that most of a text is in, from the names that a line of a page gives."""
    faces = {face.name: face for face in (*reversed(FontLibrary().system_faces), *reversed(bundled_faces()))}
    face = faces[name.split(", ")[0]]
    return ImageFont.truetype(face.path, _FONT_SIZE_PX, index=face.index)


def _rate(make: Callable[[Any], None], things: Sequence[Any]) -> float:
    """Return how many a second ``make`` takes."""
    start = time.perf_counter()
    for thing in things:
        make(thing)
    return len(things) / (time.perf_counter() - start)


def measure_memory(num_pages: int, texts: Sequence[Path]) -> Result:
    """Draw pages of varied looks in this process, and return what it holds meanwhile.

    Args:
        num_pages: of 512 x 512 pixels, in three families and sizes from 10 to 20 pixels.
        texts: UTF-8 text files that are drawn in turn with Python's documentation.

    Returns:
        ``resident_mib`` of memory after a tenth, a half and all of the pages, as ``_after_1000`` and so on.
    """
    side, characters = SIZES[-1]
    renderer = replace(
        page_renderer(side, system_fonts=bool(texts)),
        fonts=("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"),
        font_size_px=(10.0, 20.0),
    )
    share = -(-num_pages // (1 + len(texts)))
    sources = [Excerpts(characters, share, path) for path in (None, *texts)]
    documents = islice(chain.from_iterable(zip(*sources, strict=True)), num_pages)
    process, looks = psutil.Process(), {max(num_pages // 10, 1), max(num_pages // 2, 1), num_pages}
    held = {}
    for number, document in enumerate(documents, start=1):
        renderer.page(document, np.random.default_rng(number), 0)
        if number in looks:
            held[f"resident_mib_after_{number}"] = process.memory_info().rss / 2**20
    return {"pages": num_pages, **held}
