"""HTML tables, formulas, figures and footnotes: parsed, drawn, and written again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsynth.data.markup.html_tables import read_table
from deepsynth.data.markup.markdown import markdown_blocks
from deepsynth.data.processing.targets import Targets, block_box
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.typesetting.tables import Table
from deepsynth.errors import UserError
from deepsynth.metrics.structure.tables import teds
from deepsynth.types import Document, Page

PAGE: dict[str, Any] = {
    "page_width_px": 500,
    "page_height_px": 500,
    "margin_px": 20,
    "font_size_px": 14.0,
    "system_fonts": False,
    "markup": "markdown",
}
TABLE = """<table>
<tr><th rowspan="2">Year</th><th colspan="2">Cranes</th></tr>
<tr><th>at work</th><th align="right">waiting</th></tr>

<tr><td>1999</td><td>12</td><td>three of them, since nobody makes the parts any longer</td></tr>
<tr><td rowspan="2">2000</td><td>10</td><td>5</td></tr>
<tr><td colspan="2">closed &lt; <b>all</b> summer<br>and winter</td></tr>
</table>
"""


def render(text: str, **options: Any) -> list[Page]:
    return TextRenderer(**{**PAGE, **options})(Document("d", text), np.random.default_rng(0))


def target(page: Page, kind: str = "markdown") -> str:
    found = Targets({kind: 1.0}).draw(page, np.random.default_rng(0))
    assert found is not None
    return found.text


def test_cells_take_the_places_that_html_gives_them() -> None:
    rows, caption, outside = read_table(f"<caption> A  caption</caption>{TABLE}", lambda _: True)
    table = Table(rows, 0.0)
    places = [[(cell.column, cell.columns, cell.rows, cell.is_header) for cell in row] for row in table.rows]
    assert places == [
        [(0, 1, 2, True), (1, 2, 1, True)],
        [(1, 1, 1, True), (2, 1, 1, True)],
        [(0, 1, 1, False), (1, 1, 1, False), (2, 1, 1, False)],
        [(0, 1, 2, False), (1, 1, 1, False), (2, 1, 1, False)],
        [(1, 2, 1, False)],
    ]
    assert (caption, outside) == ("A caption", "")
    assert list(table.groups()) == [(0, 2), (2, 3), (3, 5)]
    assert [paragraph.text for paragraph in table.rows[4][0].paragraphs] == ["closed < all summer", "and winter"]
    assert [style.bold for _, style in table.rows[4][0].paragraphs[0].runs] == [False, True, False]
    assert table.rows[1][1].paragraphs[0].align == "right"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ONE behind *it*\nnext", ["[a]", "behind it next"]),
        ("ONE   ONE end", ["[a]", "[a]", "end"]),
        ("<table>\n<tr><td>a</td></tr>\n</table>  # no\n\n- x", ["[a]", "no", "x"]),
        ("<table>above<tr><td>a</td> <td>b</td> between</tr></table>", ["above between", "[a|b]"]),
        ("<table><tr><td>a<table><tr><td>b</td></tr></table></td></tr></table> end", ["[a|b]", "end"]),
    ],
)
def test_text_around_a_table_is_kept(text: str, expected: list[str]) -> None:
    blocks, _ = markdown_blocks(text.replace("ONE", "<table><tr><td>a</td></tr></table>"))
    found = [
        "[" + "|".join("".join(run[0] for run in cell.paragraphs[0].runs) for row in block.rows for cell in row) + "]"
        if isinstance(block, Table)
        else "".join(run[0] for run in block.runs)  # type: ignore[union-attr]
        for block in blocks
    ]
    assert found == expected


@pytest.mark.parametrize(("before", "spaces"), [("", [0.0, 0.3]), ("before\n\n", [0.0, 0.6, 0.3])])
def test_a_caption_is_closer_to_its_table_than_to_what_comes_before(before: str, spaces: list[float]) -> None:
    blocks, *_ = markdown_blocks(before + TABLE.replace("<table>", "<table><caption>A caption</caption>"))
    assert [block.space_before_em for block in blocks] == spaces


@pytest.mark.parametrize("style", ["grid", "ruled", "banded", "borderless"])
def test_a_table_is_drawn_in_its_columns_and_written_as_it_was(style: str) -> None:
    (page,) = render(TABLE, table_styles=(style,))
    assert teds(target(page), TABLE.replace("<b>all</b>", "all")) == 1.0
    places = {word.text: word.box for line in page.lines for word in line.words}
    assert places["at"][0] == pytest.approx(places["12"][0], abs=2)
    assert places["closed"][0] == pytest.approx(places["10"][0], abs=2)
    assert places["waiting"][2] > places["three"][0]
    boxes = list(places.values())
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        for u0, v0, u1, v1 in boxes[:number]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0, "words lie upon each other"
    assert max(box[2] for box in boxes) <= 480
    # Rules and bands are ink outside of the words.
    pixels = np.asarray(page.image.convert("L")).copy()
    for left, top, right, bottom in boxes:
        pixels[int(top) : int(bottom), int(left) : int(right)] = 255
    rows, columns = (pixels < 128).sum(axis=1), (pixels < 128).sum(axis=0)
    lines_across = {"grid": 6, "ruled": 3, "banded": 3, "borderless": 0}
    assert (rows > 300).sum() >= lines_across[style] > 0 or (rows == 0).all()
    assert ((columns > 60).sum() >= 4) == (style == "grid")
    assert ((pixels > 200) & (pixels < 250)).any() == (style == "banded")


def test_rows_that_a_cell_spans_are_never_parted() -> None:
    rows = "".join(f"<tr><td rowspan=2>a{i}</td><td>b{i}</td></tr><tr><td>c{i}</td></tr>" for i in range(12))
    pages = render(f"<table>{rows}</table>", page_height_px=200)
    assert len(pages) > 2
    for page in pages:
        words = page.text.split()
        assert len(words) % 3 == 0
        assert words[0].startswith("a")
        assert target(page).count("<td") == len(words)
    assert " ".join(page.text for page in pages).split() == [f"{c}{i}" for i in range(12) for c in "abc"]


def test_formulas_stand_on_the_baseline_and_keep_their_source() -> None:
    (page,) = render("x and $x$ end\n\n$$\\frac{a}{b}$$\n\n- $5 and $6", fonts=("DejaVu Sans",))
    assert page.text.split("\n")[:2] == ["x and $x$ end", "$$\\frac{a}{b}$$"]
    assert target(page) == "x and $x$ end\n\n$$\\frac{a}{b}$$\n\n- $5 and $6"
    words = {word.text: word.box for word in page.lines[0].words}
    assert abs(words["$x$"][3] - words["x"][3]) <= 1
    assert abs((words["$x$"][3] - words["$x$"][1]) - (words["x"][3] - words["x"][1])) <= 2
    pixels = np.asarray(page.image.convert("L"))
    left, top, right, bottom = map(int, page.lines[1].words[0].box)
    assert pixels[top:bottom, left:right].min() < 100
    assert abs((left + right) / 2 - 250) <= 2
    assert [block.label for block in page.blocks] == ["text", "equation", "text"]


def test_a_formula_wider_than_the_column_is_set_smaller() -> None:
    (page,) = render("a $" + "+".join(f"x_{{{number}}}" for number in range(40)) + "$ b")
    assert max(word.box[2] for line in page.lines for word in line.words) <= 480
    assert page.lines[0].text == "a"


def test_a_formula_that_cannot_be_set_is_an_error_or_left_out_and_counted() -> None:
    text = "one $\\foo$ two $x$ <b>\n\n<table><tr><td>$\\bar$</td></tr></table>"
    with pytest.raises(
        UserError, match=r"document 'd': the formula '\\\\foo' cannot be set \(.*on_bad_formula to 'omit'"
    ):
        render(text)
    (page,) = render(text, on_bad_formula="omit")
    assert page.text.split() == ["one", "two", "$x$", "<b>"]
    assert page.stats["formulas_omitted"] == 2


def test_footnotes_stand_at_the_foot_of_the_page_that_refers_to_them() -> None:
    filler = "\n\n".join(["words of a paragraph " * 9] * 6)
    text = f"first[^a] one\n\n{filler}\n\nlast[^7] one, again[^a]\n\n[^a]: note *one*\n[^7]: note seven"
    pages = render(text, page_height_px=300)
    assert len(pages) > 1
    first, last = pages[0], pages[-1]
    assert first.lines[-1].text == "¹ note one"
    assert last.lines[-1].text == "⁷ note seven"
    assert first.lines[-1].box[3] >= 270
    assert max(line.box[3] for line in first.lines[:-1]) < first.lines[-1].box[1]
    assert [block.label for block in first.blocks][-1] == "footnote"
    assert target(first).startswith("first[^1] one\n\n")
    assert target(first).endswith("\n\n[^1]: note *one*")
    assert "last[^7] one, again¹" in target(last)
    assert "note" not in "".join(page.text for page in pages[1:-1])


def test_figures_are_drawn_with_their_captions(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "blue").save(tmp_path / "sea.png")
    (page,) = render("words\n\n![The *sea*](sea.png)\n\nend", figure_dir=str(tmp_path))
    figure = page.blocks[1]
    box = block_box(page, figure)
    assert (figure.label, box) == (
        "image",
        (20, pytest.approx(box[1] if box else 0), 480, pytest.approx(box[3] if box else 0)),
    )
    assert box is not None
    assert box[3] - box[1] == pytest.approx(460 / 3, abs=1)
    assert page.image.getpixel((250, int(box[1] + 5))) == (0, 0, 255)
    assert target(page) == "words\n\n![](images/0.jpg)\n\nThe *sea*\n\nend"
    assert page.blocks[2].label == "image_caption"
    with pytest.raises(UserError, match=r"document 'd': no file .*/fog.png"):
        render("![a](fog.png)", figure_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"figure_dir is '/none'; it must be a folder"):
        render("a", figure_dir="/none")


@pytest.mark.parametrize(
    ("written", "known"),
    [
        (r"a \le b", r"a \leq b"),
        (r"\bigl(x\bigr)", "(x)"),
        (r"\displaystyle\sum_k k", r"\sum_k k"),
        (r"\lvert x \rvert", "|x|"),
        (r"\tfrac{a}{b}", r"\frac{a}{b}"),
        (r"\frac12 \sqrt x", r"\frac{1}{2} \sqrt{x}"),
        (r"\leftarrow", r"\gets"),
    ],
)
def test_commands_that_mathtext_lacks_are_drawn_as_those_that_it_has(written: str, known: str) -> None:
    one, other = render(f"${written}$")[0], render(f"${known}$")[0]
    assert one.image.tobytes() == other.image.tobytes()
    assert target(one) == f"${written}$"


def test_blocks_are_equal_when_they_are_written_the_same_also_from_a_pickle() -> None:
    page, same, other = (render(text)[0] for text in ("# x\n\n- a *b*", "# x\n\n- a *b*", "# x\n\n* a *b*"))
    for blocks in (same.blocks, pickle.loads(pickle.dumps(page.blocks))):
        assert blocks == page.blocks
        assert hash(blocks) == hash(page.blocks)
        assert [block.markdown for block in blocks] == ["# x", "- a *b*"]
    assert other.lines == page.lines
    assert other.blocks != page.blocks
