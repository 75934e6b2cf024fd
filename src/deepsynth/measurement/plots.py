"""Plots of a comparison as SVG that stands in a page: bars with their labels above them, so that it stays narrow."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from deepsynth.measurement.tables import Comparison

#: Width of a plot in its own units, and heights of a row's label and bar.
WIDTH, LABEL, BAR, GAP = 400, 17, 14, 9
#: Of the bars, by backend or phase; readable on white and on black, apart for the colour-blind (Okabe and Ito 2008).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a00", "#7a7a7a")


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: above it, at the left.
        parts: lengths, one after another, each with its colour's number.
        text: above it, at the right.
        low: where the whisker begins; ``None`` for no whisker.
        high: where it ends.
    """

    label: str
    parts: tuple[tuple[float, int], ...]
    text: str
    low: float | None = None
    high: float | None = None


def plot(title: str, bars: list[Bar], legend: list[str] | None = None) -> str:
    """Return a figure with horizontal bars.

    Args:
        title: its caption.
        bars: from top to bottom.
        legend: names of the colours, for bars of several parts.
    """
    most = max([sum(length for length, _ in bar.parts) for bar in bars] + [bar.high or 0.0 for bar in bars])
    scale = WIDTH / most if most else 0.0
    drawn, y = [], 0
    for bar in bars:
        drawn.append(f'<text x="0" y="{y + LABEL - 5}">{escape(bar.label)}</text>')
        drawn.append(f'<text x="{WIDTH}" y="{y + LABEL - 5}" class="figure">{escape(bar.text)}</text>')
        y, x = y + LABEL, 0.0
        for length, color in bar.parts:
            fill = COLORS[color % len(COLORS)]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(length * scale, 0.5):.1f}" height="{BAR}" fill="{fill}"/>'
            )
            x += length * scale
        if bar.low is not None and bar.high is not None and bar.high > bar.low:
            middle, left, right = y + BAR / 2, bar.low * scale, bar.high * scale
            drawn.append(f'<path class="whisker" d="M{left:.1f} {middle}H{right:.1f}"/>')
        y += BAR + GAP
    names = "".join(
        f'<li><i style="background:{COLORS[number % len(COLORS)]}"></i>{escape(name)}</li>'
        for number, name in enumerate(legend or [])
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {y}" role="img" '
        f'aria-label="{escape(title)}">{"".join(drawn)}</svg>{f"<ul>{names}</ul>" if names else ""}</figure>'
    )


#: Cell, key, title, unit and digits of every simple plot.
_SIMPLE = (
    ("train", "samples_per_s", "Training: samples/s", 2),
    ("train", "peak_allocated_gib", "Training: peak GiB allocated", 2),
    ("train", "peak_rss_gib", "Training: peak GiB resident", 2),
    ("load", "weights_gib", "Weights: GiB", 3),
    ("generate", "ms_per_token", "Reading: ms a token", 2),
    ("generate", "prefill_ms", "Reading: ms to the first token", 1),
    ("generate", "tokens_per_s", "Reading: tokens/s", 1),
    ("largest_batch", "largest_batch", "Largest batch", 0),
    ("longest_context", "longest_context", "Longest context: positions", 0),
)


def plots(c: Comparison) -> list[str]:
    """Return a figure for everything that was measured."""
    found = [plot(title, bars) for cell, key, title, digits in _SIMPLE if (bars := _bars(c, cell, key, digits))]
    if phases := _phase_bars(c):
        found.append(plot("Where a step's time goes: ms", phases, list(_PHASES)))
    if quality := _quality_bars(c):
        found.append(plot("CER on the validation set, before and after", quality))
    return found


def _bars(c: Comparison, measure: str, key: str, digits: int) -> list[Bar]:
    bars = []
    for cell in c.cells(measure):
        for number, backend in enumerate(c.backends):
            value = c.value(cell, backend, key)
            if value is not None:
                low, high = c.value(cell, backend, f"{key}_low"), c.value(cell, backend, f"{key}_high")
                label = _label(cell, backend)
                bars.append(Bar(label, ((value, number),), f"{value:,.{digits}f}", low, high))
    return bars


#: What a step's parts are called, by their keys' order.
_PHASES = {
    "data": "data_ms",
    "vision": "vision_ms",
    "decoder forward": "decoder_ms",
    "backward": "backward_ms",
    "optimizer": "optimizer_ms",
}


def _phase_bars(c: Comparison) -> list[Bar]:
    bars = []
    for cell in c.cells("phases"):
        for backend in c.backends:
            lengths = [c.value(cell, backend, key) for key in _PHASES.values()]
            parts = tuple((length, number) for number, length in enumerate(lengths) if length is not None)
            if parts:
                bars.append(Bar(_label(cell, backend), parts, f"{sum(length for length, _ in parts):,.0f} ms"))
    return bars


def _quality_bars(c: Comparison) -> list[Bar]:
    bars = []
    for number, backend in enumerate(c.backends):
        for when in ("before", "after"):
            value = c.value("quality", backend, f"cer_{when}")
            if value is not None:
                bars.append(Bar(f"{backend}, {when}", ((value, number),), f"{value:.3f}"))
    return bars


def _label(cell: str, backend: str) -> str:
    work = cell.partition("/")[2].replace("=", " ")
    return f"{backend}, {work}" if work else backend
