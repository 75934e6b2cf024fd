"""Figures of predictions in a file, and of two systems on the same documents."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jinja2  # noqa: F401  the report is made with it
import numpy as np
import pytest
from PIL import Image

from deepsynth.cli.main import run
from deepsynth.errors import UserError
from deepsynth.measurement.evaluation.command import Evaluate, marked
from deepsynth.measurement.evaluation.figures import compare_predictions, confusions
from deepsynth.measurement.evaluation.pictures import with_boxes
from deepsynth.measurement.evaluation.predictions import in_common, read_predictions
from deepsynth.measurement.evaluation.structure_figures import cell_confusions, compare_structure

ROWS = [
    {"id": "a", "prediction": "one", "target": "one", "language": "en", "stop": "eos"},
    {"id": "b", "prediction": "twq", "target": "two", "language": "en", "stop": "eos"},
    {"id": "c", "prediction": "drie!!", "target": "drei", "language": "de", "stop": "length"},
    {"id": "scan", "prediction": "anything", "target": ""},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(path: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    lines: list[str] = []
    Evaluate(path, output=path.parent / "out", **options).run(lines.append)
    return lines, json.loads((path.parent / "out" / "metrics.json").read_text())


def test_the_figures_of_a_file(tmp_path: Path) -> None:
    lines, record = evaluate(write(tmp_path / "predictions.jsonl", ROWS))
    assert lines[0] == "3 documents, 1 without a target left out"
    assert record["metrics"]["cer"] == pytest.approx((0 + 1 + 3) / (3 + 3 + 4))
    assert record["metrics"]["cut_rate"] == pytest.approx(1 / 3)
    low, high = record["bounds"]["cer"]
    assert 0 <= low < record["metrics"]["cer"] < high <= 1
    assert record["groups"]["language"]["en"]["cer"] == pytest.approx(1 / 6)
    assert record["groups"]["language"]["de"]["cer"] == pytest.approx(3 / 4)
    assert "source" not in record["groups"]
    assert [document["id"] for document in record["worst"]] == ["c", "b"]
    assert any(line.startswith("language de: cer 0.7500") for line in lines)


def test_a_profile_is_applied_to_both_texts(tmp_path: Path) -> None:
    rows = [{"id": "a", "prediction": "One\nTWO", "target": "one two"}]
    path = write(tmp_path / "predictions.jsonl", rows)
    assert evaluate(path)[1]["metrics"]["cer"] > 0
    assert evaluate(path, profile="case+layout")[1]["metrics"]["cer"] == 0


def test_structure_is_scored_where_a_target_has_it(tmp_path: Path) -> None:
    table = "<table><tr><td>a</td><td>b</td></tr></table>"
    rows = [{"id": "a", "prediction": table.replace("<td>b", "<td>c"), "target": table}]
    path = write(tmp_path / "predictions.jsonl", rows)
    assert evaluate(path)[1]["structure"]["teds"] == pytest.approx(1 - 1 / 3)
    assert evaluate(path, structure=False)[1]["structure"] == {}
    assert evaluate(write(tmp_path / "predictions.jsonl", ROWS))[1]["structure"] == {}
    assert evaluate(write(tmp_path / "predictions.jsonl", ROWS), structure=True)[1]["structure"]["text_distance"] > 0


def test_confusions_are_counted_by_character() -> None:
    found = confusions([("axc", "abc"), ("axd", "abd"), ("ac", "abc"), ("abcd", "abc")])
    assert found == [("b", "x", 2), ("", "d", 1), ("b", "", 1)]


def test_two_systems_are_compared_on_the_documents_of_both(tmp_path: Path) -> None:
    better = write(
        tmp_path / "better.jsonl", [{"id": str(i), "prediction": "abcd", "target": "abcd"} for i in range(12)]
    )
    worse = write(
        tmp_path / "worse.jsonl", [{"id": str(i), "prediction": "abxx", "target": "abcd"} for i in range(2, 14)]
    )
    lines, record = evaluate(better, against=worse)
    found = record["comparison"]
    assert lines[0].startswith("left out: 4 documents in only one of the two files")
    assert found["cer"] == [0.0, 0.5]
    assert found["difference"] == found["low"] == found["high"] == -0.5
    assert (found["better"], found["worse"]) == (10, 0)
    assert found["p"] < 0.02
    same = evaluate(better, against=better)[1]["comparison"]
    assert (same["difference"], same["p"], same["better"], same["worse"]) == (0.0, 1.0, 0, 0)


def test_the_p_value_is_the_share_of_exchanges_that_differ_as_much(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    texts = ["x" * 10] * 7
    sides = []
    for name in ("one", "other"):
        edits = draw.integers(0, 6, size=7)
        rows = [
            {"id": str(i), "prediction": "y" * int(n) + "x" * (10 - int(n)), "target": text}
            for i, (n, text) in enumerate(zip(edits, texts, strict=True))
        ]
        sides.append((edits, read_predictions(write(tmp_path / f"{name}.jsonl", rows))))
    difference = sides[0][0] - sides[1][0]
    exact = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True))) >= abs(difference.sum())
        for signs in itertools.product([1, -1], repeat=7)
    ]
    found = compare_predictions(sides[0][1], sides[1][1], profile="none", confidence=0.95, resamples=20_000)
    assert found.p == pytest.approx(np.mean(exact), abs=0.02)
    assert found.low <= found.difference <= found.high


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none of its 0 documents has a target"),
        ("{}\n", "line 1: a row needs an id and a prediction"),
        ('{"id": "a", "prediction": "x", "target": "x"}\nnothing\n', "line 2: not JSON"),
        ("[" * 100_000, "not JSON: maximum recursion"),
        ('{"a": ' * 100_000, "line 1: not usable JSON: nested too deeply"),
        ('{"id": "a", "prediction": "x", "target": 5}\n', "line 1: target is of type int; it must be a text"),
        ('{"id": "a", "prediction": "\\ud800", "target": "x"}\n', "'prediction' has half a surrogate pair"),
        ('{"id": "a", "prediction": "x", "target": "x", "prompt": "\\udfff"}\n', "'prompt' has half a surrogate pair"),
        ("\x00\ufeff{}\n", "line 1: not JSON"),
        ('{"id": "a", "prediction": "x", "target": "x"}\n' * 2, "line 2: the id 'a' comes twice"),
    ],
)
def test_files_that_are_no_predictions_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_predictions(path)


def test_systems_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = read_predictions(write(tmp_path / "one.jsonl", ROWS[:1]))
    with pytest.raises(UserError, match="no document in common"):
        in_common(one, read_predictions(write(tmp_path / "two.jsonl", ROWS[1:2])))
    with pytest.raises(UserError, match="different targets for 'a'"):
        in_common(one, read_predictions(write(tmp_path / "three.jsonl", [{**ROWS[0], "target": "on"}])))


def test_the_page_shows_strangers_text_as_text(tmp_path: Path) -> None:
    rows = [
        {"id": "<b>x", "prediction": "<script>alert(1)</script>", "target": "<i>safe</i>", "language": "<u>"},
        ROWS[0],
    ]
    evaluate(write(tmp_path / "predictions.jsonl", rows))
    page = (tmp_path / "out" / "report.html").read_text()
    for tag in ("<script", "<b>x", "<i>", "<u>"):
        assert tag not in page
    predicted, expected = marked("abXd", "abcd")
    assert (str(predicted), str(expected)) == ("ab<del>X</del>d", "ab<ins>c</ins>d")


def test_the_command_reads_a_folder_and_explains_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "predictions.jsonl", ROWS)
    assert run(["evaluate", str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    assert "cer            0.4000" in capsys.readouterr().out
    assert run(["evaluate", str(tmp_path / "missing")]) == 1
    assert run(["evaluate", str(tmp_path), "--confidence", "2"]) == 1
    assert "--confidence is 2.0; it must be between 0 and 1" in capsys.readouterr().err


TABLE = "<table><tr><td>Sea</td><td>Height</td></tr><tr><td>North</td><td>2.1</td></tr></table>"
BOX = "<|ref|>North<|/ref|><|det|>[[100, 200, 300, 400]]<|/det|>"
OTHER_BOX = BOX.replace("300", "250")


def test_structure_has_bounds_and_groups_by_prompt(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prediction": TABLE, "target": TABLE, "prompt": "Parse the figure."},
        {"id": "b", "prediction": TABLE.replace("<td>2.1</td>", ""), "target": TABLE, "prompt": "Parse the figure."},
        {"id": "c", "prediction": OTHER_BOX, "target": BOX, "prompt": "<image>\nOCR."},
    ]
    lines, record = evaluate(write(tmp_path / "predictions.jsonl", rows))
    assert record["structure"]["teds"] == pytest.approx((1 + 5 / 6) / 2)
    assert record["structure_bounds"]["teds"] == pytest.approx([5 / 6, 1])
    groups = record["structure_groups"]["prompt"]
    assert groups["Parse the figure."]["teds"] == record["structure"]["teds"]
    assert "teds" not in groups["<image>\nOCR."]
    assert groups["<image>\nOCR."]["box_iou"] == pytest.approx(151 / 201)
    assert any(line.startswith("prompt <image> OCR.: text_distance") for line in lines)


def test_cells_of_tables_are_counted_where_they_are_wrong(tmp_path: Path) -> None:
    wrong = TABLE.replace("2.1", "2.7")
    missing = TABLE.replace("<td>2.1</td>", "")
    assert cell_confusions([(wrong, TABLE), (wrong, TABLE), (missing, TABLE), (TABLE, TABLE)]) == [
        ("2.1", "2.7", 2),
        ("2.1", "", 1),
    ]
    pipes = "| Sea | Height |\n| --- | --- |\n| South | 2.1 |"
    rows = [{"id": "a", "prediction": pipes, "target": TABLE}]
    lines, record = evaluate(write(tmp_path / "predictions.jsonl", rows))
    assert record["cells"] == [["North", "South", 1]]
    assert "cells: 'North' as 'South' (1)" in lines
    assert "Cells of tables" in (tmp_path / "out" / "report.html").read_text()


def test_structure_of_two_systems_is_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [{"id": str(i), "prediction": TABLE, "target": TABLE} for i in range(12)])
    half = TABLE.replace("<tr><td>North</td><td>2.1</td></tr>", "")
    other = write(tmp_path / "b.jsonl", [{"id": str(i), "prediction": half, "target": TABLE} for i in range(12)])
    lines, record = evaluate(one, against=other)
    better, worse, p = record["comparison"]["structure"]["teds"]
    assert (better, worse) == (1.0, pytest.approx(1 / 2))
    assert p < 0.01
    assert any(line.startswith("teds 1.0000 against 0.5000: difference +0.5000") for line in lines)
    same = compare_structure([{"teds": 0.5}] * 3, [{"teds": 0.5}] * 3, 100)
    assert same["teds"] == (0.5, 0.5, 1.0)


def test_boxes_are_drawn_on_the_page() -> None:
    page = Image.new("L", (999, 999), "white")
    picture = with_boxes(page, OTHER_BOX, BOX)
    assert picture.size == (720, 720)
    scale = 720 / 999
    found = np.asarray(picture).astype(int)

    def color(x: float, y: float) -> list[int]:
        return found[round(y * scale), round(x * scale)].tolist()

    assert color(300, 300) == [0x1A, 0x8F, 0x3C]  # the target's right edge
    assert color(250, 300) == [0xD3, 0x32, 0x2B]
    assert color(100, 300) == [0xD3, 0x32, 0x2B]  # of both
    assert color(200, 300) == [255, 255, 255]
    assert np.asarray(page).min() == 255


def test_a_model_is_evaluated_in_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = "| Sea | Height |\n| --- | --- |\n| North | 2.1 |"
    write(tmp_path / "data.jsonl", [{"id": "a", "text": table}, {"id": "b", "text": "Some words."}])
    options = [
        "--model.model_name=deepsynth/tiny-random",
        "--model.generation.max_new_tokens=4",
        "--data.source=JsonlSource",
        "--data.source.path=data.jsonl",
        "--data.target=markdown",
        "--data.renderer=TextRenderer",
        "--data.renderer.markup=markdown",
        *(f"--data.renderer.page_{side}_px=384" for side in ("width", "height")),
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    assert run(["evaluate", *options, "--output=out", "--worst=1", "--resamples=10"]) == 0
    record = json.loads(Path("out/metrics.json").read_text())
    assert record["documents"] == 2
    assert record["structure"]["teds"] == 0
    (worst,) = record["worst"]
    assert "<td>North</td>" in worst["target"]
    report = Path("out/report.html").read_text()
    assert report.count('<img src="data:image/webp;base64,') == 1
