"""Text written as Markdown: escaped where it would be markup, and nowhere else."""

from __future__ import annotations

import pytest

from deepsynth.data.markup.footnotes import Footnotes, note_number
from deepsynth.data.markup.html_tables import read_table
from deepsynth.data.markup.inline_markdown import fenced, heading_markdown, inline_html, inline_markdown
from deepsynth.data.markup.table_writing import table_html, table_pipes
from deepsynth.data.typesetting.paragraphs import BODY, CODE, Paragraph, RunStyle
from deepsynth.data.typesetting.tables import place_cells

BOLD, ITALIC, BOTH = RunStyle(bold=True), RunStyle(italic=True), RunStyle(bold=True, italic=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a*b", r"a\*b"), ("a * b", "a * b"), ("a* b", r"a\* b"), ("a_b", "a_b"), ("_a", r"\_a"), ("a_ b", r"a\_ b"),
        ("`x", r"\`x"), (r"a\b", r"a\b"), ("a\\", "a\\\\"), (r"a\*", r"a\\\*"), ("[x](y)", r"[x\](y)"),
        ("[x] y", "[x] y"), ("[^1] a", r"\[^1] a"), ("a < b", "a < b"), ("a <b", r"a \<b"), ("a </b", r"a \</b"),
        ("&amp;", r"\&amp;"), ("&#38;", r"\&#38;"), ("a & b;", "a & b;"), ("$5 and $6", "$5 and $6"),
        ("the $a$", r"the \$a\$"),
        ("# a", r"\# a"), ("#a", "#a"), ("###### a", r"\###### a"), ("####### a", "####### a"), ("> a", r"\> a"),
        ("- a", r"\- a"), ("-a", "-a"), ("+ a", r"\+ a"), ("1. a", r"1\. a"), ("12) a", r"12\) a"), ("1.a", "1.a"),
        ("123456789. a", r"123456789\. a"), ("1234567890. a", "1234567890. a"), ("===", r"\==="), ("== a", "== a"),
        ("~~~", r"\~~~"), ("~~ a", "~~ a"), ("---", r"\---"), ("|-|", r"\|-|"), (":-", r"\:-"), (" a ", "a"), ("", ""),
    ],
)  # fmt: skip
def test_what_would_be_markup_is_escaped_and_nothing_else(text: str, expected: str) -> None:
    assert inline_markdown([(text, BODY)]) == expected


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("a ", BODY), ("b", BOLD), (" c", BODY)], "a **b** c"),
        ([("b", ITALIC), ("c", BOTH)], "*b*c"),  # stars beside stars would be other emphasis
        ([("b ", ITALIC), ("c", BOTH)], "*b* ***c***"),
        ([("a", BODY), (" b ", BOLD), ("c", BODY)], "a **b** c"),
        ([("b", BOLD), ("c", BOLD)], "**bc**"),
        ([("a", BODY), ("b", BOLD), ("c", BODY)], "a**b**c"),
        ([("a", BODY), ("(b)", BOLD)], "a(b)"),  # before a bracket, stars within a word begin nothing
        ([("(b)", BOLD), ("a", BODY)], "(b)a"),
        ([("a ", BODY), ("(b)", BOLD), (".", BODY)], "a **(b)**."),
        ([("a ", BODY), (" ", BOLD), ("b", BODY)], "a  b"),
        ([("a", CODE)], "`a`"),
        ([("a`b", CODE)], "``a`b``"),
        ([("`a", CODE)], "`` `a ``"),
        ([("a*", CODE), (" *", BODY)], r"`a*` \*"),
        ([("a", BODY), ("³", RunStyle(note=3))], "a[^3]"),
        ([("$x_1$", RunStyle(formula=True)), (" a $b$", BODY)], r"$x_1$ a \$b\$"),
    ],
)
def test_styles_are_written_where_markdown_can_say_them(runs: list[tuple[str, RunStyle]], expected: str) -> None:
    assert inline_markdown(runs) == expected


def test_a_base_style_is_not_written_and_pipes_are_escaped_in_cells_alone() -> None:
    assert inline_markdown([("a ", BOLD), ("b", BOTH)], BOLD) == "a *b*"
    assert inline_markdown([("a", CODE)], CODE) == "a"
    assert inline_markdown([("a | # b", BODY)]) == "a | # b"
    assert inline_markdown([("# a|b", BODY)], cell=True) == r"# a\|b"
    assert inline_markdown([("$a", BODY)], dollars=True) == r"\$a"
    assert inline_markdown([("$a$", BODY)], dollars=False) == "$a$"
    assert inline_html([("a <b> & ", BODY), ('"c" ', BOLD)]) == 'a &lt;b&gt; &amp; "c"'


def test_headings_and_fences() -> None:
    assert heading_markdown(2, "C") == "## C"
    assert heading_markdown(3, "C #") == r"### C \#"
    assert heading_markdown(1, "C ##") == r"# C \##"
    assert heading_markdown(1, "C#") == "# C#"
    assert heading_markdown(1, "#") == r"# \#"
    assert heading_markdown(1, "") == "#"
    assert fenced(["a", "``b"]) == ["```", "a", "``b", "```"]
    assert fenced(["```", "````"]) == ["`````", "```", "````", "`````"]


