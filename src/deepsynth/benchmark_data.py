"""Measure how many pages a second text becomes, against the plainest loop that draws it.

The yardstick is Pillow's ``ImageDraw.text``, called once a line, with the lines of our pages in their font, on a page
of the same size. It is run in turn with what is measured, round by round, so that a machine that others use too slows
both; the figures are medians over the rounds. What a page costs depends on which words were drawn before it: cells
named ``first`` begin with empty caches, cells named ``again`` draw pages that were drawn before, and the others draw
new pages after some of the same text.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image, ImageDraw, ImageFont

from deepsynth.benchmark import Cell, Result, run_cells
from deepsynth.data.augmenter import Augmenter, PageAugmenter
from deepsynth.data.augmenter_presets import Preset
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.data.dataset import Pipeline
from deepsynth.data.font_library import FontLibrary
from deepsynth.data.fonts import bundled_faces
from deepsynth.data.processor import OcrProcessor
from deepsynth.data.python_docs import PythonDocsSource
from deepsynth.data.renderer import TextRenderer, forget_drawn_text
from deepsynth.data.source import Source, decoded_lines
from deepsynth.types import Document

#: Side of the page in pixels, and characters on it: a full page of a book, and a note.
SIZES = ((1024, 1500), (512, 300))
_SIDE_PX, _CHARACTERS = SIZES[0]
_FONT_SIZE_PX, _MARGIN_PX = 20, 48
_BATCH_SIZE = 8
_ROUNDS = 5


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


def benchmark_data(
    num_pages: int = 200,
    max_workers: int | None = None,
    model_name: str = "deepsynth/tiny-random",
    texts: Sequence[Path] = (),
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Result]:
    """Measure pages a second for rendering, each preset, the processor and the loader.

    Args:
        num_pages: for each figure.
        max_workers: most processes of the loader; by default as many as there are cores.
        model_name: whose tokenizer and image processor to use, at the model's mode ``base`` (1024 x 1024).
        texts: UTF-8 text files in any script, each for cells of its own, as ``render/1024/arabic`` for ``arabic.txt``.
        only: the cells whose name holds one of these: ``render``, ``preset/scan``, ``processor``, ``loader``, …
        resume: go on with the results in ``output``.
        output: JSON file for the results, written after each cell.
        report: takes the table, a line at a time.

    Returns:
        Numbers by cell: ``pages_per_s``; ``ratio``, of the yardstick's pages a second in the same minutes; for the
        loader ``pages_per_s_per_core``.

    Raises:
        ValueError: for too few pages, or a name in ``only`` that fits no cell.
    """
    if num_pages < 2 * _ROUNDS:
        raise ValueError(f"num_pages is {num_pages}; allowed: {2 * _ROUNDS} or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    report(f"{'cell':<28}{'pages/s':>9}{'per core':>10}{'draw.text':>11}{'ratio':>7}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # figures are per core
    try:
        return run_cells(
            _cells(num_pages, max_workers or cores, cores, model_name, [Path(text) for text in texts]),
            only=only,
            resume=resume,
            output=output,
            report=lambda name, result: report(_line(name, result)),
        )
    finally:
        torch.set_num_threads(threads)


def _line(name: str, result: Result) -> str:
    def figure(key: str, width: int, digits: int) -> str:
        return f"{result[key]:>{width}.{digits}f}" if key in result else " " * width

    return (
        f"{name:<28}{figure('pages_per_s', 9, 1)}{figure('pages_per_s_per_core', 10, 1)}"
        f"{figure('draw_text_pages_per_s', 11, 1)}{figure('ratio', 7, 2)}"
    )


def _cells(num_pages: int, max_workers: int, cores: int, model_name: str, texts: Sequence[Path]) -> list[Cell]:
    processor = OcrProcessor(model_name, mode="base", max_tokens=10**6)
    cells = []
    sheets: list[tuple[str, int, int, Path | None]] = [
        (f"render/{side}", side, characters, None) for side, characters in SIZES
    ]
    sheets += [(f"render/{_SIDE_PX}/{path.stem}", _SIDE_PX, _CHARACTERS, path) for path in texts]
    for name, side, characters, path in sheets:
        renderer = _renderer(side, system_fonts=path is not None)
        clean = Measured(Pipeline(renderer, None, processor), side, characters, num_pages, path)
        cells.append(Cell(f"{name}/first", replace(clean, known="nothing")))
        cells.append(Cell(name, clean))
        cells.append(Cell(f"{name}/again", replace(clean, known="these pages")))
    augmenters: dict[str, Augmenter | None] = {name: PageAugmenter(name) for name in get_args(Preset)}
    for name, augmenter in augmenters.items():
        degraded = Measured(Pipeline(_renderer(_SIDE_PX), augmenter, processor), _SIDE_PX, _CHARACTERS, num_pages)
        if name != "none":
            cells.append(Cell(f"preset/{name}", degraded))
        if name in ("none", "scan"):
            cells.append(Cell(f"processor/{name}", replace(degraded, process=True)))
    for workers in _doubling(max_workers):
        cells.append(Cell(f"loader/{workers}", partial(_loader, num_pages, workers, min(workers, cores), processor)))
    return cells


def _renderer(side: int, system_fonts: bool = False) -> TextRenderer:
    return TextRenderer(
        page_width_px=side,
        page_height_px=side,
        margin_px=_MARGIN_PX,
        font_size_px=_FONT_SIZE_PX,
        system_fonts=system_fonts,
        on_missing_glyph="replace" if system_fonts else "error",
    )


def _doubling(largest: int) -> list[int]:
    """Return 1, 2, 4, … and the largest itself."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


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
        share = self.num_pages // _ROUNDS
        documents = list(Excerpts(self.characters, (_ROUNDS + 1) * share, self.path))
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


def _loader(num_pages: int, workers: int, cores: int, processor: OcrProcessor) -> Result:
    """Measure batches of scanned pages as training gets them: the second epoch, when the workers run."""
    data = TextImageDataModule(
        Excerpts(_CHARACTERS, num_pages),
        _renderer(_SIDE_PX),
        PageAugmenter("scan"),
        processor,
        val_fraction=0.0,
        test_fraction=0.0,
        batch_size=_BATCH_SIZE,
        num_workers=workers,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    for _ in loader:
        pass
    start = time.perf_counter()
    pages = sum(len(batch) for batch in loader)
    rate = pages / (time.perf_counter() - start)
    return {"pages_per_s": rate, "pages_per_s_per_core": rate / cores}
