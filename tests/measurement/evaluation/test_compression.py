"""The compression curve: its pages, its points, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deepsynth.cli.main import run
from deepsynth.errors import UserError
from deepsynth.measurement.evaluation.compression import (
    Condition,
    PageResult,
    curves,
    page_results,
    passages,
    plot,
    shuffled,
    table,
)
from deepsynth.types import Document

PLAIN = Condition("tiny", 14.0, shuffled=False, tuned=False)
CONTROL = Condition("tiny", 14.0, shuffled=True, tuned=False)


def words(text: str) -> int:
    return len(text.split())


def test_passages_have_so_many_tokens_and_are_taken_in_turn() -> None:
    documents = [Document("a", " ".join(f"a{i}" for i in range(9))), Document("b", "b0 b1\n\nb2  b3 b4 b5")]
    found = passages(documents, [4, 2, 3, 3, 9], words)
    assert [document.text for document in found] == ["a0 a1 a2 a3", "b0 b1", "a4 a5 a6", "b2 b3 b4"]
    assert [document.id for document in found] == [f"passage-000{number}" for number in range(4)]
    short = [Document(str(number), "one two") for number in range(4)]
    assert [document.text for document in passages(short, [3, 3], words)] == ["one two one", "one two one"]
    with pytest.raises(UserError, match="no passage of 9 text tokens"):
        passages(short, [9], words)


def test_the_control_keeps_the_letters_of_every_word() -> None:
    text = "Passages of several letters, again"
    mixed = shuffled(text, 0)
    assert mixed != text
    assert [sorted(word) for word in mixed.split(" ")] == [sorted(word) for word in text.split(" ")]
    assert shuffled(text, 0) == mixed != shuffled(text, 1)


def test_points_are_means_of_a_bucket() -> None:
    rows = [
        {"id": "a", "prediction": "a\n\nb ", "target": "a  b"},
        {"id": "b", "prediction": "ab", "target": "abcd"},
        {"id": "c", "prediction": "a b b c", "target": "a b d e f"},
        {"id": "d", "prediction": "x", "target": ""},
        {"id": "e", "prediction": " ", "target": "lost"},
    ]
    results = page_results(PLAIN, rows, len, vision_tokens=2)
    assert [(r.id, r.text_tokens, r.precision, r.word_precision) for r in results] == [
        ("a", 4, 1.0, 1.0),
        ("b", 4, 0.5, 0.0),
        ("c", 9, pytest.approx(5 / 9), pytest.approx(2 / 3)),
        ("e", 4, 0.0, 0.0),
    ]
    (points,) = curves(results, 5).values()
    assert [(p.low, p.high, p.pages) for p in points] == [(0, 5, 3), (5, 10, 1)]
    assert [p.precision for p in points] == [0.5, pytest.approx(5 / 9)]
    assert [p.word_precision for p in points] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert [p.tokens_per_vision_token for p in points] == [2.0, 4.5]


def test_the_table_has_the_paper_s_form(tmp_path: Path) -> None:
    results = [
        PageResult(PLAIN, "a", 650, 2600, 64, 0.965, 0.9),
        PageResult(CONTROL, "a", 650, 2600, 64, 0.5, 0.25),
        PageResult(CONTROL, "c", 650, 2600, 64, 0.5, 0.25),
        PageResult(PLAIN, "b", 1250, 5000, 64, 0.59, 0.6),
    ]
    found = curves(results, 100)
    assert table(found, {"tiny": 64}) == [
        "| text tokens | pages | tiny-14px (64 vision tokens): precision | of words | tokens for each "
        "| tiny-14px-shuffled (64 vision tokens): precision | of words | tokens for each |",
        "|---|---|---|---|---|---|---|---|",
        "| 600–700 | 1 to 2 | 96.5% | 90.0% | 10.2× | 50.0% | 25.0% | 10.2× |",
        "| 1200–1300 | 1 | 59.0% | 60.0% | 19.5× |  |  |  |",
    ]
    plot(found, tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size == (990, 418)


def test_the_command_predicts_pages_and_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("A ship came in from the north with salt and timber. " * 20)
    options = [
        "--model.model_name=deepsynth/tiny-random",
        "--model.generation.max_new_tokens=2",
        "--data.source=TextFolderSource",
        "--data.source.path=texts",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--text_tokens=[20, 30]",
        "--num=2",
    ]
    assert run(["evaluate", "compression", *options, "--output=out"]) == 0
    record = json.loads(Path("out/compression.json").read_text())
    assert record["vision_tokens"] == {"own": 144}
    assert [(c["font_size_px"], c["shuffled"], c["tuned"]) for c in record["curves"]] == [
        (14.0, False, False),
        (14.0, True, False),
    ]
    assert sum(point["pages"] for point in record["curves"][0]["points"]) == 2
    assert Path("out/compression.png").stat().st_size > 5000
    own = [json.loads(line)["target"] for line in Path("out/own-14px/predictions.jsonl").read_text().splitlines()]
    assert own[0].startswith("A ship came in from the north")
    assert capsys.readouterr().out.splitlines()[-1] == "compression.png, .md and .json in out"


def test_scans_are_predicted_as_they_are_without_an_adapter_and_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fox/en_pdf_png").mkdir(parents=True)
    rows = []
    for name in ("en_1.png", "en_2.png", "en_3.png"):
        Image.new("RGB", (200, 300), "white").save(f"fox/en_pdf_png/{name}")
        talk = [{"from": "human", "value": "<image>\nOCR this image: "}, {"from": "gpt", "value": f"The page {name}"}]
        rows.append({"image": name, "len": 4, "conversations": talk})
    Path("fox/en_page_ocr.json").write_text(json.dumps(rows))
    adapter = Path(__file__).parents[2] / "fixtures" / "tiny_adapter"
    options = [
        "--model.model_name=deepsynth/tiny",
        "--model.generation.max_new_tokens=2",
        "--data.source=FoxSource",
        "--data.source.path=fox",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--num=2",
    ]
    assert run(["evaluate", "compression", *options, "--output=out", f"--ckpt_path={adapter}"]) == 0
    assert "taken as they are; not used: font_sizes, text_tokens, control" in capsys.readouterr().out
    record = json.loads(Path("out/compression.json").read_text())
    found = [
        (c["font_size_px"], c["shuffled"], c["tuned"], sum(p["pages"] for p in c["points"])) for c in record["curves"]
    ]
    assert found == [(None, False, False, 2), (None, False, True, 2)]
    assert record["vision_tokens"] == {"own": 256}
    assert {path.name for path in Path("out").glob("own*")} == {"own", "own-tuned"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output is not given"),
        (["--output=out", "--text_tokens=[9, 3]"], r"--text_tokens is \[9, 3\]"),
        (["--output=out", "--num=0"], "--num is 0; it must be at least 1"),
        (["--output=out", "--font_sizes=[]"], r"--font_sizes is \[\]"),
        (["--output=out", "--modes=[gundam]"], "the mode 'gundam' has tiles"),
    ],
)
def test_conditions_that_cannot_be(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--data.source=PythonDocsSource", "--model.model_name=deepsynth/tiny-random"]
    assert run(["evaluate", "compression", *source, *options]) in (1, 2)
    assert message.replace("\\", "") in " ".join(capsys.readouterr().err.split())