def test_footnotes_are_numbered_by_their_labels_and_carried_by_the_first_reference() -> None:
    notes = Footnotes(["b", "2", "a", "2", "x0"])
    for label in ("b", "2", "a", "x0"):
        notes.add(label, [(f"note {label}", BODY)])
    notes.add("2", [("a second one", BODY)])
    assert notes.reference("b", carries=True) == ("¹", 1)
    assert notes.reference("2", carries=False) == ("²", 0)
    assert notes.reference("2", carries=True) == ("²", 2)
    assert notes.reference("2", carries=True) == ("²", 0)
    assert notes.reference("c", carries=True) is None
    assert [(note.marker, note.text) for note in notes.rest()] == [("³", "note a"), ("⁴", "note x0")]
    runs = (("ab", BODY), ("¹", RunStyle(note=1)), (" cd ", BODY), ("²", RunStyle(note=2)), (".", BODY))
    attached = notes.attach(Paragraph(runs))
    assert [(place, note.text, note.label) for place, note in attached.notes] == [
        (3, "note b", "footnote"),
        (8, "note 2", "footnote"),
    ]
    assert note_number("¹⁰²") == 102
    assert Footnotes(["0", "11"]).reference("0", carries=False) == ("¹", 0)


@pytest.mark.parametrize(
    ("attributes", "columns", "rows"),
    [
        ("colspan=3", 3, 1), ("rowspan='2'", 1, 2), ("colspan=0", 1, 1), ("colspan=1000", 1000, 1),
        ("colspan=1001", 1, 1), ("colspan=-2", 1, 1), ("colspan=x", 1, 1), ("colspan", 1, 1),
    ],
)  # fmt: skip
def test_a_span_is_a_number_from_1_to_1000(attributes: str, columns: int, rows: int) -> None:
    html = f"<table><tr><td {attributes}>a</td></tr><tr><td>b</td></tr></table>"
    cell = read_table(html, lambda _: True)[0][0][0]
    assert (cell.columns, cell.rows, cell.is_header) == (columns, rows, False)


def test_cells_have_their_sides_styles_and_paragraphs() -> None:
    html = """<table><caption> A  <b>cap</b>tion </caption>
    <tr><th>h<th colspan=2>wide<th colspan=2 align=left>left</tr>
    <tr><td align=RIGHT>r<td style="color: red; text-align: center">c<td style="text-align:right" align=left>s<td>d</tr>
    <tr><td> one  <b>two</b> <i>it<em>al</em>ic</i> <code>x</code><br><p>three</p></td>
    <td><b>open<td>closed<td>$a$ and $b$ end</table>"""
    rows, caption, outside = read_table(html, lambda formula: formula != "b")
    assert (caption, outside) == ("A caption", "")
    sides = [[cell.paragraphs[0].align for cell in row] for row in rows]
    assert sides == [[None, "center", "left"], ["right", "center", "right", None], [None] * 4]
    head = rows[0][0]
    assert (head.is_header, head.paragraphs[0].runs[0][1]) == (True, BOLD)
    styles = [(text, style.bold, style.italic, style.family) for text, style in rows[2][0].paragraphs[0].runs]
    assert [one for one in styles if one[0].strip()] == [
        ("one ", False, False, None), ("two", True, False, None), ("it", False, True, None),
        ("al", False, True, None), ("ic", False, True, None), ("x", False, False, CODE.family),
    ]  # fmt: skip
    texts = [[paragraph.text for paragraph in cell.paragraphs] for cell in rows[2]]
    assert texts == [["one two italic x", "three"], ["open"], ["closed"], ["$a$ and end"]]
    assert [style.bold for _, style in rows[2][2].paragraphs[0].runs] == [False], "emphasis ends with its cell"
    assert rows[2][3].paragraphs[0].runs[0][1].formula


def cells(*rows: list[tuple[str, int, int, bool]]) -> list:
    placed = place_cells([[((Paragraph(((text, BODY),)),), *spans) for text, *spans in row] for row in rows])
    return [[(cell, [list(part.runs) for part in cell.paragraphs]) for cell in row] for row in placed]


def test_tables_are_written_with_spans_and_with_pipes_only_where_those_can_say_them() -> None:
    plain = cells([("a|b", 1, 1, True), ("c", 1, 1, True)], [("1 < 2", 1, 1, False), ("*", 1, 1, False)])
    assert table_html(plain) == "<table><tr><td>a|b</td><td>c</td></tr><tr><td>1 &lt; 2</td><td>*</td></tr></table>"
    assert table_pipes(plain) == "| a\\|b | c |\n| --- | --- |\n| 1 < 2 | \\* |"
    spans = cells([("a", 2, 1, True), ("b", 1, 2, True)], [("c", 1, 1, False), ("d", 1, 1, False)])
    assert table_html(spans).startswith('<table><tr><td colspan="2">a</td><td rowspan="2">b</td></tr><tr><td>c</td>')
    assert table_pipes(spans) == ""
    assert table_pipes(cells([("a", 1, 1, False)], [("b", 1, 1, False)])) == "", "no head"
    assert table_pipes(cells([("a", 1, 1, True)], [("b", 1, 1, False), ("c", 1, 1, False)])) == "", "two lengths"
    two = [[(plain[0][0][0], [[("a", BODY)], [("b", BODY)]])]]
    assert table_html(two) == "<table><tr><td>a<br>b</td></tr></table>"
    assert table_pipes(two) == "", "a cell of two lines"
