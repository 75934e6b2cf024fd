"""Typographic templates: what they set, what a user's options keep, and what stands in the margins."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from deepsynth.data.processing.targets import Targets, block_box
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.rendering.templates import Template, typography
from deepsynth.errors import UserError
from deepsynth.types import Document, Line, Page

PAGE: dict[str, Any] = {
    "page_width_px": 500,
    "page_height_px": 640,
    "system_fonts": False,
    "markup": "markdown",
}
TEXT = "# The title of it\n\n" + "\n\n".join(f"## Part {n}\n\n" + "words of a part " * 60 for n in range(8))


def render(template: str, seed: int = 0, text: str = TEXT, **options: Any) -> list[Page]:
    renderer = TextRenderer(**{**PAGE, **options}, templates=(template,))
    return renderer(Document("d", text), np.random.default_rng(seed))


def test_an_article_has_its_title_across_two_columns_and_its_number_below() -> None:
    heads = 0
    for seed in range(6):
        first, second, *_ = pages = render("article", seed)
        title = first.blocks[0]
        box = block_box(first, title)
        assert title.label == "title"
        assert box is not None
        assert abs((box[0] + box[2]) / 2 - 250) <= 2
        lefts = {round(line.box[0]) for line in first.lines[1:-1] if line.text.startswith("words")}
        assert min(lefts) < 60
        assert 245 < max(lefts) < 275
        assert all(line.box[1] >= box[3] for line in first.lines[1:])
        for number, page in enumerate(pages):
            assert page.lines[-1].text == str(number + 1)
            assert page.blocks[-1].label == "page_number"
            assert page.lines[-1].box[1] > max(line.box[3] for line in page.lines[:-1])
        if second.blocks[0].label == "header":
            heads += 1
            assert second.lines[0].text == "The title of it"
            assert second.lines[0].box[3] < min(line.box[1] for line in second.lines[1:])
        assert first.blocks[0].label == "title"
    assert 0 < heads < 6


@pytest.mark.parametrize("template", ["report", "form"])
def test_a_running_foot_stands_beside_the_number_of_the_page(template: str) -> None:
    short = TEXT[: TEXT.index("## Part 2")]
    long = short.replace("# The title of it", "# " + "The long title of it " * 9)
    feet = 0
    for seed in range(12):
        for text in (short, long):
            for number, page in enumerate(render(template, seed, text)):
                labels = [block.label for block in page.blocks]
                if "footer" not in labels:
                    continue
                feet += 1
                assert labels[-2:] == ["footer", "page_number"]
                assert "header" not in labels
                foot, place = page.lines[-2:]
                assert foot.text.startswith("The title of it" if text is short else "The long title")
                assert place.text == str(number + 1)
                assert foot.box[2] < place.box[0]
                assert abs(foot.box[3] - place.box[3]) <= 4
                assert foot.box[1] > max(line.box[3] for line in page.lines[:-2])
                found = Targets({"grounded": 1.0}).draw(page, np.random.default_rng(0))
                assert found is not None
                assert "<|ref|>footer<|/ref|>" in found.text
    assert feet >= 2


def test_what_stands_in_the_margins_is_seen_and_not_part_of_the_document() -> None:
    page = render("report", 0)[1]
    assert page.text.startswith("The title of it\n")
    assert page.text.endswith("\n2")
    markdown = Targets({"markdown": 1.0}).draw(page, np.random.default_rng(0))
    grounded = Targets({"grounded": 1.0}).draw(page, np.random.default_rng(0))
    assert markdown is not None
    assert grounded is not None
    assert "The title" not in markdown.text
    assert markdown.text == markdown.text.strip()
    assert not markdown.text.endswith("2")
    assert grounded.text.startswith("<|ref|>header<|/ref|>")
    assert "<|ref|>page_number<|/ref|>" in grounded.text


@pytest.mark.parametrize("template", get_args(Template))
def test_a_template_keeps_the_text_and_varies_by_the_document_alone(template: str) -> None:
    words = [word for page in render(template) for block in page.blocks for word in block.markdown.split()]
    assert words.count("words") == 8 * 60
    looks = set()
    for seed in range(8):
        pages = render(template, seed)
        sizes = {page.stats["font_size_px"] for page in pages}
        assert len(sizes) == 1
        assert len({page.lines[1].font.removesuffix(" Bold") for page in pages}) == 1
        looks.add((*sizes, round(min(line.box[0] for line in pages[0].lines))))
    assert len(looks) > 3


def test_a_receipt_is_narrow_in_one_width_of_letters_or_as_wide_as_the_page() -> None:
    widths = {}
    for seed in range(8):
        page = render("receipt", seed, "# Shop\n\n| Item | Price |\n|:--|--:|\n| Rope | 2.50 |")[0]
        fonts = {line.font for line in page.lines}
        table = block_box(page, page.blocks[-1])
        assert table is not None
        widths["Mono" in str(fonts)] = table[2] - table[0]
    assert widths[True] < 0.6 * 500 < 0.75 * 500 < widths[False]


def test_headings_of_a_form_stand_on_bars_and_its_tables_fill_the_column() -> None:
    text = "# Form\n\n## Part\n\n<table><tr><td>Name<br>x</td><td>Born</td></tr></table>"
    bars = 0
    for seed in range(6):
        (page,) = render("form", seed, text)
        heading, table = page.blocks[1], page.blocks[2]
        bars += bool(heading.areas)
        box = block_box(page, table)
        assert box is not None
        assert box[2] - box[0] > 0.75 * 500
        if heading.areas:
            left, top, right, _ = map(int, heading.areas[0])
            assert 200 < np.asarray(page.image.convert("L"))[top, right - 2] < 250
            assert right - left > 0.75 * 500
    assert bars


def test_fonts_and_sizes_of_the_user_win() -> None:
    (page, *_) = render("article", fonts=("DejaVu Sans Mono",), font_size_px=9.0)
    assert page.stats["font_size_px"] == 9.0
    assert {line.font for line in page.lines} <= {"DejaVu Sans Mono", "DejaVu Sans Mono Bold"}


def test_pages_one_by_one_equal_those_of_the_document() -> None:
    renderer = TextRenderer(**PAGE, templates=("article", "report"))
    document = Document("d", TEXT)
    pages = renderer(document, np.random.default_rng(1))
    for number, page in enumerate(pages):
        alone = renderer.page(document, np.random.default_rng(1), number)
        assert alone.image.tobytes() == page.image.tobytes()
        assert alone.blocks == page.blocks


def test_extreme_draws_leave_room_for_text() -> None:
    for template in get_args(Template):
        for draw in (0.0, 0.999):
            found = typography(template, [draw] * 8, (256, 256))
            assert found.frame.width > 40
            assert found.size_px > 3
    with pytest.raises(UserError, match=r"templates has 'poster'; it must have some of article, report"):
        TextRenderer(templates=("poster",))  # type: ignore[arg-type]


def test_a_table_too_wide_for_a_column_spans_the_columns_between_equal_ones() -> None:
    words = "some words of a paragraph in a column " * 8
    table = "| " + " | ".join(f"long{k}" for k in range(9)) + " |\n" + "|---" * 9 + "|\n"
    table += ("| " + " | ".join(f"value{k}" for k in range(9)) + " |\n") * 2
    text = f"{words}\n\n{words}\n\n{table}\n\n{words}\n\n{words}\n\n{table}"
    (page,) = TextRenderer(**PAGE, columns=2, font_size_px=9.0)(Document("d", text), np.random.default_rng(0))
    assert page.text.split() == text.replace("|", " ").replace("-", "").split()
    first, second = (block for block in page.blocks if block.label == "table")
    one, two = block_box(page, first), block_box(page, second)
    assert one is not None
    assert two is not None
    assert one[2] - one[0] > 230
    above = [line.box for line in page.lines[: first.lines[0]]]
    between = [line.box for line in page.lines[first.lines[1] : second.lines[0]]]
    for boxes, top, bottom in ((above, 0, one[1]), (between, one[3], two[1])):
        columns = [[box for box in boxes if (box[0] > 250) == right] for right in (False, True)]
        ends = [max(box[3] for box in column) for column in columns]
        assert all(top < box[1] and box[3] <= bottom for box in boxes)
        assert abs(ends[0] - ends[1]) <= 2 * 9 * 1.3
        assert bottom - max(ends) < 2 * 9 * 1.3


def test_a_table_that_finds_no_room_across_the_columns_begins_the_next_page() -> None:
    table = "| " + " | ".join(f"long{k}" for k in range(9)) + " |\n" + "|---" * 9 + "|\n"
    table += ("| " + " | ".join(f"value{k}" for k in range(9)) + " |\n") * 2
    note = "[^1]: a note\n"
    for text in ("word " * 600 + f"\n\n{table}", "word[^1] " + "word " * 600 + f"\n\n{table}\n\n{note}"):
        first, second = TextRenderer(**PAGE, columns=2, font_size_px=9.0)(Document("d", text), np.random.default_rng(0))
        assert "table" not in [block.label for block in first.blocks]
        assert second.blocks[0].label == "table"
    (alone,) = TextRenderer(**PAGE, columns=2, font_size_px=9.0)(Document("d", table), np.random.default_rng(0))
    assert alone.blocks[0].label == "table"


def test_a_spanning_table_stands_between_a_text_and_its_footnotes() -> None:
    table = "| " + " | ".join(f"long{k}" for k in range(9)) + " |\n" + "|---" * 9 + "|\n"
    table += ("| " + " | ".join(f"value{k}" for k in range(9)) + " |\n") * 2
    text = f"first[^1] words of it\n\n{table}\n\n{{}}\n\n[^1]: a note of it\n"
    for count in (0, 3, 40, 400, 900):
        below = "word " * count
        pages = TextRenderer(**PAGE, columns=2, font_size_px=9.0)(
            Document("d", text.format(below)), np.random.default_rng(0)
        )
        labels = [block.label for block in pages[0].blocks]
        assert {"table", "footnote"} <= set(labels)
        assert sum(page.text.split().count("word") for page in pages) == count
        places = {block.label: block_box(pages[0], block) for block in pages[0].blocks}
        table_box, note_box = places["table"], places["footnote"]
        assert table_box is not None
        assert note_box is not None
        assert table_box[3] < note_box[1]
        boxes = [word.box for line in pages[0].lines for word in line.words]
        for number, (x0, y0, x1, y1) in enumerate(boxes):
            assert all(x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0 for u0, v0, u1, v1 in boxes[:number])


def test_a_note_whose_table_fills_the_page_is_not_lost() -> None:
    rows = "".join("| " + " | ".join(f"value{k}" for k in range(9)) + " |\n" for _ in range(60))
    table = "| " + " | ".join(f"long{k}" for k in range(9)) + " |\n" + "|---" * 9 + "|\n" + rows
    for height in range(200, 260, 3):
        options = {**PAGE, "page_height_px": height, "columns": 2, "font_size_px": 9.0, "margin_px": 20}
        text = f"first[^1] words\n\n{table}\n\n# Heading\n\nwords\n\n[^1]: noted"
        pages = TextRenderer(**options)(Document("d", text), np.random.default_rng(0))
        assert sum(page.text.count("noted") for page in pages) == 1
        assert sum(page.text.count("value0") for page in pages) == 60


def test_a_heading_is_never_stretched_to_the_width_of_its_column() -> None:
    heading = "words of a heading that is longer than one line of its page and goes on"
    options = {**PAGE, "font_size_px": 14.0}
    loose, stretched = (
        TextRenderer(**options, justify=share)(Document("d", f"# {heading}\n\n{heading} {heading}"), rng)[0]
        for share, rng in ((0.0, np.random.default_rng(0)), (1.0, np.random.default_rng(0)))
    )
    kinds: dict[str, list[tuple[Line, ...]]] = {"title": [], "text": []}
    for page in (loose, stretched):
        for block in page.blocks:
            kinds[block.label].append(page.lines[slice(*block.lines)])
    assert len(kinds["title"][0]) > 1
    assert [line.box for line in kinds["title"][0]] == [line.box for line in kinds["title"][1]]
    assert kinds["text"][0][0].box[2] < kinds["text"][1][0].box[2]


def test_text_that_finds_no_room_below_a_spanning_table_begins_the_next_page() -> None:
    rows = "".join("| " + " | ".join(f"value{k}" for k in range(9)) + " |\n" for _ in range(60))
    table = "| " + " | ".join(f"long{k}" for k in range(9)) + " |\n" + "|---" * 9 + "|\n" + rows
    for height in range(200, 260, 3):
        options = {**PAGE, "page_height_px": height, "columns": 2, "font_size_px": 9.0, "margin_px": 20}
        pages = TextRenderer(**options)(Document("d", f"{table}\n\n# Heading\n\nwords"), np.random.default_rng(0))
        assert [page.text.split()[-1] for page in pages][-1] == "words"
        assert sum(page.text.count("value0") for page in pages) == 60
