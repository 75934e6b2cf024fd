"""Measure pages/s of rendering, augmentation, the processor and the loader."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

import torch

from deepsynth.data.augmentation.augmenter import Augmenter, PageAugmenter
from deepsynth.data.augmentation.presets import Preset
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.rendering.renderer import TextRenderer, forget_drawn_text
from deepsynth.data.sources.base import Source
from deepsynth.data.sources.python_docs import PythonDocsSource
from deepsynth.data.sources.row_files import decoded_lines
from deepsynth.errors import UserError
from deepsynth.measurement.benchmark import format_head, format_row
from deepsynth.measurement.cells import Cell, Result, run_cells
from deepsynth.profiling.cores import available_cores
from deepsynth.types import Document

#: Side of the page in pixels, and characters on it: a full page of a book, and a note.
SIZES = ((1024, 1500), (512, 300))
#: Rounds of a measurement; the figure is their median, so that a moment in which the machine is busy does not count.
ROUNDS = 5
_SIDE_PX, _CHARACTERS = SIZES[0]
_BATCH_SIZE = 8
_COLUMNS = (("pages/s", "pages_per_s", 10, 1, 1), ("per core", "pages_per_s_per_core", 10, 1, 1))


@dataclass(frozen=True, kw_only=True)
class DataBenchmark:
    """Measure pages/s for rendering, each preset, the processor and the loader.

    The cells ``render/1024/first`` and ``…/again`` render with empty caches of glyphs and words, and pages that were
    rendered before; the other cells render new pages of a known vocabulary.

    Attributes:
        num_pages: for each figure.
        max_workers: most processes of the loader; by default as many as there are cores.
        model_name: whose tokenizer and image processor to use, at the model's mode ``base`` (1024 x 1024).
        texts: UTF-8 text files in any script, each with its own cells, as ``render/1024/arabic`` for ``arabic.txt``.
        only: select cells by a part of their names: ``render``, ``preset/scan``, ``processor``, ``loader``, …
        resume: continue with the results in ``output``.
        output: JSON file for the results, written after each cell.
    """

    num_pages: int = 200
    max_workers: int | None = None
    model_name: str = "deepsynth/tiny-random"
    texts: Sequence[Path] = ()
    only: Sequence[str] = ()
    resume: bool = False
    output: Path | None = None

    def run(self, report: Callable[[str], None] = print) -> dict[str, Result]:
        """Measure, and return ``pages_per_s`` and ``pages_per_s_per_core`` by cell.

        Args:
            report: takes the table, a line at a time.

        Raises:
            UserError: for too few pages, or a name in ``only`` that selects no cell.
        """
        if self.num_pages < 2 * ROUNDS:
            raise UserError(f"num_pages is {self.num_pages}; it must be at least {2 * ROUNDS}")
        report(format_head(_COLUMNS))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # figures are per core
        try:
            return run_cells(
                self.cells(),
                only=self.only,
                resume=self.resume,
                output=self.output,
                report=lambda name, result: report(format_row(name, result, _COLUMNS)),
            )
        finally:
            torch.set_num_threads(threads)

    def cells(self) -> list[Cell]:
        """Return what is measured."""
        processor = OcrProcessor(self.model_name, mode="base", max_tokens=10**6)
        cells = []
        pages: list[tuple[str, int, int, Path | None]] = [
            (f"render/{side}", side, characters, None) for side, characters in SIZES
        ]
        pages += [(f"render/{_SIDE_PX}/{path.stem}", _SIDE_PX, _CHARACTERS, path) for path in map(Path, self.texts)]
        for name, side, characters, path in pages:
            renderer = page_renderer(side, system_fonts=path is not None)
            clean = PageRate(Pipeline(renderer, None, processor), characters, self.num_pages, path)
            cells.append(Cell(f"{name}/first", replace(clean, known="nothing")))
            cells.append(Cell(name, clean))
            cells.append(Cell(f"{name}/again", replace(clean, known="these pages")))
        augmenters: dict[str, Augmenter | None] = {name: PageAugmenter(name) for name in get_args(Preset)}
        for name, augmenter in augmenters.items():
            degraded = PageRate(Pipeline(page_renderer(_SIDE_PX), augmenter, processor), _CHARACTERS, self.num_pages)
            if name != "none":
                cells.append(Cell(f"preset/{name}", degraded))
            if name in ("none", "scan"):
                cells.append(Cell(f"processor/{name}", replace(degraded, process=True)))
        cores = available_cores()
        for workers in _doubling(self.max_workers or cores):
            measure = partial(_loader_rate, self.num_pages, workers, min(workers, cores), processor)
            cells.append(Cell(f"loader/{workers}", measure))
        return cells


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
            UserError: for a file that is shorter than one document, or no UTF-8.
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
                raise UserError(f"{self.path}: {len(text)} characters, and one page takes {self.characters}")
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
    """Return a renderer of square pages of one style; with the system's fonts, what they lack is replaced."""
    return TextRenderer(
        page_width_px=side,
        page_height_px=side,
        margin_px=48,
        font_size_px=20,
        system_fonts=system_fonts,
        on_missing_glyph="replace" if system_fonts else "error",
    )


@dataclass(frozen=True)
class PageRate:
    """Measures a pipeline's pages/s in one process.

    Attributes:
        pipeline: what makes the pages.
        characters: on each page.
        num_pages: in all rounds together.
        path: of the text, as for :class:`Excerpts`.
        known: what was drawn before each round: "nothing", so that the caches of glyphs and words are empty, "other
            pages" of the same text, or "these pages" too.
        process: make samples of the pages too.
    """

    pipeline: Pipeline
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
        forget_drawn_text()
        for document in [*warm, *documents] if self.known == "these pages" else warm:
            self._make(document)
        rates = []
        for first in range(0, len(documents), share):
            if self.known == "nothing":
                forget_drawn_text()
            start = time.perf_counter()
            for document in documents[first : first + share]:
                self._make(document)
            rates.append(share / (time.perf_counter() - start))
        rate = statistics.median(rates)
        return {"pages_per_s": rate, "pages_per_s_per_core": rate}

    def _make(self, document: Document) -> None:
        if self.process:
            self.pipeline.sample(document, None, 0)
        else:
            self.pipeline.pages(document, None, 0)


def _doubling(largest: int) -> list[int]:
    """Return 1, 2, 4, … and the largest itself."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


def _loader_rate(num_pages: int, workers: int, cores: int, processor: OcrProcessor) -> Result:
    """Measure batches of scanned pages as training gets them: the second epoch, when the workers run."""
    data = TextImageDataModule(
        Excerpts(_CHARACTERS, num_pages),
        page_renderer(_SIDE_PX),
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
    loader.sampler.set_epoch(1)
    start = time.perf_counter()
    pages = sum(len(batch) for batch in loader)
    rate = pages / (time.perf_counter() - start)
    return {"pages_per_s": rate, "pages_per_s_per_core": rate / cores}
