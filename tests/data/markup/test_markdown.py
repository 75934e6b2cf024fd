from deepsynth.data.markup.markdown import markdown_blocks
from deepsynth.data.typesetting.paragraphs import Paragraph


def test_markdown_becomes_blocks_that_show_no_markup():
    text = "# Title\n\nsome **bold** and *it*\nalic\n\n1. one\n2. two\n\n- x\n\n```\n  code  here\n```\n\n"
    text += "|a|b|\n|-|-|\n|c|d|\n"
    blocks, _ = markdown_blocks(text)
    paragraphs = [block for block in blocks if isinstance(block, Paragraph)]
    shown = [("".join(text for text, _ in block.runs), block.marker) for block in paragraphs]
    assert shown == [
        ("Title", ""),
        ("some bold and it alic", ""),
        ("one", "1."),
        ("two", "2."),
        ("x", "•"),
        ("  code  here", ""),
    ]
    assert paragraphs[0].runs[0][1].scale > 1
    assert paragraphs[0].keep_with_next
    assert [style.bold for text, style in paragraphs[1].runs if text == "bold"] == [True]
    assert paragraphs[-1].runs[0][1].family == "DejaVu Sans Mono"
    table = blocks[-1]
    assert [[cell.paragraphs[0].text for cell in row] for row in table.rows] == [["a", "b"], ["c", "d"]]


def test_cells_of_a_markdown_table_keep_to_the_side_that_its_colons_name():
    ((table,), _) = markdown_blocks("|a|b|c|d|\n|-|:-|:-:|-:|\n|1|2|3|4|\n")
    for row in table.rows:
        assert [cell.paragraphs[0].align for cell in row] == [None, "left", "center", "right"]


def test_headings_are_bold_and_smaller_from_level_to_level():
    blocks, _ = markdown_blocks("".join(f"{'#' * level} heading\n\n" for level in range(1, 7)) + "text\n")
    styles = [block.runs[0][1] for block in blocks]
    sizes = [style.scale for style in styles]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] > sizes[-1] == 1.0
    assert sizes[0] < 2
    assert [style.bold for style in styles] == [True] * 6 + [False]


def test_emphasis_begins_and_ends_as_often_as_it_is_written():
    ((block,), _) = markdown_blocks("*a* b *c* **d** e **f *g* h** i *j **k** l*")
    styles = {text: (style.bold, style.italic) for text, style in block.runs if text.strip()}
    upright, italic, bold, both = (False, False), (False, True), (True, False), (True, True)
    assert {text.strip(): style for text, style in styles.items()} == {
        **dict.fromkeys("acj", italic), **dict.fromkeys("bei", upright), **dict.fromkeys("df", bold),
        "g": both, "h": bold, "k": both, "l": italic,
    }  # fmt: skip


def test_a_box_takes_the_place_of_a_bullet_alone():
    text = "- [x] done\n- [ ] open\n- [X] too\n- [y] none\n- [x]none\n- \n\n1. [x] number\n\n[x] text"
    blocks, _ = markdown_blocks(text)
    assert [(block.marker, block.text) for block in blocks] == [
        ("☑", "done"), ("☐", "open"), ("☑", "too"), ("•", "[y] none"), ("•", "[x]none"), ("•", ""),
        ("1.", "[x] number"), ("", "[x] text"),
    ]  # fmt: skip
