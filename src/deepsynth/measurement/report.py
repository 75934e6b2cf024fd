"""The report of a comparison: Markdown, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence

from deepsynth.io.html import render_page
from deepsynth.measurement.checklist import checklist
from deepsynth.measurement.tables import Comparison, Table, missing, tables

TITLE = "DeepSynth: backends side by side"

#: Of the bars, by backend or phase; also apart for color-blind readers (Okabe and Ito 2008).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a00", "#7a7a7a")

#: Measurement, key, title and digits of every plot of single bars.
PLOTS = (
    ("train", "samples_per_s", "Training: samples/s", 2),
    ("train", "peak_allocated_gib", "Training: peak GiB allocated", 2),
    ("train", "peak_rss_gib", "Training: peak GiB resident", 2),
    ("load", "weights_gib", "Weights: GiB", 3),
    ("generate", "ms_per_token", "Generation: ms a token", 2),
    ("generate", "prefill_ms", "Generation: ms to the first token", 1),
    ("generate", "tokens_per_s", "Generation: tokens/s", 1),
    ("largest_batch", "largest_batch", "Largest batch", 0),
    ("longest_context", "longest_context", "Longest context: positions", 0),
    ("quality", "cer_before", "CER on the validation set before fine-tuning", 3),
    ("quality", "cer_after", "CER on the validation set after fine-tuning", 3),
)

PHASES = ("data", "vision", "decoder", "backward", "optimizer")


def summary(c: Comparison) -> str:
    """Return what a reader must know first."""
    where = c.environment["gpu"] if c.on_gpu else f"the CPU ({c.environment.get('processor', 'unknown')})"
    text = f"Measured on {where}. Ratios are relative to {c.baseline}, the baseline."
    if not c.on_gpu:
        text += " Without a GPU, memory is the resident memory of the process, and the ratios say nothing about a GPU."
    return text


def all_tables(c: Comparison) -> list[Table]:
    """Return every table of the report, the checklist last."""
    found = tables(c)
    if reasons := [list(row) for row in missing(c)]:
        found.append(
            Table("Not measured", "Cells without a figure, and why.", ["backend", "cells", "reason"], reasons, 3)
        )
    facts = [[key, str(value)] for key, value in [*c.environment.items(), *c.settings.items()]]
    if c.price_per_gpu_hour is not None:
        facts.append(["price per GPU hour", f"{c.price_per_gpu_hour:g}"])
    note = "Versions, machine, settings of every cell, and fingerprints of the configurations."
    found.append(Table("Where and how it was measured", note, ["what", "value"], facts, 2))
    lines = [[line.claim, line.backend, line.state, line.figure] for line in checklist(c)]
    note = f"Targets and figures; the baseline of every ratio is {c.baseline}."
    found.append(Table("Checklist", note, ["target", "backend", "state", "figure"], lines, 4))
    return found


def markdown(c: Comparison) -> str:
    """Return the report as Markdown."""
    parts = [f"# {TITLE}", summary(c)]
    for table in all_tables(c):
        aligned = ["---" if column < table.names else "---:" for column in range(len(table.head))]
        rows = [table.head, aligned, *table.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append(f"## {table.title}\n\n{table.note}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def html_page(c: Comparison) -> str:
    """Return the report as one page that contains its style and plots."""
    return render_page("compare.html", title=TITLE, summary=summary(c), plots=plots(c), tables=all_tables(c))


def plots(c: Comparison) -> list[tuple[str, str]]:
    """Return the title and the SVG of a plot for everything that was measured."""
    found = []
    for measure, key, title, digits in PLOTS:
        cells = [
            (cell, backend)
            for cell in c.cells(measure)
            for backend in c.backends
            if c.value(cell, backend, key) is not None
        ]
        if cells:
            figures = [[c.value(cell, backend, key) or 0.0] for cell, backend in cells]
            ends = [(c.value(*cell, f"{key}_low"), c.value(*cell, f"{key}_high")) for cell in cells]
            colors = [[COLORS[c.backends.index(backend) % len(COLORS)]] for _, backend in cells]
            found.append((title, _bars([_label(*cell) for cell in cells], figures, colors, digits, ends)))
    cells = [
        (cell, backend) for cell in c.cells("phases") for backend in c.backends if c.value(cell, backend, "step_ms")
    ]
    if cells:
        figures = [[c.value(*cell, f"{phase}_ms") or 0.0 for phase in PHASES] for cell in cells]
        svg = _bars([_label(*cell) for cell in cells], figures, [list(COLORS)] * len(cells), 0, legend=PHASES)
        found.append(("Where a step's time goes: ms", svg))
    return found


def _label(cell: str, backend: str) -> str:
    work = cell.partition("/")[2].replace("=", " ")
    return f"{backend}, {work}" if work else backend


def _bars(
    labels: Sequence[str],
    figures: Sequence[Sequence[float]],
    colors: Sequence[Sequence[str]],
    digits: int,
    ends: Sequence[tuple[float | None, float | None]] = (),
    legend: Sequence[str] = (),
) -> str:
    """Return an SVG of horizontal bars.

    Args:
        labels: of the bars, from top to bottom.
        figures: the parts of each bar.
        colors: of the parts of each bar.
        digits: of the sum at the end of a bar.
        ends: lowest and highest value of a bar, drawn as a line.
        legend: names of the parts.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.2, 0.45 + 0.26 * len(labels) + 0.3 * bool(legend)), layout="constrained")
        axes = figure.subplots()
        for row, (parts, shades) in enumerate(zip(figures, colors, strict=True)):
            left = 0.0
            for number, part in enumerate(parts):
                label = legend[number] if legend and row == 0 else None
                axes.barh(row, part, left=left, height=0.7, color=shades[number], label=label)
                left += part
            low, high = ends[row] if ends else (None, None)
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color="black", linewidth=1)
            end = (max(left, high or 0.0), row)
            axes.annotate(f"{left:,.{digits}f}", end, va="center", xytext=(6, 0), textcoords="offset points")
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        if legend:
            figure.legend(loc="outside lower center", ncols=len(legend), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]
