"""The figures of a run's report, as SVG."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.data.text.unicode_scripts import script_of
from deepsynth.metrics.corpus import summarize
from deepsynth.metrics.scores import score_table

if TYPE_CHECKING:
    from markupsafe import Markup

#: A curve is smoothed over this many rows where it has more than ten times as many.
_SMOOTHING = 10


@dataclass(frozen=True)
class Scored:
    """A sample of validation with its error.

    Attributes:
        name: id.
        prediction: generated text.
        target: text of the page.
        cer: edits over the length of the target.
        script: that of most letters of the target, "" without letters.
    """

    name: str
    prediction: str
    target: str
    cer: float
    script: str


def score_rows(rows: Sequence[dict[str, Any]]) -> list[Scored]:
    """Return the rows of a validation that have a target, each with its CER."""
    known = [row for row in rows if row["target"]]
    table = score_table([row["prediction"] for row in known], [row["target"] for row in known])
    return [
        Scored(row["id"], row["prediction"], row["target"], summarize(table[i : i + 1])["cer"], script(row["target"]))
        for i, row in enumerate(known)
    ]


def script(text: str) -> str:
    """Return the script of most letters of a text; "" when it has none."""
    counts = Counter(script_of(character) for character in text if character.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


def cer_by_script(scored: Sequence[Scored]) -> dict[str, tuple[float, int]]:
    """Return the corpus CER and the number of samples of each script, the most frequent first."""
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.script or "no letters", []).append(one)
    found = {}
    for name, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        table = score_table([one.prediction for one in group], [one.target for one in group])
        found[name] = (summarize(table)["cer"], len(group))
    return found


def read_curves(file: Path, keys: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Return (step, value) pairs of each key that a ``metrics.csv`` has; none when there is no such file."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for key in keys:
                    if row.get(key) and row.get("step"):
                        curves.setdefault(key, []).append((float(row["step"]), float(row[key])))
    return curves


def draw_curves(curves: dict[str, list[tuple[float, float]]], label: str) -> Markup:
    """Return curves over steps."""
    figure, axes = _figure()
    for key, points in curves.items():
        steps, values = zip(*points, strict=True)
        smooth = key.startswith("train/") and len(values) > 10 * _SMOOTHING
        axes.plot(steps, _smoothed(values) if smooth else values, label=key, marker="" if len(values) > 30 else "o")
    axes.set(xlabel="step", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)  # there are no half steps
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.legend()
    return _svg(figure)


def draw_cer_by_length(scored: Sequence[Scored]) -> Markup:
    """Return the CER of each sample over the length of its target."""
    figure, axes = _figure()
    axes.scatter([len(one.target) for one in scored], [one.cer for one in scored], s=16, alpha=0.6)
    axes.set(xlabel="characters of the target", ylabel="CER")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    return _svg(figure)


def draw_cer_by_script(figures: dict[str, tuple[float, int]]) -> Markup:
    """Return a bar for the CER of each script."""
    figure, axes = _figure()
    labels = [f"{name} ({count})" for name, (_, count) in figures.items()]
    bars = axes.barh(labels[::-1], [cer for cer, _ in figures.values()][::-1], height=0.5)
    axes.set_ylim(-1, len(labels))
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.set(xlabel="CER; samples in parentheses")
    axes.margins(x=0.15)
    return _svg(figure)


def draw_lengths(lengths: Sequence[int], budget: int | None) -> Markup:
    """Return a histogram of the tokens of training samples, with the budget."""
    figure, axes = _figure()
    axes.hist(lengths, bins=24)
    if budget is not None:
        axes.axvline(budget, color="tab:red", label=f"data.max_tokens: {budget:,}")
        axes.legend()
    axes.set(xlabel="tokens of a sample, image and text", ylabel="samples")
    axes.set_xlim(left=0)
    return _svg(figure)


def _smoothed(values: Sequence[float]) -> list[float]:
    half = _SMOOTHING // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> Markup:
    """Return a figure as an SVG element; its texts stay texts and are escaped by matplotlib."""
    from markupsafe import Markup
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "deepsynth"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(buffer.getvalue().partition("<svg")[2].join(("<svg", "")))
