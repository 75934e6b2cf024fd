"""Measure how many pages a second text becomes, against the plainest loop that draws it.

What a page costs depends on which words were drawn before it: cells named ``first`` begin with empty caches, cells
named ``again`` draw pages that were drawn before, and the others draw new pages after some of the same text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from deepsynth.data.augmentation.augmenter import Augmenter, PageAugmenter, Preset
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.measurement.cells import Cell, Result, run_cells
from deepsynth.measurement.page_rates import ROUNDS, SIZES, Excerpts, Measured, measure_memory, page_renderer

_SIDE_PX, _CHARACTERS = SIZES[0]
_BATCH_SIZE = 8


def benchmark_data(
    num_pages: int = 200,
    max_workers: int | None = None,
    model_name: str = "deepsynth/tiny-random",
    texts: Sequence[Path] = (),
    memory_pages: int = 0,
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
        memory_pages: pages of varied looks to draw one after the other for the cell ``memory``, which says what the
            process holds meanwhile; 0 leaves it out. It takes minutes: 10,000 pages show whether memory stays flat.
        only: the cells whose name holds one of these: ``render``, ``preset/scan``, ``processor``, ``loader``, …
        resume: go on with the results in ``output``.
        output: JSON file for the results, written after each cell.
        report: takes the table, a line at a time.

    Returns:
        Numbers by cell: ``pages_per_s``; ``ratio``, of the yardstick's pages a second in the same minutes; for the
        loader ``pages_per_s_per_core``; for ``memory`` what :func:`measure_memory` returns.

    Raises:
        ValueError: for too few pages, or a name in ``only`` that fits no cell.
    """
    if num_pages < 2 * ROUNDS:
        raise ValueError(f"num_pages is {num_pages}; allowed: {2 * ROUNDS} or more")
    if memory_pages < 0:
        raise ValueError(f"memory_pages is {memory_pages}; allowed: 0 (no cell) or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    report(f"{'cell':<28}{'pages/s':>9}{'per core':>10}{'draw.text':>11}{'ratio':>7}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # figures are per core
    files = [Path(text) for text in texts]
    cells = _cells(num_pages, max_workers or cores, cores, model_name, files)
    if memory_pages:
        cells.append(Cell("memory", partial(measure_memory, memory_pages, files)))
    try:
        return run_cells(
            cells,
            only=only,
            resume=resume,
            output=output,
            report=lambda name, result: report(_line(name, result)),
        )
    finally:
        torch.set_num_threads(threads)


def _line(name: str, result: Result) -> str:
    held = {key.rpartition("_")[2]: value for key, value in result.items() if key.startswith("resident_mib")}
    if held:
        return f"{name:<28}" + ", ".join(f"{value:.0f} MiB after {pages}" for pages, value in held.items())

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
        renderer = page_renderer(side, system_fonts=path is not None)
        clean = Measured(Pipeline(renderer, None, processor), side, characters, num_pages, path)
        cells.append(Cell(f"{name}/first", replace(clean, known="nothing")))
        cells.append(Cell(name, clean))
        cells.append(Cell(f"{name}/again", replace(clean, known="these pages")))
    augmenters: dict[str, Augmenter | None] = {name: PageAugmenter(name) for name in get_args(Preset)}
    for name, augmenter in augmenters.items():
        degraded = Measured(Pipeline(page_renderer(_SIDE_PX), augmenter, processor), _SIDE_PX, _CHARACTERS, num_pages)
        if name != "none":
            cells.append(Cell(f"preset/{name}", degraded))
        if name in ("none", "scan"):
            cells.append(Cell(f"processor/{name}", replace(degraded, process=True)))
    for workers in _doubling(max_workers):
        cells.append(Cell(f"loader/{workers}", partial(_loader, num_pages, workers, min(workers, cores), processor)))
    return cells


def _doubling(largest: int) -> list[int]:
    """Return 1, 2, 4, … and the largest itself."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


def _loader(num_pages: int, workers: int, cores: int, processor: OcrProcessor) -> Result:
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
    start = time.perf_counter()
    pages = sum(len(batch) for batch in loader)
    rate = pages / (time.perf_counter() - start)
    return {"pages_per_s": rate, "pages_per_s_per_core": rate / cores}
