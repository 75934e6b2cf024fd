"""OmniDocBench. Expected figures are those of the published code (version 1.5) on the same files, in all digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import apted  # noqa: F401  TEDS needs it
import pytest
from PIL import Image

from deepsynth.cli.main import run
from deepsynth.data import OmniDocBenchSource
from deepsynth.data.formats.omnidocbench import Element, read_annotations
from deepsynth.errors import UserError
from deepsynth.measurement.published.commands import EvaluateOmniDocBench
from deepsynth.measurement.published.omnidocbench import score_page
from deepsynth.measurement.published.omnidocbench_text import formula_letters, normalized_formula, text_letters
from deepsynth.measurement.published.page_parts import Part, predicted_parts
from deepsynth.measurement.published.part_matching import match_parts

BENCH = Path(__file__).parents[2] / "fixtures" / "omnidocbench"
PUBLISHED = {
    "text_edit": 0.0075290231699616265,
    "formula_edit": 0.09230769230769231,
    "table_teds": 0.9259259259259259,
    "table_teds_structure": 1.0,
    "table_edit": 0.012738853503184714,
    "order_edit": 0.16666666666666666,
}


def test_the_figures_are_those_of_the_published_code(tmp_path: Path) -> None:
    lines: list[str] = []
    EvaluateOmniDocBench(BENCH, BENCH / "predictions", output=tmp_path, resamples=20).run(lines.append)
    record = json.loads((tmp_path / "metrics.json").read_text())
    metrics = record["metrics"]
    assert lines[0] == "OmniDocBench, 3 pages"
    for line, (name, value) in zip(lines[1:], metrics.items(), strict=False):
        low, high = record["bounds"][name]
        assert line == f"{name:22} {value:8.4f}   {low:.4f} to {high:.4f}"
    groups = {name: found["text_edit"] for name, found in record["groups"].items() if "text_edit" in found}
    assert groups
    printed = lines[1 + len(metrics) : 1 + len(metrics) + len(groups)]
    assert printed == [f"{name}: text_edit {value:.4f}" for name, value in groups.items()]
    assert {name: metrics[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=1e-12)
    assert metrics["overall_edit"] == pytest.approx((0.00752902 + 0.09230769 + 0.01273885 + 0.16666667) / 4, abs=1e-7)
    assert metrics["overall_without_cdm"] == pytest.approx(100 * (0.99247098 + 0.92592593 + 0.90769231) / 3, abs=1e-5)
    assert record["groups"]["data_source: academic_literature"]["text_edit"] == 0
    assert record["bounds"]["text_edit"][0] < metrics["text_edit"] < record["bounds"]["text_edit"][1]


def test_pages_without_a_prediction_are_left_out_and_named(tmp_path: Path) -> None:
    shutil.copy(BENCH / "predictions" / "notice.md", tmp_path)
    lines: list[str] = []
    EvaluateOmniDocBench(BENCH, tmp_path, resamples=1).run(lines.append)
    assert lines[0] == "left out: 2 of 3 pages, without a prediction: harbor, energy"
    assert "OmniDocBench, 1 page" in lines
    (tmp_path / "notice.md").rename(tmp_path / "other.md")
    with pytest.raises(UserError, match="no prediction of a page"):
        EvaluateOmniDocBench(BENCH, tmp_path).run(lines.append)


def test_pages_are_documents_with_their_markdown(tmp_path: Path) -> None:
    shutil.copy(BENCH / "OmniDocBench.json", tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("harbor", "energy", "notice"):
        Image.new("RGB", (80, 100), "white").save(tmp_path / "images" / f"{name}.png")
    harbor, energy, notice = OmniDocBenchSource(tmp_path)
    assert harbor.text == (
        "# The harbor of Lindesnes\n\n"
        "Ships came in from the north every second day, loaded with salt and timber.\n\n"
        "The keeper of the light wrote down each of them. His books hold 4,112 names of ships and the ports that they "
        "had left.\n\n"
        "<table><thead><tr><th>Year</th><th>Ships</th></tr></thead><tbody><tr><td>1871</td><td>312</td></tr>"
        "<tr><td>1872</td><td>298</td></tr></tbody></table>\n\n"
        "Table 1. Ships that called at the harbor."
    )
    assert "$$P = \\frac{\\rho g^{2}}{64 \\pi} H_{s}^{2} T$$" in energy.text
    assert (notice.id, notice.language, notice.source) == ("notice.png", "en", "note")
    assert notice.image == tmp_path / "images" / "notice.png"
    (tmp_path / "images" / "energy.png").unlink()
    with pytest.raises(UserError, match=r"OmniDocBench\.json: no file .*energy\.png"):
        list(OmniDocBenchSource(tmp_path))


def test_its_own_markdown_scores_best() -> None:
    for page in read_annotations(BENCH / "OmniDocBench.json"):
        score = score_page(page, page.markdown())
        assert all(edits == 0 for edits, _ in score.edits.values())
        assert score.order == 0
        assert score.teds == score.teds_structure == [1.0] * len(score.teds)


def test_a_page_without_its_parts_scores_worst() -> None:
    page = read_annotations(BENCH / "OmniDocBench.json")[0]
    score = score_page(page, "")
    assert all(edits == length for edits, length in score.edits.values())
    assert (score.order, score.teds) == (1.0, [0.0])


def test_a_paragraph_cut_twice_is_one(tmp_path: Path) -> None:
    pages = json.loads((BENCH / "OmniDocBench.json").read_text())
    pages[2]["extra"]["relation"] = [
        {"source_anno_id": 0, "target_anno_id": 1, "relation_type": "truncated"},
        {"source_anno_id": 1, "target_anno_id": 2, "relation_type": "truncated"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(pages))
    elements = sorted(read_annotations(tmp_path / "a.json")[2].elements, key=lambda element: element.order)
    assert elements == [
        Element(
            "text_block",
            1.0,
            "Notice to all captainsFrom the first of May on the channel west of the island is closed at night."
            "Pilots wait at the outer buoy.",
        ),
        Element("text_block", 4.0, "By order of the board"),
    ]


def test_what_is_compared_of_a_text() -> None:
    assert text_letters(r"a $\alpha_1^{2}$, b!") == "aα_12b"
    assert text_letters("cost $5 and $6") == "cost5and6"
    assert formula_letters(r"\mathbf{x}\mathbb{R} \sin \frac{a}{b} \foo{c}") == "𝐱ℝ sin ab c"
    assert normalized_formula(r"\[ \mathbf{X}\,\left( y \right)\quad \tag{3} \]") == r"{x}\,(y)"


def test_parts_of_a_prediction() -> None:
    text = "One $x_1$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nTwo\n\n$$y$$\n\n<table><tr><td>3</td></tr></table>"
    parts, tables = predicted_parts(text)
    assert [(part.kind, part.compared, part.inline) for part in parts] == [
        ("text", "Onex_1", False),
        ("text", "Two", False),
        ("equation_isolated", "y", False),
        ("equation_isolated", "x_1", True),
    ]
    assert ["3" in table.raw for table in tables] == [True, False]
    assert predicted_parts(r"\begin{tabular}{l} a \end{tabular}")[1] == []


def test_parts_are_joined_where_one_side_cuts_them() -> None:
    def parts(*texts: str) -> list[Part]:
        return [Part("text_block", place, text, text) for place, text in enumerate(texts)]

    whole = "thequickbrownfoxjumpsoverthelazydogandthenitsleeps"
    other = "nothingofthiskindishere123456"
    matches = match_parts(parts(whole, other), parts(whole[:25], whole[25:], other))
    found = {match.expected[0].raw: [part.raw for part in match.predicted] for match in matches}
    assert found == {whole: [whole[:25], whole[25:]], other: [other]}
    (match,) = match_parts(parts(whole[:25], whole[25:]), parts(whole))
    assert [part.raw for part in match.expected] == [whole[:25], whole[25:]]
    matches = match_parts(parts(whole), [])
    assert [(len(match.expected), len(match.predicted)) for match in matches] == [(1, 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "no list of pages"),
        ('[{"layout_dets": [{}]}]', "page 1: not as"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / "a.json")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "omnidocbench", str(BENCH), str(BENCH / "predictions"), "--resamples=1"]) == 0
    assert "table_teds_structure     1.0000" in capsys.readouterr().out


def texts(*compared: str, kind: str = "text_block") -> list[Part]:
    return [Part(kind, place, text, text) for place, text in enumerate(compared)]


def matched(expected: list[Part], *predicted: str) -> list[tuple[list[str], list[str]]]:
    found = match_parts(expected, texts(*predicted))
    return [([part.raw for part in match.expected], [part.raw for part in match.predicted]) for match in found]


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def test_single_parts_are_a_pair_whatever_they_are() -> None:
    assert matched(texts("abc"), "xyz") == [(["abc"], ["xyz"])]


def test_parts_are_paired_by_likeness_and_not_by_place() -> None:
    one, two, three = ALPHABET[:20], ALPHABET[::-1], "0123456789" * 2
    pairs = matched(texts(one, two, three), three, f"{one}!", two)
    assert sorted(pairs) == sorted([([one], [f"{one}!"]), ([two], [two]), ([three], [three])])


def test_what_is_left_is_paired_however_different() -> None:
    one, two = ALPHABET, "0123456789"
    assert ([two], ["!?!?!?!?!?"]) in matched(texts(one, two), one, "!?!?!?!?!?")
    assert ([two], []) in matched(texts(one, two), one)


def test_what_may_be_left_out_takes_its_prediction_along() -> None:
    header = texts("runninghead", kind="header")
    assert matched([*header, *texts(ALPHABET)], "runninghead", ALPHABET) == [([ALPHABET], [ALPHABET])]
    assert matched([*header, *texts(ALPHABET, "0123456789")], "runninghead", ALPHABET) == [
        ([ALPHABET], [ALPHABET]),
        (["0123456789"], []),
    ]


def test_a_piece_is_joined_only_with_its_neighbor() -> None:
    whole, other = ALPHABET * 2, "0123456789" * 4
    pieces = whole[:26], whole[26:]
    assert (sorted(matched(texts(whole, other), pieces[0], pieces[1], other))) == sorted(
        [([whole], list(pieces)), ([other], [other])]
    )
    apart = {one[0]: found for one, found in matched(texts(whole, other), pieces[0], other, pieces[1])}
    assert apart[other] == [other]
    assert len(apart[whole]) == 1, "what stands between the pieces keeps them apart"


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("one\ntwo", ["one", "two"]),
        ("one\n\ntwo\nthree", ["one", "two\nthree"]),
        ("one", ["one"]),
        ("$$a\nb$$", ["\\[a b\\]"]),
    ],
)
def test_paragraphs_are_lines_where_no_blank_line_parts_them(text: str, raw: list[str]) -> None:
    assert [part.raw for part in predicted_parts(text)[0]] == raw
