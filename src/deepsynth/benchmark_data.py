"""Measure how many pages a second text becomes, against the plainest loop that draws it.

The yardstick is Pillow's ``ImageDraw.text``, called once a line, with the same lines in the same font on a page of the
same size. It is run in turn with what is measured, round by round, so that a machine that others use too slows both;
the figures are medians over the rounds.
"""

from __future__ import annotations

import os
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image, ImageDraw, ImageFont

from deepsynth.benchmark import Cell, Result, run_cells
from deepsynth.data.augmenter import Augmenter, PageAugmenter
from deepsynth.data.augmenter_presets import Preset
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.data.dataset import Pipeline
from deepsynth.data.fonts import bundled_faces
from deepsynth.data.processor import OcrProcessor
from deepsynth.data.python_docs import PythonDocsSource
from deepsynth.data.renderer import TextRenderer
from deepsynth.data.source import Source
from deepsynth.types import Document

#: Side of the page in pixels, and characters on it: a full page of a book, and a note.
SIZES = ((1024, 1500), (512, 300))
_SIDE_PX, _CHARACTERS = SIZES[0]
_FONT_SIZE_PX, _MARGIN_PX = 20, 48
_BATCH_SIZE = 8
_ROUNDS = 5


@dataclass(frozen=True)
class Excerpts(Source):
    """The prose of Python's own documentation, cut into documents of equal length at white space.

    Attributes:
        characters: of each document.
        count: of documents; it begins again when there is not enough text.
    """

    characters: int
    count: int

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents."""
        text = _documentation(self.characters * self.count)
        start = 0
        for number in range(self.count):
            if start + self.characters > len(text):
                start = 0
            end = text.rindex(" ", start, start + self.characters + 1)
            yield Document(id=str(number), text=text[start:end])
            start = end + 1


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
    report(f"{'cell':<22}{'pages/s':>9}{'per core':>10}{'draw.text':>11}{'ratio':>7}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # figures are per core
    try:
        return run_cells(
            _cells(num_pages, max_workers or cores, cores, model_name),
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
        f"{name:<22}{figure('pages_per_s', 9, 1)}{figure('pages_per_s_per_core', 10, 1)}"
        f"{figure('draw_text_pages_per_s', 11, 1)}{figure('ratio', 7, 2)}"
    )


def _cells(num_pages: int, max_workers: int, cores: int, model_name: str) -> list[Cell]:
    processor = OcrProcessor(model_name, mode="base", max_tokens=10**6)
    cells = []
    for side, characters in SIZES:
        clean = Measured(Pipeline(_renderer(side), None, processor), side, characters, num_pages)
        cells.append(Cell(f"render/{side}", clean))
        cells.append(Cell(f"render/{side}/again", replace(clean, drawn_before=True)))
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


def _renderer(side: int) -> TextRenderer:
    return TextRenderer(page_width_px=side, page_height_px=side, font_size_px=_FONT_SIZE_PX, system_fonts=False)


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
        drawn_before: draw the same documents before, so that every word is in the renderer's caches; otherwise only
            other documents are.
        process: make samples of the pages too.
    """

    pipeline: Pipeline
    side_px: int
    characters: int
    num_pages: int
    drawn_before: bool = False
    process: bool = False

    def __call__(self) -> Result:
        """Measure in rounds and return the medians."""
        share = self.num_pages // _ROUNDS
        documents = list(Excerpts(self.characters, (_ROUNDS + 1) * share))
        warm, documents = documents[:share], documents[share:]
        for document in [*warm, *documents] if self.drawn_before else warm:
            self._make(document)
        bare_rates, rates = [], []
        for start in range(0, len(documents), share):
            part = documents[start : start + share]
            pages = [textwrap.wrap(document.text, self._line_characters) for document in part]
            bare_rates.append(_rate(self._draw_text, pages))
            rates.append(_rate(self._make, part))
        rate = statistics.median(rates)
        return {
            "pages_per_s": rate,
            "pages_per_s_per_core": rate,
            "draw_text_pages_per_s": statistics.median(bare_rates),
            "ratio": statistics.median(rate / bare for rate, bare in zip(rates, bare_rates, strict=True)),
        }

    def _make(self, document: Document) -> None:
        if self.process:
            self.pipeline.sample(document, None, 0)
        else:
            self.pipeline.pages(document, None, 0)

    @property
    def _line_characters(self) -> int:
        return int((self.side_px - 2 * _MARGIN_PX) / (0.55 * _FONT_SIZE_PX))  # DejaVu Sans' mean width in English

    def _draw_text(self, lines: list[str]) -> None:
        """Draw a page as the yardstick does."""
        page = Image.new("RGB", (self.side_px, self.side_px), "white")
        pen = ImageDraw.Draw(page)
        for number, line in enumerate(lines):
            pen.text((_MARGIN_PX, _MARGIN_PX + 1.3 * _FONT_SIZE_PX * number), line, fill="black", font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(bundled_faces()[0].path, _FONT_SIZE_PX)


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
