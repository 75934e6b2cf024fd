"""The look at data before training: every kind of trouble is found and named."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepsynth.__main__ import main
from deepsynth.data import JsonlSource, OcrProcessor, Source, TextImageDataModule, TextRenderer
from deepsynth.data.check import DataReport, check_data
from deepsynth.data.pipeline import Pipeline
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.training import PAGE, make_trainer

SCAN = Image.new("L", (60, 40), 200)


@dataclass(frozen=True)
class Listed(Source):
    documents: tuple[Document, ...]
    end: str = ""

    def __iter__(self) -> Iterator[Document]:
        yield from self.documents
        if self.end:
            raise UserError(self.end)


def check(*documents: Document, end: str = "", **options: Any) -> DataReport:
    processor = OcrProcessor("deepsynth/tiny-random", **options)
    return check_data([Listed(documents, end)], Pipeline(TextRenderer(**PAGE), None, processor))


def test_good_data_has_no_errors_and_its_lengths_are_those_of_training() -> None:
    documents = [Document("a", "some words", language="en"), Document("b", "слова", language="ru")]
    report = check(*documents)
    processor = OcrProcessor("deepsynth/tiny-random")
    pipeline = Pipeline(TextRenderer(**PAGE), None, processor)
    samples = [pipeline.sample(document, 0, 0) for document in documents]
    assert report.lengths == [len(sample.input_ids) for sample in samples if sample is not None]
    assert (report.errors, report.warnings, report.budget) == ([], {}, processor.token_budget)
    assert report.scripts == {"latin": 9, "cyrillic": 5}
    assert report.languages == {"en": 1, "ru": 1}
    assert len(report.pages) == 2
    lines = "\n".join(report.lines())
    assert "2 documents, 2 samples, 0 errors" in lines
    assert f"over the budget of {processor.token_budget}: 0 samples" in lines


def test_all_troubles_are_named_and_none_ends_the_walk() -> None:
    report = check(
        Document("broken", "known", image=b"no image"),
        Document("one", "scan", image=SCAN),
        Document("two", "scan", image=SCAN.copy()),
        Document("blank", "", image=Image.new("L", (50, 50), 255), blank=True),
        Document("invisible", "\u200b\u200b", image=Image.new("L", (50, 60), 255)),
        end="rows.jsonl, line 6: not JSON",
    )
    assert len(report.errors) == 2
    assert report.errors[0][0] == "broken"
    assert "line 6: not JSON; nothing behind it was checked" in report.errors[1][1]
    assert report.warnings == {"the same page as an earlier one": ["two (= one)"], "empty": ["invisible"]}
    assert report.documents == 5
    assert report.stopping == report.errors[1:]
    assert [line[:40] for line in report.lines("skip")][1:5:2] == [
        "fit leaves 1 out and lists them in skipp",
        "fit stops at this:",
    ]
    assert list(report.lines("skip"))[2].startswith("  error: broken: ")
    assert list(report.lines("raise"))[1] == "fit stops at the first of these:"


def test_a_source_without_a_document_is_an_error_of_its_own_unless_its_rows_are() -> None:
    assert check().errors == [(str(Listed(())), "it holds no document")]
    unknown = [Document(name, "", image=SCAN) for name in ("a", "b")]
    assert [place for place, _ in check(*unknown).errors] == ["a", "b"]


@pytest.mark.parametrize(("policy", "errors"), [("error", 1), ("drop", 0)])
def test_samples_over_the_budget_are_errors_unless_they_are_dropped(policy: str, errors: int) -> None:
    length = check(Document("a", "few words")).lengths[0]
    text = "many more words than that"
    report = check(Document("a", "few words"), Document("b", text), max_tokens=length, on_max_tokens=policy)
    assert len(report.errors) == errors
    assert ("b#0" in report.warnings.get("over the budget, dropped", [])) == (policy == "drop")
    assert report.lengths[1] > length == report.budget


def test_characters_without_a_token_of_their_own_are_listed() -> None:
    report = check(Document("a", "a ☃☃ b"))
    assert report.bytes_split == {"☃": 2}
    assert "☃ (U+2603) 2" in "\n".join(report.lines())


def test_what_gives_no_sample_is_skipped_and_listed_or_ends_the_run(tmp_path: Path) -> None:
    documents = [Document(f"d{number}", "text", image=SCAN) for number in range(6)]
    documents[2] = Document("broken", "text", image=b"no image")
    options: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0, "model_name": "deepsynth/tiny-random"}
    for full in ("quick", "full"):
        with pytest.raises(UserError, match="document 'broken': "):
            TextImageDataModule(Listed(tuple(documents)), check=full, **options).setup("fit")
    TextImageDataModule(Listed(tuple(documents)), check="none", **options).setup("fit")
    data = TextImageDataModule(Listed(tuple(documents)), on_error="skip", **options)
    data.trainer = make_trainer(tmp_path)
    data.setup("fit")
    ids = [data.datasets["train"][0, number].document_id for number in range(len(data.datasets["train"]))]
    assert sorted(ids) == ["d0", "d1", "d3", "d4", "d5"]
    with (tmp_path / "skipped_train.csv").open() as lines:
        (head, row) = csv.reader(lines)
    assert head == ["document", "reason"]
    assert row[0] == "broken#0"
    assert "broken" in row[1]


def write_rows(path: Path) -> Path:
    """Write three good rows, and between them three that are no documents."""
    for number in range(4):
        Image.new("L", (60, 40), 50 * number).save(path.parent / f"{number}.png")
    rows = [
        ("0.png", None),
        ("1.png", "one"),
        ("2.png", "two"),
        ("1.png", "one"),
        ("none.png", "x"),
        ("3.png", "three"),
    ]
    path.write_text("".join(json.dumps({"image": image, "text": text}) + "\n" for image, text in rows))
    return path


def test_rows_that_are_no_documents_are_skipped_and_listed_or_the_first_is_named(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    options: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0, "model_name": "deepsynth/tiny-random"}
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: the text of scan '0\.png' is unknown"):
        TextImageDataModule(JsonlSource(rows), **options).setup("fit")
    data = TextImageDataModule(JsonlSource(rows), on_error="skip", **options)
    data.trainer = make_trainer(tmp_path)
    data.setup("fit")
    assert [document.id for document in data.datasets["train"].documents] == ["1.png", "2.png", "3.png"]
    with (tmp_path / "skipped_source.csv").open() as lines:
        head, *found = csv.reader(lines)
    assert head == ["document", "reason"]
    assert [place.rpartition(", ")[2] for place, _ in found] == ["line 1", "line 4", "line 5"]
    assert "is unknown" in found[0][1]


def test_the_command_lists_all_rows_that_are_no_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    assert main(["data", "check", "--data.source=JsonlSource", f"--data.source.path={rows}"]) == 1
    shown = capsys.readouterr()
    named = [line for line in shown.out.splitlines() if "error: " in line]
    assert [line.partition(f"error: {rows}, ")[2][:8] for line in named] == ["line 1: ", "line 4: ", "line 5: "]
    assert "3 documents, 3 samples, 3 errors" in shown.out
    assert "the data has errors (3)" in shown.err


def test_the_command_names_what_is_broken_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    SCAN.save(folder / "good.png")
    (folder / "good.txt").write_text("good")
    args = ["data", "check", "--data.source=ImageSource", f"--data.source.path={folder}", "--output", str(tmp_path)]
    assert main(args) == 0
    assert "1 document, 1 sample, 0 errors" in capsys.readouterr().out
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "bad.txt").write_text("bad")
    assert main(args) == 1
    shown = capsys.readouterr()
    assert "error: bad.png: " in shown.out
    assert "fit stops at this (data.on_error=skip would leave them out):\n  error: bad.png: " in shown.out
    assert "the data has errors (1); the lines above list them" in shown.err
    assert main([*args, "--data.on_error=skip"]) == 1
    assert "(data.on_error is skip):\n  error: bad.png: " in capsys.readouterr().out
    assert json.loads((tmp_path / "check.json").read_text())["errors"][0][0] == "bad.png"
    assert (tmp_path / "contact.png").is_file()


def test_a_report_counts_and_cuts_long_lists() -> None:
    report = DataReport(budget=80, documents=3, lengths=list(range(1, 101)))
    for name in "abcdefg":
        report.warn("empty", name)
    report.warn("odd", "h")
    report.scripts.update({"greek": 1, "latin": 9})
    report.bytes_split.update({chr(0x2600 + number): 30 - number for number in range(21)})
    bars = [(0, 10, 33, 9), *((start, start + 10, 36, 10) for start in range(10, 90, 10)), (90, 100, 40, 11)]
    assert list(report.lines()) == [
        "3 documents, 100 samples, 0 errors",
        "  empty: 7: a, b, c, d, e and 2 more",
        "  odd: 1: h",
        "tokens a sample: 1 to 100, median 50, 95 % up to 95",
        *(f"  {start:>7} to {end:>7}  {'#' * bar + ' ' * (40 - bar)} {count}" for start, end, bar, count in bars),
        "  over the budget of 80: 20 samples",
        "letters by script: latin 9, greek 1",
        "21 characters take several tokens each: "
        + ", ".join(f"{chr(0x2600 + number)} (U+26{number:02X}) {30 - number}" for number in range(20)),
    ]
    assert list(DataReport(lengths=[5]).lines())[1] == "tokens a sample: 5 to 5, median 5, 95 % up to 5"
    assert list(DataReport().lines()) == ["0 documents, 0 samples, 0 errors"]
