"""Tables as a page shows them, written as HTML or with pipes."""

from __future__ import annotations

from collections.abc import Sequence

from deepsynth.data.markup.inline_markdown import Run, inline_html, inline_markdown
from deepsynth.data.typesetting.pages import PlacedRow
from deepsynth.data.typesetting.paragraphs import RunStyle
from deepsynth.data.typesetting.tables import Cell, Table

#: Runs of each paragraph of a cell.
Shown = list[list[Run]]


def shown_cells(table: Table, rows: Sequence[PlacedRow]) -> list[list[tuple[Cell, Shown]]]:
    """Return the cells of a page's part of a table, by row, with what is drawn in them."""
    found: list[list[tuple[Cell, Shown]]] = []
    for placed in rows:
        row = placed.row
        replaced = any(run.replaced for line, _, _ in row.lines for run, _ in line.places)
        lines = iter([line for line, _, _ in row.lines])
        counts = iter(row.cells)
        for number in range(row.position[1], row.end):
            found.append([])
            for cell in table.rows[number]:
                shown: Shown = [list(paragraph.runs) for paragraph in cell.paragraphs]
                own = [next(lines) for _ in range(next(counts))]
                if replaced:
                    text = "".join([part for line in own for part in (line.text, line.joiner)])
                    shown = [[(text.strip(), cell.paragraphs[0].runs[0][1])]]
                found[-1].append((cell, shown))
    return found


def table_html(rows: Sequence[Sequence[tuple[Cell, Shown]]]) -> str:
    """Return cells as an HTML table; header cells are cells, as the published model writes them."""
    lines = []
    for cells in rows:
        line = ""
        for cell, shown in cells:
            spans = (f' colspan="{cell.columns}"' if cell.columns > 1 else "") + (
                f' rowspan="{cell.rows}"' if cell.rows > 1 else ""
            )
            line += f"<td{spans}>{'<br>'.join([inline_html(runs) for runs in shown])}</td>"
        lines.append(f"<tr>{line}</tr>")
    return f"<table>{''.join(lines)}</table>"


def table_pipes(rows: Sequence[Sequence[tuple[Cell, Shown]]]) -> str:
    """Return cells with pipes, "" where Markdown cannot say them so: it needs a head, and cells of one line."""
    flat = [cell for cells in rows for cell in cells]
    simple = all(cell.columns == cell.rows == len(shown) == 1 for cell, shown in flat)
    if not simple or not all(cell.is_header for cell, _ in rows[0]) or any(len(r) != len(rows[0]) for r in rows):
        return ""
    sides = {None: "---", "left": ":--", "center": ":-:", "right": "--:"}
    head, *rest = rows
    lines = [[inline_markdown(shown[0], RunStyle(bold=True), cell=True) for _, shown in head]]
    lines.append([sides[cell.paragraphs[0].align] for cell, _ in head])
    lines += [[inline_markdown(shown[0], cell=True) for _, shown in cells] for cells in rest]
    return "\n".join([f"| {' | '.join(cells)} |" for cells in lines])
