"""Measure how fast backends train and what of the hardware they use: a table, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from deepsynth.measurement.backends import TRAINING, list_backends
from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting
from deepsynth.measurement.process import Question, measure_all


def benchmark_train(
    model_name: str = "deepsynth/tiny-random",
    weights: Literal["random", "pretrained"] = "random",
    config: Path | None = None,
    backends: Sequence[Path] = (),
    batch_sizes: Sequence[int] = (2, 8, 32),
    text_tokens: int = 768,
    pages: Sequence[Literal["new", "repeated"]] = ("new",),
    steps: int = 10,
    warmup_steps: int = 3,
    repeats: int = 3,
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    cell_limit_s: float = 900.0,
    time_budget_s: float | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Result]:
    """Measure samples per second, memory and utilization of training steps on synthetic pages.

    A batch is one page of the model's size and ``text_tokens`` of text a sample, made on the device, so that no data
    loader is in the figures. Operations and MFU are those of ``profiling.flops``; a CPU has no MFU.

    Args:
        model_name: what to train; ``deepsynth/full-size-ocr`` and ``deepsynth/full-size-ocr-2`` need no download.
        weights: ``random`` ones cost the same as published ones.
        config: a fit configuration, instead of ``model_name`` and ``weights``.
        backends: fit configurations of one backend each; by default transformers with experts in a loop and as grouped
            products, DeepSynth, and Unsloth where it is installed.
        batch_sizes: samples a step.
        text_tokens: of a sample.
        pages: ``new`` in every batch, or the same ``repeated``, which a cache of vision features (``vision_cache``)
            finds again.
        steps: of a repeat.
        warmup_steps: before the first repeat.
        repeats: the figures are medians over them.
        only: the cells whose name holds one of these: ``batch=8``, ``deepsynth``, ``train/batch=8/deepsynth``, …
        resume: go on with the results in ``output``.
        output: JSON file for the results, written after each cell.
        cell_limit_s: seconds that one cell may take, loading included.
        time_budget_s: begin no cell that could end later than this after the start; ``resume`` goes on.
        report: takes the table, a line at a time.

    Returns:
        Figures by cell, as :func:`deepsynth.measurement.training.measure_training` gives them.

    Raises:
        ValueError: for a name in ``only`` that fits no cell, or earlier results of other settings.
    """
    questions = [
        Question(
            f"train/batch={size}" + ("/repeated" if which == "repeated" else ""),
            "train",
            {
                "batch_size": size,
                "text_tokens": text_tokens,
                "steps": steps,
                "warmup_steps": warmup_steps,
                "repeats": repeats,
                "pages": which,
            },
        )
        for size in batch_sizes
        for which in pages
    ]
    settings: dict[str, Setting] = {
        "model": str(config) if config else f"{model_name}, {weights} weights",
        "text_tokens": text_tokens,
        "steps": steps,
        "warmup_steps": warmup_steps,
        "repeats": repeats,
    }
    report(f"{'cell':<44}{'samples/s':>11}{'tokens/s':>11}{'peak GiB':>10}{'MFU %':>8}")
    return measure_all(
        list_backends(TRAINING, config, backends, model_name, weights),
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
    peak = result.get("peak_allocated_gib", result.get("peak_rss_gib", 0.0))
    return f"{name:<44}{result['samples_per_s']:>11.2f}{result['tokens_per_s']:>11,.0f}{peak:>10.2f}" + (
        f"{100 * float(result['mfu']):>8.1f}" if "mfu" in result else f"{'':>8}"
    )
