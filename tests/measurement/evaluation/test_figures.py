"""Lines of figures, marked texts, groups, bounds and points, each by what a small example must give."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsynth.errors import UserError
from deepsynth.measurement.evaluation.command import Evaluate, marked, table_lines
from deepsynth.measurement.evaluation.compression import Condition, PageResult, curves, passages, record
from deepsynth.measurement.evaluation.figures import (
    Comparison,
    Evaluation,
    compare_predictions,
    confusions,
    evaluate_predictions,
)
from deepsynth.measurement.evaluation.pictures import encoded, with_boxes
from deepsynth.measurement.evaluation.predictions import Predictions, check_row, groups_of, in_common, read_predictions
from deepsynth.measurement.evaluation.structure_figures import (
    cell_confusions,
    compare_structure,
    mean_bounds,
    mean_of_groups,
)
from deepsynth.types import Document

EVALUATION = Evaluation(
    documents=3,
    unknown=0,
    metrics={"cer": 0.12345, "wer": 0.5},
    bounds={"cer": (0.01234, 0.98761), "wer": (0.25, 0.75)},
    groups={"language": {"de\n": {"cer": 0.75, "wer": 1.0}}},
    structure={"teds": 0.66666},
    structure_bounds={"teds": (0.5, 0.75)},
    structure_groups={"prompt": {"Read  it.": {"teds": 0.5, "box_iou": 0.25}}},
    cells=[("a", "", 3), *[("", f"c{i}", 1) for i in range(20)]],
    confusions=[("", "x", 4), (" ", "\n", 3), ("y", "", 2), *[("z", str(i), 1) for i in range(20)]],
    worst=[],
)
COMPARISON = Comparison((0.1, 0.2), -0.1, -0.15, 0.05, 0.01234, better=5, worse=2, structure={"teds": (0.5, 0.75, 1)})


def test_the_lines_of_a_terminal() -> None:
    cells = ", ".join(f"'nothing' as 'c{i}' (1)" for i in range(9))
    confused = ", ".join(f"z as {i} (1)" for i in range(7))
    expected = [
        "3 documents",
        "cer            0.1235   0.0123 to 0.9876",
        "wer            0.5000   0.2500 to 0.7500",
        "language de: cer 0.7500, wer 1.0000",
        "teds                 0.6667   0.5000 to 0.7500",
        "prompt Read it.: teds 0.5000, box_iou 0.2500",
        f"cells: 'a' as 'nothing' (3), {cells}",
        f"confusions: nothing as x (4), a space as a line break (3), y as nothing (2), {confused}",
    ]
    assert list(table_lines(EVALUATION, None)) == expected
    assert list(table_lines(EVALUATION, COMPARISON))[8:] == [
        "cer 0.1000 against 0.2000: difference -0.1000 (-0.1500 to +0.0500), p 0.0123; better on 5 documents, "
        "worse on 2",
        "teds 0.5000 against 0.7500: difference -0.2500, p 1",
    ]
    few = replace(EVALUATION, unknown=2, cells=[], confusions=[], groups={}, structure={}, structure_groups={})
    assert list(table_lines(few, None)) == ["3 documents, 2 without a target left out", *expected[1:3]]


@pytest.mark.parametrize(
    ("prediction", "target", "shown"),
    [
        ("abXd", "abcd", ("ab<del>X</del>d", "ab<ins>c</ins>d")),
        ("ab", "abc", ("ab", "ab<ins>c</ins>")),
        ("abc", "bc", ("<del>a</del>bc", "bc")),
        ("<", "&", ("<del>&lt;</del>", "<ins>&amp;</ins>")),
        ("", "", ("", "")),
        ("a" * 4000, "", (f"<del>{'a' * 4000}</del>", "")),
        ("", "a" * 2000 + "b" + "c" * 2000, ("", f"<ins>{'a' * 2000} … {'c' * 2000}</ins>")),
    ],
)
def test_what_is_wrong_and_what_is_missing_are_marked(prediction: str, target: str, shown: tuple[str, str]) -> None:
    assert tuple(map(str, marked(prediction, target))) == shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 0.0}, "--confidence is 0.0; it must be between 0 and 1"),
        ({"confidence": 1.0}, "--confidence is 1.0; it must be between 0 and 1"),
        ({"worst": -1}, "--worst is -1; it must be at least 0"),
        ({"resamples": 0}, "--resamples is 0; it must be at least 1"),
        ({"profile": "nothing-such"}, "nothing-such"),
        ({"confidence": 0.001, "worst": 0, "resamples": 1, "profile": "layout"}, None),
    ],
)
def test_options_out_of_range_are_refused(settings: dict[str, Any], message: str | None) -> None:
    if message is None:
        Evaluate(Path("x"), **settings)
        return
    with pytest.raises(UserError, match=message):
        Evaluate(Path("x"), **settings)


def of(*pairs: tuple[str, str], **more: Any) -> Predictions:
    rows = [{"id": f"d{i}", "prediction": one, "target": other, **more} for i, (one, other) in enumerate(pairs)]
    return Predictions(Path("p"), tuple(rows), 0)


def figures(found: Predictions, **settings: Any) -> Evaluation:
    options: dict[str, Any] = {
        "profile": "none", "by": ("source",), "structure": False, "worst": 20, "confidence": 0.9, "resamples": 50,
    }  # fmt: skip
    return evaluate_predictions(found, **{**options, **settings})


def test_the_worst_documents_are_those_with_the_most_edits_in_their_order() -> None:
    found = of(("abcd", "abcd"), ("ab", "abcd"), ("x", "abcdefgh"), ("cd", "abcd"))
    assert [(one.id, one.cer) for one in figures(found).worst] == [("d2", 1.0), ("d1", 0.5), ("d3", 0.5)]
    assert [one.id for one in figures(found, worst=1).worst] == ["d2"]
    assert figures(found, worst=0).worst == []
    longer = figures(of(("abcdefgh", "ab"))).worst[0]
    assert (longer.cer, longer.prediction, longer.target) == (3.0, "abcdefgh", "ab")


def test_a_profile_is_what_is_compared_and_shown() -> None:
    found = of(("ONE", "one"), ("TWQ", "two"))
    assert figures(found).metrics["cer"] == 1.0
    folded = figures(found, profile="case")
    assert folded.metrics["cer"] == 1 / 6
    assert [(one.prediction, one.target) for one in folded.worst] == [("twq", "two")]
    assert folded.confusions == [("o", "q", 1)]


def test_the_most_frequent_confusions_come_first_and_then_by_letter() -> None:
    pairs = [("xb", "ab"), ("xb", "ab"), ("yb", "ab"), ("ac", "ab")]
    assert confusions(pairs) == [("a", "x", 2), ("a", "y", 1), ("b", "c", 1)]
    assert confusions(pairs, most=2) == [("a", "x", 2), ("a", "y", 1)]
    assert confusions([("", "ab"), ("cd", "")]) == [("", "c", 1), ("", "d", 1), ("a", "", 1), ("b", "", 1)]
    assert len(confusions([(chr(100 + i), chr(300 + i)) for i in range(30)])) == 20


def test_two_systems_are_compared_pair_by_pair() -> None:
    one, other = (
        of(("abcd", "abcd"), ("ab", "abcd"), ("x", "abcd")),
        of(("ab", "abcd"), ("ab", "abcd"), ("abcd", "abcd")),
    )
    found = compare_predictions(one, other, profile="none", confidence=0.5, resamples=400)
    assert found.cer == (6 / 12, 4 / 12)
    assert found.difference == pytest.approx(2 / 12)
    assert (found.better, found.worse, found.structure) == (1, 1, {})
    wider = compare_predictions(one, other, profile="none", confidence=0.99, resamples=400)
    assert wider.low < found.low < found.high < wider.high
    assert wider.low >= -0.5
    assert wider.high <= 1.0
    again = compare_predictions(one, other, profile="none", confidence=0.5, resamples=400)
    assert again == found
    many, twice = of(*[("a" * i, "a" * 9) for i in range(9)]), of(*[("a" * (i * 4 % 9), "a" * 9) for i in range(9)])
    ends = [
        compare_predictions(many, twice, profile="none", confidence=0.9, resamples=99, seed=seed) for seed in (0, 1)
    ]
    assert (ends[0].low, ends[0].high) != (ends[1].low, ends[1].high)
    assert "text_distance" in compare_predictions(
        one, other, profile="none", confidence=0.5, resamples=9, structure=True
    ).structure  # fmt: skip


def test_bounds_are_quantiles_of_means_over_the_pages_that_have_a_metric() -> None:
    pages = [{"teds": 0.0}, {"teds": 1.0}, {"box_iou": 0.5}, {}]
    found = mean_bounds(pages, 0.98, 2000)
    assert found == {"teds": (0.0, 1.0), "box_iou": (0.5, 0.5)}
    assert mean_bounds(pages, 0.4, 2000)["teds"] == (0.5, 0.5)  # half of the draws have one of each
    many = [{"teds": float(i % 2)} for i in range(100)]
    low, high = mean_bounds(many, 0.9545, 4000)["teds"]
    assert low == pytest.approx(0.5 - 2 * 0.05, abs=0.02)  # two standard errors of a mean of 100 coins
    assert high == pytest.approx(0.5 + 2 * 0.05, abs=0.02)
    assert mean_bounds(many, 0.9, 100) != mean_bounds(many, 0.9, 100, seed=1)
    assert mean_bounds([], 0.9, 10) == {}


def test_means_are_of_the_pages_of_a_group() -> None:
    pages = [{"teds": 0.0}, {"teds": 1.0}, {"teds": 0.25}, {}]
    assert mean_of_groups(pages, ["b", "b", "a", "c"]) == {"a": {"teds": 0.25}, "b": {"teds": 0.5}}
    assert list(mean_of_groups(pages, ["b", "b", "a", None])) == ["a", "b"]
    assert mean_of_groups(pages, [None] * 4) == {}


def test_structure_is_compared_where_both_have_it() -> None:
    one = [{"teds": 1.0, "box_iou": 0.5}, {"teds": 0.5}, {"teds": 1.0}]
    other = [{"teds": 0.5}, {"teds": 0.0, "box_iou": 0.1}, {"teds": 0.5}]
    found = compare_structure(one, other, 4000)
    assert list(found) == ["teds"]
    better, worse, p = found["teds"]
    assert (better, worse) == (pytest.approx(2.5 / 3), pytest.approx(1 / 3))
    assert p == pytest.approx(2 / 8, abs=0.03)  # all three exchanged, or none, of eight ways
    assert compare_structure(one, other, 50) != compare_structure(one, other, 50, seed=3)


def test_wrong_cells_are_counted_by_place() -> None:
    def html(*cells: str) -> str:
        return f"<table><tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></table>"

    pairs = [(html("a", "x"), html("a", "b")), (html("a", "x"), html("a", "b")), (html("a"), html("a", " b  c "))]
    assert cell_confusions(pairs) == [("b", "x", 2), ("b c", "", 1)]
    assert cell_confusions(pairs, most=1) == [("b", "x", 2)]
    assert cell_confusions([("no table", html("a"))]) == []
    assert cell_confusions([(html("a", "extra"), html("a"))]) == [("", "extra", 1)]


# ---------------------------------------------------------------------- files of predictions


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "prediction": ""}, None),
        ({"id": 1, "prediction": "", "target": None, "language": None}, None),
        ({"prediction": ""}, "w: a row needs an id and a prediction"),
        ({"id": 1, "prediction": None}, "w: a row needs an id and a prediction"),
        ({"id": 1, "prediction": "", "target": ["x"]}, "w: target is of type list; it must be a text"),
        ({"id": "\ud800", "prediction": ""}, "w: the field 'id' has half a surrogate pair"),
        ({"id": 1, "prediction": "", "source": "\ud800"}, "w: the field 'source' has half"),
        ({"id": 1, "prediction": "", "target": "\ud800"}, "w: the field 'target' has half"),
    ],
)
def test_a_row_is_a_prediction_or_refused(row: dict[str, Any], message: str | None) -> None:
    if message is None:
        check_row("w", row)
        return
    with pytest.raises(UserError, match=f"^{message}"):
        check_row("w", row)


def test_predictions_are_read_from_a_file_or_its_folder(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "prediction": "a", "target": "b"},
        {"id": "x" * 99, "prediction": ""},
        {"id": 3, "prediction": ""},
    ]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (tmp_path, file):
        found = read_predictions(path)
        assert (found.path, found.rows, found.unknown, found.ids) == (file, (rows[0],), 2, ["1"])
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[1]}]))
    with pytest.raises(UserError, match=r"line 4: the id 'x{80}' comes twice$"):
        read_predictions(file)
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "id": "1"}]))
    with pytest.raises(UserError, match="the id '1' comes twice"):
        read_predictions(file)
    with pytest.raises(UserError, match=r"missing/?\S* does not exist; give the predictions.jsonl"):
        read_predictions(tmp_path / "missing")


def test_documents_in_common_are_in_the_order_of_the_first_file() -> None:
    one = Predictions(Path("one"), tuple({"id": i, "target": f"t{i}", "of": "one"} for i in (3, 1, 2)), 4)
    other = Predictions(Path("two"), tuple({"id": str(i), "target": f"t{i}", "of": "two"} for i in (1, 9, 8, 3)), 5)
    first, second, left = in_common(one, other)
    assert [(row["id"], row["of"]) for row in first.rows] == [(3, "one"), (1, "one")]
    assert [(row["id"], row["of"]) for row in second.rows] == [("3", "two"), ("1", "two")]
    assert (first.path, second.path, first.unknown, second.unknown) == (Path("one"), Path("two"), 4, 5)
    assert left == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b", None], ["a", "b", None]),
        (["a", "a"], [None, None]),
        ([None, None], [None, None]),
        ([1, "1"], [None, None]),
        ([1, 2], ["1", "2"]),
        (["a", None], ["a", None]),
    ],
)
def test_one_group_of_all_is_none(values: list[Any], expected: list[str | None]) -> None:
    assert groups_of([{"language": value} for value in values], "language") == expected


# ---------------------------------------------------------------------- compression


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (Condition(None, None, False, False), "own"),
        (Condition("tiny", 14.0, False, False), "tiny-14px"),
        (Condition("tiny", 14.5, True, False), "tiny-14.5px-shuffled"),
        (Condition(None, 9.0, False, True), "own-9px-tuned"),
        (Condition("base", None, True, True), "base-shuffled-tuned"),
    ],
)
def test_a_condition_has_a_folder_of_its_own(condition: Condition, name: str) -> None:
    assert condition.name == name


def test_points_are_in_the_order_of_their_buckets() -> None:
    condition, other = Condition("a", None, False, False), Condition("b", None, False, False)
    pages = [
        PageResult(condition, "x", 20, 100, 10, 0.5, 0.0),
        PageResult(other, "y", 5, 10, 10, 1.0, 0.0),
        PageResult(condition, "z", 10, 50, 10, 1.0, 0.0),
        PageResult(condition, "w", 19, 90, 20, 0.0, 0.0),
    ]
    found = curves(pages, 10)
    assert list(found) == [condition, other]
    assert [(p.low, p.high, p.pages, p.precision) for p in found[condition]] == [(10, 20, 2, 0.5), (20, 30, 1, 0.5)]
    first = found[condition][0]
    assert first.tokens_per_vision_token == pytest.approx(29 / 30)
    assert first.characters_per_vision_token == pytest.approx(140 / 30)
    written = record(found)
    assert [(row["mode"], len(row["points"])) for row in written] == [("a", 2), ("b", 1)]
    assert written[1]["points"][0]["precision"] == 1.0


@pytest.mark.parametrize(("length", "expected"), [(1, ["a"]), (3, ["a b c"]), (4, ["a b c d"]), (5, None)])
def test_a_passage_leaves_at_least_a_word(length: int, expected: list[str] | None) -> None:
    documents = [Document("x", "a b\tc\n\nd e")]

    def count(text: str) -> int:
        return len(text.split())

    if expected is None:
        with pytest.raises(UserError, match="the source has no passage of 5 text tokens"):
            passages(documents, [length], count)
    else:
        assert [one.text for one in passages(documents, [length], count)] == expected


# ---------------------------------------------------------------------- pictures


def test_boxes_reach_from_edge_to_edge_on_a_page_for_the_screen() -> None:
    page = Image.new("RGB", (1500, 3000), "white")
    picture = with_boxes(page, "<|ref|>x<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>", "")
    assert picture.size == (360, 720)
    assert page.size == (1500, 3000)
    pixels = np.asarray(picture).astype(int)
    assert pixels[0, 180].tolist() == [0xD3, 0x32, 0x2B]
    assert pixels[360, 180].tolist() == [255, 255, 255]
    small = with_boxes(Image.new("L", (100, 50), "white"), "", "<|ref|>x<|/ref|><|det|>[[0, 0, 500, 999]]<|/det|>")
    assert small.size == (100, 50)
    assert np.asarray(small).astype(int)[25, math.floor(100 * 500 / 999)].tolist() == [0x1A, 0x8F, 0x3C]


def test_pictures_are_data_of_the_page() -> None:
    import base64
    import io

    first, second = encoded([Image.new("RGB", (4, 3), "red"), Image.new("RGB", (5, 6), "blue")])
    for url, size in ((first, (4, 3)), (second, (5, 6))):
        head, _, data = url.partition(",")
        assert head == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (image.format, image.size) == ("WEBP", size)
