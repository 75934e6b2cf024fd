"""What is learned from a drawn page: Markdown that shows the same words again, blocks and phrases in their boxes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepsynth.data.augmentation.augmenter import PageAugmenter
from deepsynth.data.augmentation.geometric import GeometricDegradation
from deepsynth.data.augmentation.presets import PRESETS
from deepsynth.data.processing.targets import Targets, block_box, make_targets
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.metrics.structure.blocks import parse_blocks
from deepsynth.metrics.structure.tables import parse_table, tables_of
from deepsynth.models.prompts import DEEPSEEK_PROMPTS
from deepsynth.types import Document, Page

SMALL: dict[str, Any] = {
    "page_width_px": 300,
    "page_height_px": 240,
    "margin_px": 10,
    "font_size_px": 10.0,
    "system_fonts": False,
    "markup": "markdown",
    "on_bad_formula": "omit",
}
SAMPLE = """# A title

Some **bold** and *slanted* words, `code` and a_name.

- first
- second
  1. inner one
  2. inner two

> quoted words

| left | right |
|:--|--:|
| 1 | 2 < 3 |
| a\\|b | c |

```
x = 1
    y = 2
```

## An end

Last words\\
in two lines.
"""


def render(text: str, **options: Any) -> list[Page]:
    renderer = TextRenderer(**{**SMALL, **options})
    return renderer(Document("d", text), np.random.default_rng(0))


def target(page: Page, kind: str, seed: int = 0) -> str:
    found = Targets({kind: 1.0}).draw(page, np.random.default_rng(seed))
    assert found is not None
    return found.text


def words(pages: list[Page]) -> list[str]:
    """Return the words of pages; a bullet goes by its depth, which a page's part of a list may not have."""
    return " ".join(re.sub("[•◦▪]", "•", page.text) for page in pages).replace("\u00ad", "").split()


def test_markdown_of_a_page_is_its_source_in_the_published_form() -> None:
    (page,) = render(SAMPLE, page_width_px=600, page_height_px=700)
    assert target(page, "markdown") == (
        "# A title\n\nSome **bold** and *slanted* words, `code` and a_name.\n\n- first\n- second\n  1. inner one\n"
        "  2. inner two\n\n> quoted words\n\n"
        "<table><tr><td>left</td><td>right</td></tr><tr><td>1</td><td>2 &lt; 3</td></tr>"
        "<tr><td>a|b</td><td>c</td></tr></table>\n\n"
        "```\nx = 1\n    y = 2\n```\n\n## An end\n\nLast words\\\nin two lines."
    )
    pipes = "| left | right |\n| :-- | --: |\n| 1 | 2 < 3 |\n| a\\|b | c |"
    assert pipes in target(page, "markdown_pipes")
    assert target(page, "table") == tables_of(target(page, "markdown"))[0]


def test_a_block_is_cut_where_the_page_cuts_it() -> None:
    text = "1. " + "many words of one item " * 30 + "\n2. the next"
    pages = render(text, page_height_px=100)
    assert len(pages) > 2
    assert target(pages[0], "markdown").startswith("1. many words")
    assert target(pages[1], "markdown").startswith(" ".join(pages[1].text.split()[:3]))
    assert target(pages[-1], "markdown").endswith("2. the next")
    assert " ".join(" ".join(target(page, "markdown") for page in pages).split()) == " ".join(text.split())


def test_a_plain_text_gives_paragraphs() -> None:
    (page,) = render("one\ntwo *\n\n# three", markup="plain")
    assert target(page, "markdown") == "one\ntwo \\*\n\n\\# three"
    assert [block.label for block in page.blocks] == ["text", "text"]


