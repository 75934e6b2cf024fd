"""The report of a comparison: Markdown, and one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deepsynth.measurement.checklist import Line
from deepsynth.measurement.plots import plots
from deepsynth.measurement.tables import Comparison, Table, missing, tables

TITLE = "DeepSynth: backends side by side"
_CHECKLIST = "Checklist"
_MISSING = "Not measured"
_ENVIRONMENT = "Where and how it was measured"


def summary(c: Comparison) -> str:
    """Return what a reader must know first."""
    where = c.environment["gpu"] if c.on_gpu else f"the CPU ({c.environment.get('processor', 'unknown')})"
    text = f"Measured on {where}. Ratios are to {c.baseline}, the baseline."
    if not c.on_gpu:
        text += (
            " Without a GPU memory is the resident memory of the process, and nothing here says how the backends "
            "compare on one."
        )
    return text


def _facts(c: Comparison) -> Table:
    rows = [[key, value] for key, value in c.environment.items()]
    rows += [[key, str(value)] for key, value in c.settings.items()]
    if c.price_per_gpu_hour is not None:
        rows.append(["price per GPU hour", f"{c.price_per_gpu_hour:g}"])
    note = "Versions, machine, settings of every cell, and fingerprints of the configurations."
    return Table(_ENVIRONMENT, note, ["what", "value"], rows, 2)


def _all_tables(c: Comparison, lines: Sequence[Line]) -> list[Table]:
    """Return every table of the report, the checklist last."""
    reasons = [list(row) for row in missing(c)]
    note = "Cells without a figure, and why."
    lacking = [Table(_MISSING, note, ["backend", "cells", "reason"], reasons, 3)] if reasons else []
    claims = [[line.claim, line.subject, line.state, line.figure] for line in lines]
    note = f"What was promised, and what was found; the baseline of every ratio is {c.baseline}."
    check = Table(_CHECKLIST, note, ["claim", "of", "state", "figure"], claims, 4)
    return [*tables(c), *lacking, _facts(c), check]


def markdown(c: Comparison, lines: Sequence[Line]) -> str:
    """Return the report as Markdown.

    Args:
        c: what was measured.
        lines: the checklist, which stands last.
    """
    parts = [f"# {TITLE}", summary(c)]
    for table in _all_tables(c, lines):
        aligned = ["---" if column < table.names else "---:" for column in range(len(table.head))]
        rows = [table.head, aligned, *table.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append(f"## {table.title}\n\n{table.note}\n\n{text}")
    return "\n\n".join(parts) + "\n"


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b616b; --line: #d9dce1; --paper: #fff; --tint: #f4f6f8;
  --good: #0a7a45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3aab5; --line: #3a3f47; --paper: #15171a;
  --tint: #1d2024; --good: #5fd39a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 24px 20px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 26px; line-height: 1.2; margin: 8px 0; } h2 { font-size: 19px; margin: 40px 0 4px; }
p { margin: 4px 0 12px; color: var(--soft); max-width: 80ch; } p.first { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; background: var(--tint); } .name { text-align: left; }
.passed, .failed { font-weight: 700; white-space: nowrap; }
.passed { color: var(--good); } .failed { color: var(--bad); }
.none { color: var(--soft); font-style: italic; } td.none { white-space: nowrap; }
.plots { display: grid; gap: 28px 40px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr));
  margin: 28px 0; align-items: start; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 8px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12.5px; fill: var(--ink); } svg text.figure { text-anchor: end; font-weight: 600; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
figure ul { list-style: none; padding: 0; margin: 8px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }
figure li { font-size: 13px; }
figure i { display: inline-block; width: 11px; height: 11px; margin-right: 6px; }
@media (max-width: 760px) {
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { border: 1px solid var(--line); border-radius: 6px; margin-bottom: 10px; padding: 4px 0; }
  td { border: 0; display: flex; justify-content: space-between; gap: 16px; padding: 3px 12px; text-align: right; }
  td::before { content: attr(data-label); color: var(--soft); text-align: left; flex: 0 0 38%; }
}
"""


def html_page(c: Comparison, lines: Sequence[Line]) -> str:
    """Return the report as one page: style and plots stand in it, nothing is fetched.

    Args:
        c: what was measured.
        lines: the checklist, which stands last.
    """
    body = [f"<h1>{escape(TITLE)}</h1>", f'<p class="first">{escape(summary(c))}</p>']
    if drawn := plots(c):
        body.append(f'<div class="plots">{"".join(drawn)}</div>')
    body += [_html_table(table) for table in _all_tables(c, lines)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(TITLE)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        classes = ["name" if column < table.names else "number"]
        if text in ("passed", "failed"):
            classes.append(text)
        if text in ("not measured", "–"):
            classes.append("none")
        label = f' data-label="{escape(table.head[column])}"' if tag == "td" else ""
        return f'<{tag} class="{" ".join(classes)}"{label}><span>{escape(text)}</span></{tag}>'

    def row(tag: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, column, text) for column, text in enumerate(texts))}</tr>"

    head, rows = row("th", table.head), "\n".join(row("td", texts) for texts in table.rows)
    title, note = escape(table.title), escape(table.note)
    return f"<h2>{title}</h2><p>{note}</p>\n<table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table>"
