"""Measure how fast backends read: latency, rate and memory as a table, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from deepsynth.measurement.backends import GENERATION, list_backends
from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting
from deepsynth.measurement.process import Question, measure_all


def benchmark_generate(
    model_name: str = "deepsynth/tiny-random",
    weights: Literal["random", "pretrained"] = "random",
    config: Path | None = None,
    backends: Sequence[Path] = (),
    batch_sizes: Sequence[int] = (1, 4, 16, 64),
    new_tokens: int = 128,
    num_pages: int = 64,
    source_batch_size: int = 16,
    repeats: int = 3,
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    cell_limit_s: float = 900.0,
    time_budget_s: float | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Result]:
    """Measure the time to the first token, the time of each token after it, tokens and pages a second, and memory.

    The cells ``generate/batch=…`` read synthetic pages of the model's size; ``source`` reads rendered pages of the
    configuration's source as ``deepsynth predict`` does.

    Args:
        model_name: what reads; ``deepsynth/full-size-ocr`` and ``deepsynth/full-size-ocr-2`` need no download.
        weights: ``random`` ones cost the same as published ones.
        config: a fit configuration, instead of ``model_name`` and ``weights``.
        backends: fit configurations of one backend each; by default transformers' own generation, DeepSynth's, and
            Unsloth's where it is installed.
        batch_sizes: pages at once.
        new_tokens: most that are written for a page.
        num_pages: of the source, between a first and a last batch; 0 leaves it out.
        source_batch_size: pages of the source at once.
        repeats: the figures are medians over them.
        only: the cells whose name holds one of these: ``batch=16``, ``deepsynth``, ``source``, …
        resume: go on with the results in ``output``.
        output: JSON file for the results, written after each cell.
        cell_limit_s: seconds that one cell may take, loading included.
        time_budget_s: begin no cell that could end later than this after the start; ``resume`` goes on.
        report: takes the table, a line at a time.

    Returns:
        Figures by cell, as :mod:`deepsynth.measurement.generation` gives them.

    Raises:
        ValueError: for a name in ``only`` that fits no cell, or earlier results of other settings.
    """
    questions = [
        Question(
            f"generate/batch={size}",
            "generate",
            {"batch_size": size, "text_tokens": 1, "new_tokens": new_tokens, "repeats": repeats},
        )
        for size in batch_sizes
    ]
    if num_pages:
        options = {"batch_size": source_batch_size, "num_pages": num_pages, "new_tokens": new_tokens}
        questions.append(Question("source", "source", options))
    settings: dict[str, Setting] = {
        "model": str(config) if config else f"{model_name}, {weights} weights",
        "new_tokens": new_tokens,
        "num_pages": num_pages,
        "source_batch_size": source_batch_size,
        "repeats": repeats,
    }
    report(f"{'cell':<44}{'prefill ms':>12}{'ms/token':>10}{'tokens/s':>10}{'pages/s':>9}{'peak GiB':>10}")
    return measure_all(
        list_backends(GENERATION, config, backends, model_name, weights),
        questions,
        line=_line,
        report=report,
        only=only,
        resume=resume,
        output=output,
        logs=None if output is None else output.with_suffix(".logs"),
        settings=settings,
        cell_limit_s=cell_limit_s,
        time_budget_s=time_budget_s,
    )


def _line(name: str, result: Result) -> str:
    if NOT_MEASURED in result:
        return f"{name:<44}not measured: {result[NOT_MEASURED]}"

    def figure(key: str, width: int, digits: int) -> str:
        return f"{result[key]:>{width},.{digits}f}" if key in result else " " * width

    peak = "peak_allocated_gib" if "peak_allocated_gib" in result else "peak_rss_gib"
    return (
        f"{name:<44}{figure('prefill_ms', 12, 1)}{figure('ms_per_token', 10, 2)}{figure('tokens_per_s', 10, 1)}"
        f"{figure('pages_per_s', 9, 2)}{figure(peak, 10, 2)}"
    )