#: What Markdown is made of, and what only looks like it.
PIECES = [
    "word", "two words", "*", "**", "_", "__a__", "**b**", "*i*", "`", "`c`", "``", "[x](y)", "[x]", "]:", "![i](u)",
    "<b>", "<", "&amp;", "&", "$x$", "$", "\\", "\\*", "|", "#", "##", "-", "1.", "2)", ">", "=", "---", "===", "~~~",
    "```", ":-", "a_b", "(p)", "é", "—", "\u00ad", "x\u0301", "-|-", "|a|b|", "|-|-|", "+",
    "$a_1$", "$$", "[^1]", "[^b]", "[^1]:", "<table><tr><td>", "</table>", "<td colspan=2>*", "</td>",
]  # fmt: skip
LINES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "- ", "  - ", "1. ", "   3) ", "> ", "# ", "    "]),
        st.lists(st.sampled_from(PIECES), max_size=5),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    LINES,
    st.sampled_from(["", " "]),
    st.sampled_from(["\n", "\n\n"]),
    st.sampled_from(["markdown", "plain"]),
    st.integers(1, 2),
)
@example([("1. ", []), ("", []), ("1. ", ["~~~"])], "", "\n\n", "markdown", 1)
@example([("", ["# Title"]), ("- ", ["a"])], " ", "\n", "markdown", 1)
def test_markdown_drawn_again_has_the_same_words(lines: Any, joiner: str, end: str, markup: str, columns: int) -> None:
    text = end.join(start + joiner.join(pieces) for start, pieces in lines)
    for page in render(text, page_width_px=200 * columns, page_height_px=120, markup=markup, columns=columns):
        for kind in ("markdown", "markdown_pipes"):
            again = render(target(page, kind), page_width_px=200, page_height_px=4000)
            in_order = all(block.label != "footnote" for block in page.blocks)  # they go to the foot of every column
            order = list if in_order else sorted
            assert order(words(again)) == order(words([page])), target(page, kind)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_the_box_of_a_block_holds_its_ink_however_the_page_is_moved(preset: Any) -> None:
    moves = {
        step.key: replace(step, probability=1.0) for step in PRESETS[preset] if isinstance(step, GeometricDegradation)
    }
    if "perspective" in moves:
        moves["perspective"] = replace(moves["perspective"], desk=None)  # a desk is as dark as ink
    if "scanner_background" in moves:
        moves["scanner_background"] = replace(moves["scanner_background"], level=(255.0, 255.0))
    augmenter = PageAugmenter("none", **moves)
    (page,) = render(SAMPLE, page_width_px=500, page_height_px=500, margin_px=40)
    boxes = [block_box(page, block) for block in page.blocks]
    for number in range(len(boxes)):
        image = page.image.copy()
        for other, box in enumerate(boxes):
            if other != number and box is not None:
                image.paste("white", tuple(map(int, box)))
        moved = augmenter(replace(page, image=image), np.random.default_rng(number))
        box = block_box(moved, moved.blocks[number])
        assert box is not None
        rows, columns = np.nonzero(np.asarray(moved.image.convert("L")) < 128)
        assert len(rows) > 10
        assert box[0] - 1 <= columns.min()
        assert columns.max() + 1 <= box[2] + 1
        assert box[1] - 1 <= rows.min()
        assert rows.max() + 1 <= box[3] + 1


def test_grounded_blocks_parse_and_lie_on_what_they_name() -> None:
    (page,) = render(SAMPLE, page_width_px=600, page_height_px=700)
    blocks, faults = parse_blocks(target(page, "grounded"))
    assert faults == []
    assert [block.label for block in blocks] == [
        "title", "text", "text", "text", "text", "text", "text", "table", "code", "sub_title", "text",
    ]  # fmt: skip
    drawn = [box for block in page.blocks if (box := block_box(page, block))]
    for block, box in zip(blocks, drawn, strict=True):
        (found,) = block.boxes
        for place, edge, side in zip(found, box, (600, 700, 600, 700), strict=True):
            assert abs(place / 999 - edge / side) <= 1 / 999
    table = next(block for block in blocks if block.label == "table")
    tree = parse_table(table.text)
    assert tree is not None
    assert len(tree[0].children) == 3


def test_lines_and_phrases_lie_where_they_are_drawn() -> None:
    (page,) = render("alpha beta gamma\n\ndelta beta epsilon", page_width_px=300)
    lines, faults = parse_blocks(target(page, "lines"))
    assert faults == []
    assert [line.label for line in lines] == ["alpha beta gamma", "delta beta epsilon"]
    places = {word.text: word.box for line in page.lines for word in line.words}
    asked = set()
    for seed in range(30):
        found = Targets({"locate": 1.0}).draw(page, np.random.default_rng(seed))
        assert found is not None
        ((block,), faults) = parse_blocks(found.text)
        assert faults == []
        assert (
            found.prompt(DEEPSEEK_PROMPTS.__getitem__) == f"<image>\nLocate <|ref|>{block.label}<|/ref|> in the image."
        )
        asked.add(block.label)
        first, *_, last = [block.label.split()[0], *block.label.split()]
        if first != "beta" and last != "beta":
            assert abs(block.boxes[0][0] / 999 - places[first][0] / 300) <= 1 / 999
            assert abs(block.boxes[0][2] / 999 - places[last][2] / 300) <= 1 / 999
    assert "beta" not in asked
    assert len(asked) > 5


def test_kinds_are_drawn_by_their_weights() -> None:
    (page,) = render(SAMPLE, page_width_px=600, page_height_px=700)
    targets = make_targets({"markdown": 3, "grounded": 1, "text": 0})
    drawn = [targets.draw(page, np.random.default_rng(seed)) for seed in range(200)]
    grounded = sum(found is not None and found.kind == "grounded" for found in drawn)
    assert 30 <= grounded <= 70
    assert None not in drawn


def test_a_page_without_a_table_is_transcribed() -> None:
    (page,) = render("words")
    assert Targets({"table": 1.0}).draw(page, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("target", "prompt", "message"),
    [
        ("html", None, "data.target is 'html'; it must be one of text, markdown"),
        ("field:", None, "data.target is 'field:'; it must be one of text, markdown"),
        ({"text": -1.0}, None, "data.target.text is -1.0; it must be a weight of at least 0"),
        ({"text": 0.0}, None, "it must give one kind a weight above 0"),
        ({"text": 1.0, "markdown": 1.0}, "<image>x", "leave data.prompt out"),
        ("locate", "<image>x", "leave data.prompt out"),
    ],
)
def test_targets_that_cannot_be_are_refused(target: Any, prompt: str | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make_targets(target, prompt)
