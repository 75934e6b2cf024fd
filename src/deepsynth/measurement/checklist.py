"""The checklist of a comparison: each target passed, failed or not measured, with the figure and the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepsynth.measurement.cells import NOT_MEASURED
from deepsynth.measurement.tables import Comparison

State = Literal["passed", "failed", "not measured"]


@dataclass(frozen=True)
class Line:
    """One line of the checklist.

    Attributes:
        claim: the target.
        backend: that it is checked for.
        state: passed, failed or not measured.
        figure: the number with its baseline, or why there is none.
    """

    claim: str
    backend: str
    state: State
    figure: str


@dataclass(frozen=True)
class RatioTarget:
    """A bound on the ratio of a figure to the baseline's.

    Attributes:
        claim: the target in words.
        measure: the measurement, as in the names of cells.
        key: of the figure.
        unit: for the text.
        bound: of the ratio.
        at_least: whether the ratio must be at least the bound, or at most.
    """

    claim: str
    measure: str
    key: str
    unit: str
    bound: float
    at_least: bool = False


def checklist(c: Comparison) -> list[Line]:
    """Return the lines; those about ratios, once for every backend but the baseline.

    Speed, memory and latency are targets for a GPU: on a CPU they are not measured, and the line has the CPU's figure.
    """
    peak = "peak_allocated_gib" if c.on_gpu else "peak_rss_gib"
    targets = (
        RatioTarget("trains at least 1.3 times as fast", "train", "samples_per_s", "samples/s", 1.3, at_least=True),
        RatioTarget("needs at least 35 % less GPU memory", "train", peak, "peak GiB", 0.65),
        RatioTarget("latency at least 40 % lower", "generate", "ms_per_token", "ms a token", 0.6),
    )
    others = [backend for backend in c.backends if backend != c.baseline]
    return [
        *(_loads(c, backend) for backend in c.backends),
        *(_ratio(c, target, backend) for target in targets for backend in others),
        *(_cer(c, backend) for backend in c.backends),
        *(_no_regression(c, backend) for backend in c.backends),
    ]


def _loads(c: Comparison, backend: str) -> Line:
    result = c.get("load", backend)
    gib, seconds = c.value("load", backend, "weights_gib"), c.value("load", backend, "load_s")
    if gib is not None and seconds is not None:
        return Line("loads", backend, "passed", f"{result['module']}: {gib:.2f} GiB of weights in {seconds:.1f} s")
    # Unsloth needs a GPU and its package; where both are there, not loading is a failure.
    known = c.on_gpu and f"load/{backend}" in c.results and ("unsloth" in c.environment or "unsloth" not in backend)
    return Line("loads", backend, "failed" if known else "not measured", str(result[NOT_MEASURED]))


def _ratio(c: Comparison, target: RatioTarget, backend: str) -> Line:
    """Judge a ratio to the baseline by the least favorable cell."""
    ratios = [(ratio, cell) for cell in c.cells(target.measure) if (ratio := c.ratio(cell, backend, target.key))]
    if not ratios:
        reason = f"no cell was measured for both {backend} and {c.baseline}"
        return Line(target.claim, backend, "not measured", reason)
    ratio, cell = min(ratios) if target.at_least else max(ratios)
    own, base = c.value(cell, backend, target.key), c.value(cell, c.baseline, target.key)
    shown = f"{ratio:.2f}×" if target.at_least else f"{100 * (ratio - 1):+.0f} %"
    work = cell.partition("/")[2].replace("=", " ")
    figure = (
        f"{shown}: {own:.2f} {target.unit}, {c.baseline} has {base:.2f} ({work}, the least favorable of {len(ratios)})"
    )
    if not c.on_gpu:
        return Line(target.claim, backend, "not measured", f"needs a GPU; on this CPU {figure}")
    reached = ratio >= target.bound if target.at_least else ratio <= target.bound
    return Line(target.claim, backend, "passed" if reached else "failed", figure)


def _cer(c: Comparison, backend: str) -> Line:
    claim = "halves the CER on the validation set"
    before, after = c.value("quality", backend, "cer_before"), c.value("quality", backend, "cer_after")
    if before is None or after is None:
        return Line(claim, backend, "not measured", str(c.get("quality", backend)[NOT_MEASURED]))
    fell = 1 - after / before if before else 0.0
    steps = c.get("quality", backend)["quality_steps"]
    figure = f"{-100 * fell:+.0f} %: {after:.3f} after {steps} steps of fine-tuning, {before:.3f} before"
    return Line(claim, backend, "passed" if fell >= 0.5 else "failed", figure)


def _no_regression(c: Comparison, backend: str) -> Line:
    claim = "keeps ROUGE and BLEU"
    known = [
        (metric, before, after)
        for metric in ("rouge1", "rouge2", "rougeL", "bleu")
        if (before := c.value("quality", backend, f"{metric}_before")) is not None
        and (after := c.value("quality", backend, f"{metric}_after")) is not None
    ]
    if not known:
        return Line(claim, backend, "not measured", str(c.get("quality", backend).get(NOT_MEASURED, "no such metric")))
    fallen = any(after < before for _, before, after in known)
    figure = ", ".join(f"{metric} {before:.3f} → {after:.3f}" for metric, before, after in known)
    return Line(claim, backend, "failed" if fallen else "passed", f"before → after fine-tuning: {figure}")
