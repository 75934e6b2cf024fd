"""Predictions as JSON lines: documents whole and in order, nothing overwritten, nothing lost."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import TQDMProgressBar
from PIL import Image

from deepsynth.callbacks import PredictionWriter
from deepsynth.callbacks.prediction_rows import document_row, rows_of
from deepsynth.data import DocumentSource, TextImageDataModule
from deepsynth.data.formats.alto import read_alto
from deepsynth.data.formats.page_xml import read_page_xml
from deepsynth.errors import UserError
from tests.helpers.training import RankOf, make_data, make_module, make_trainer


def row(document: str, prediction: str, page: int = 0, target: str = "", stop: str = "eos") -> dict[str, Any]:
    texts = {"prediction": prediction, "target": target}
    return {"id": f"{document}#{page}", "document_id": document, "page": page, **texts, "stop": stop}


def predict(
    folder: Path, batches: list[list[dict[str, Any]]], end: bool = True, rank: int = 0, ranks: int = 1
) -> PredictionWriter:
    writer, trainer, module = PredictionWriter(), make_trainer(folder, strategy=RankOf(rank, ranks)), LightningModule()
    writer.on_predict_start(trainer, module)
    for number, rows in enumerate(batches):
        writer.on_predict_batch_end(trainer, module, rows, None, number)
    if end:
        writer.on_predict_end(trainer, module)
    return writer


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_pages_are_joined_and_documents_keep_their_order(tmp_path: Path) -> None:
    pages = [row("b", "two", 1, "zwei", stop="length")], [row("b", "one", 0, "eins"), row("a", "x")]
    predict(tmp_path, [*pages, [row("c", "y", 0, stop="loop"), row("c", "z", 1, stop="length")]])
    assert read(tmp_path / "predictions.jsonl") == [
        {"id": "b", "prediction": "one\ntwo", "target": "eins\nzwei", "stop": "length"},
        {"id": "a", "prediction": "x", "target": "", "stop": "eos"},
        {"id": "c", "prediction": "y\nz", "target": "", "stop": "loop"},
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.jsonl", "predictions.metrics.json"}


@pytest.mark.parametrize(
    "text", ["\u06a9\u062a\u0627\u0628", "line\u2028separator", '"quoted" \\ \t', "\ud83d alone", ""]
)
def test_any_text_comes_back_as_it_was(text: str, tmp_path: Path) -> None:
    predict(tmp_path, [[row("a", text)]])
    assert [found["prediction"] for found in read(tmp_path / "predictions.jsonl")] == [text]


def test_older_predictions_stay(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        predict(tmp_path, [[row("a", text)]])
    found = {path.name: read(path)[0]["prediction"] for path in tmp_path.iterdir()}
    assert found == {"predictions-1.jsonl": "first", "predictions-2.jsonl": "second", "predictions.jsonl": "third"}


def test_what_an_interrupted_run_read_stays_also_when_another_starts(tmp_path: Path) -> None:
    predict(tmp_path, [[row("a", "read")]], end=False)
    assert read(tmp_path / "predictions.jsonl.partial")[0]["prediction"] == "read"
    predict(tmp_path, [[row("b", "other")]])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"predictions.jsonl", "predictions.jsonl-1.partial"}
    assert read(tmp_path / "predictions.jsonl-1.partial")[0]["prediction"] == "read"


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_never_share_a_partial_file(resume: bool, tmp_path: Path) -> None:
    """Both would append to it, and the first to end would remove what the other has read."""
    file = str(tmp_path / "read.jsonl")
    first, second = PredictionWriter(file, resume=True), PredictionWriter(file, resume=resume)
    trainer, module = make_trainer(tmp_path), LightningModule()
    first.on_predict_start(trainer, module)
    first.on_predict_batch_end(trainer, module, [row("a", "one")], None, 0)
    with pytest.raises(UserError, match=rf"read\.jsonl\.partial: another run is writing it \(process {os.getpid()} on"):
        second.on_predict_start(trainer, module)
    second.on_exception(trainer, module, UserError(""))
    first.on_predict_batch_end(trainer, module, [row("b", "two")], None, 1)
    first.on_predict_end(trainer, module)
    assert [one["id"] for one in read(tmp_path / "read.jsonl")] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["read.jsonl"]


def test_a_full_disk_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    predict(tmp_path, [[row("a", "before")]])
    writer = predict(tmp_path, [[row("a", "now")]], end=False)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"predictions.jsonl: the predictions cannot be written \(No space left"):
        writer.on_predict_end(make_trainer(tmp_path), LightningModule())
    writer.on_exception(make_trainer(tmp_path), LightningModule(), UserError(""))
    kept = [read(path)[0]["prediction"] for path in tmp_path.iterdir()]
    assert "before" in kept
    assert "now" in kept


def test_ranks_are_dealt_back_into_the_order_of_the_source(tmp_path: Path) -> None:
    ranks = [
        [row("a", "0"), row("b", "2", 1), row("d", "4")],
        [row("b", "1", 0), row("c", "3")],
    ]
    predict(tmp_path, [ranks[1]], rank=1, ranks=2, end=False)
    predict(tmp_path, [ranks[0]], ranks=2)
    found = [(one["id"], one["prediction"]) for one in read(tmp_path / "predictions.jsonl")]
    assert found == [("a", "0"), ("b", "1\n2"), ("c", "3"), ("d", "4")]


def test_another_ranks_file_that_is_elsewhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rank1\.partial is not on this machine"):
        predict(tmp_path, [[row("a", "0")]], ranks=2)


def test_a_run_reads_every_document(tmp_path: Path, jsonl: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter(str(tmp_path / "out" / "read.jsonl"))])
    trainer.predict(make_module(max_new_tokens=2), make_data(jsonl, batch_size=4))
    found = read(tmp_path / "out" / "read.jsonl")
    assert [one["id"] for one in found] == [f"d{i}" for i in range(8)]
    names = {"id", "prediction", "target", "stop", "mean_logprob", "page_mean_logprobs", "prompt"}
    assert all(set(one) == names for one in found)


class Interruption(Callback):
    """Stops prediction before a batch, as Ctrl-C or a machine that goes away would."""

    def __init__(self, before: int) -> None:
        self.before = before

    def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx == self.before:
            raise RuntimeError("the machine goes away")


def run_predict(folder: Path, data: Any, *callbacks: Callback, **options: Any) -> tuple[Any, Path]:
    file = folder / "read.jsonl"
    module = make_module(max_new_tokens=6)
    trainer = make_trainer(folder, callbacks=[*callbacks, PredictionWriter(str(file), **options)])
    trainer.predict(module, data, return_predictions=False)
    return module, file


@pytest.mark.parametrize("generation", ["deepsynth", "transformers"])
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    generation: str, tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsynth.modules.DeepSynthModule.AUTO_GENERATION", generation)
    caplog.set_level("INFO")
    _, whole = run_predict(tmp_path / "whole", make_data(jsonl, batch_size=3))
    told = [record.getMessage() for record in caplog.records if "known text" in record.getMessage()]
    with pytest.raises(RuntimeError, match="goes away"):
        run_predict(tmp_path / "parts", make_data(jsonl, batch_size=2), Interruption(3), resume=True)
    partial = tmp_path / "parts" / "read.jsonl.partial"
    earlier = partial.read_bytes()
    assert 1 <= earlier.count(b"\n") < 8
    partial.write_bytes(earlier + b'{"id": "half a li')  # killed while it wrote
    caplog.clear()
    # Another size of batches, and an end in the middle of one, are allowed.
    _, parts = run_predict(tmp_path / "parts", make_data(jsonl, batch_size=3), resume=True)
    without = [
        [{key: value for key, value in one.items() if "logprob" not in key} for one in read(file)]
        for file in (parts, whole)
    ]
    assert without[0] == without[1]
    for one, other in zip(read(parts), read(whole), strict=True):
        assert one["mean_logprob"] == pytest.approx(other["mean_logprob"], abs=2e-4)  # batches of other sizes
    assert not partial.exists()
    assert [record.getMessage() for record in caplog.records if "known text" in record.getMessage()] == told


@pytest.fixture
def scans(tmp_path: Path) -> TextImageDataModule:
    """Return a folder of four scans, two of them broken, one of two pages; and a text that is no text."""
    folder = tmp_path / "scans"
    folder.mkdir()
    page = Image.new("L", (60, 40), 200)
    page.save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    page.save(folder / "c.tif", save_all=True, append_images=[page])
    page.save(folder / "d.png")
    (folder / "d.txt").write_bytes(b"\xff")
    data = make_data(tmp_path / "unused", eval_batch_size=2)
    data.source = DocumentSource(folder)
    return data


def test_what_cannot_be_predicted_is_skipped_and_listed(scans: TextImageDataModule, tmp_path: Path) -> None:
    scans.on_error = "skip"
    _, file = run_predict(tmp_path, scans)
    assert [one["id"] for one in read(file)] == ["a.png", "c.tif"]
    with (tmp_path / "skipped_predict.csv").open() as lines:
        _, *found = csv.reader(lines)
    assert [place for place, _ in found] == [str(tmp_path / "scans/d.png"), "b.png#0"]
    assert "not UTF-8" in found[0][1]
    assert "b.png" in found[1][1]


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_bar_knows_how_many_pages_there_are(interrupted: bool, scans: TextImageDataModule, tmp_path: Path) -> None:
    (tmp_path / "scans/b.png").unlink()
    (tmp_path / "scans/d.txt").unlink()
    if interrupted:
        with pytest.raises(RuntimeError, match="goes away"):
            run_predict(tmp_path, scans, Interruption(1))
    shown: list[tuple[Any, str]] = []

    class Bar(TQDMProgressBar):
        def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_predict_batch_end(*args, **kwargs)
            bar = self.predict_progress_bar
            shown.append((bar.total, bar.postfix or ""))

    file = tmp_path / "read.jsonl"
    writer = PredictionWriter(str(file), resume=interrupted)
    # The bar shows what the callbacks before it have set.
    trainer = make_trainer(tmp_path, callbacks=[writer, Bar()], enable_progress_bar=True)
    trainer.predict(make_module(max_new_tokens=2), scans, return_predictions=False)
    assert [total for total, _ in shown] == [2, 2]
    assert shown[-1][1].startswith("4/4 pages, 3/3 documents, ")


def test_resuming_with_other_data_is_refused(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(RuntimeError, match="goes away"):
        run_predict(tmp_path, make_data(jsonl, batch_size=2), Interruption(3))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed(jsonl.read_text().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=r"has the sample 'd0#0' where the data now has 'd7#0'"):
        run_predict(tmp_path, make_data(other, batch_size=2), resume=True)


def test_resume_wants_a_file() -> None:
    with pytest.raises(ValueError, match=r"resume is true, but PredictionWriter\.file is not set"):
        PredictionWriter(resume=True)


def test_rows_come_with_later_batches_but_all_of_them_and_in_order(tmp_path: Path, jsonl: Path) -> None:
    batches = make_trainer(tmp_path).predict(make_module(max_new_tokens=4), make_data(jsonl, batch_size=3))
    assert [one["document_id"] for rows in batches or [] for one in rows] == [f"d{i}" for i in range(8)]
    limited = make_trainer(tmp_path, limit_predict_batches=2).predict(
        make_module(max_new_tokens=4), make_data(jsonl, batch_size=3)
    )
    assert [one["document_id"] for rows in limited or [] for one in rows] == [f"d{i}" for i in range(6)]


def test_nothing_that_was_read_stays_in_memory(tmp_path: Path, jsonl: Path) -> None:
    module, _ = run_predict(tmp_path, make_data(jsonl, batch_size=2))
    for part in (module, module.text_generator, module.evaluator):
        kept = [name for name, value in vars(part).items() if "jumps" in repr(value) or "jugs" in repr(value)]
        assert kept == []
    assert not module.text_generator.holds_memory


def test_each_document_has_its_files_in_its_folder(tmp_path: Path) -> None:
    rows = [
        row("scans/old/a.png", "one", 0),
        row("scans/old/a.png", "two\n", 1),
        row("scans/old/a.jpg", "another"),
        row("scans/old/A.png", "case"),
        row("../../etc/pass:wd", "inside"),
        row("v1.25", "a name with a point"),
        row("é" * 200, "long"),
    ]
    writer = PredictionWriter(str(tmp_path / "out" / "predictions.jsonl"), formats=["txt", "md"])
    trainer, module = make_trainer(tmp_path), LightningModule()
    writer.on_predict_start(trainer, module)
    writer.on_predict_batch_end(trainer, module, rows, None, 0)
    writer.on_predict_end(trainer, module)
    texts = {str(path.relative_to(tmp_path / "out")): path.read_text() for path in (tmp_path / "out").rglob("*.txt")}
    (long,) = [name for name in texts if name.startswith("é")]
    assert len(long.encode()) < 255
    assert texts == {
        "scans/old/a.txt": "one\ntwo\n",
        "scans/old/a.jpg.txt": "another\n",
        "scans/old/A.png.txt": "case\n",
        "etc/pass_wd.txt": "inside\n",
        "v1.25.txt": "a name with a point\n",
        long: "long\n",
    }
    assert (tmp_path / "out/scans/old/a.md").read_text() == "one\n\ntwo\n"
    assert len(read(tmp_path / "out/predictions.jsonl")) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_metrics_of_known_texts_stand_beside_the_predictions(tmp_path: Path) -> None:
    predict(tmp_path, [[row("a", "abcd", target="abcx"), row("b", "unknown")]])
    metrics = json.loads((tmp_path / "predictions.metrics.json").read_text())
    assert (metrics["documents"], metrics["cer"]) == (1, 0.25)


def test_formats_that_are_not_known_are_refused() -> None:
    with pytest.raises(UserError, match="format is 'docx'; it must be one of jsonl, txt, md, page, alto"):
        PredictionWriter(formats=["docx"])  # type: ignore[list-item]


BOXED = "<|ref|>text<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>\nA line."


def test_predictions_with_boxes_become_layouts_a_page_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {**row("in/a.tif", BOXED), "sizes": [[40, 30]]},
        {**row("in/a.tif", "", 1), "sizes": [[40, 31]]},
        {**row("b.pdf", BOXED), "sizes": [[50, 60]]},
        {**row("c.png", "a page without boxes"), "sizes": [[1, 1]]},
    ]
    out = tmp_path / "out"
    writer = PredictionWriter(str(out / "predictions.jsonl"), formats=["alto", "page", "txt"])
    trainer, module = make_trainer(tmp_path), LightningModule()
    writer.on_predict_start(trainer, module)
    writer.on_predict_batch_end(trainer, module, rows, None, 0)
    with caplog.at_level("INFO"):
        writer.on_predict_end(trainer, module)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.xml"))
    pages = ("alto/b", "in/alto/a_0001", "in/alto/a_0002", "in/page/a_0001", "in/page/a_0002", "page/b")
    assert names == [f"{name}.xml" for name in pages]
    page, alto = read_page_xml(out / "in/page/a_0001.xml"), read_alto(out / "alto/b.xml")[0]
    assert (page.text, page.image, page.regions[0].box) == ("A line.", "a.tif", (0, 0, 40, 30))
    assert (alto.text, alto.width, alto.height) == ("A line.", 50, 60)
    assert read_page_xml(out / "in/page/a_0002.xml").regions == ()
    assert "no boxes, so no layout file, for 1 page: c.png#0" in caplog.text


@pytest.mark.parametrize(
    ("first", "found"),
    [({"prediction": "no boxes here", "sizes": [[4, 4]]}, "no boxes"), ({"sizes": [[4, 4]] * 2}, "boxes of several")],
)
def test_a_layout_of_predictions_without_boxes_is_refused_at_the_first(
    first: dict[str, Any], found: str, tmp_path: Path
) -> None:
    writer = PredictionWriter(str(tmp_path / "out.jsonl"), formats=["alto"])
    trainer, module = make_trainer(tmp_path), LightningModule()
    writer.on_predict_start(trainer, module)
    with pytest.raises(UserError, match=rf"document 'a': the prediction has {found}.*data\.prompt=.*<\|grounding\|>"):
        writer.on_predict_batch_end(trainer, module, [{**row("a", BOXED), **first}], None, 0)
    writer.on_exception(trainer, module, UserError(""))
    assert len(read(tmp_path / "out.jsonl.partial")) == 1


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = predict(tmp_path, [[row("a", "read")]], end=False)
    with caplog.at_level("INFO"):
        writer.on_exception(make_trainer(tmp_path), LightningModule(), KeyboardInterrupt())
    assert f"kept 1 page in {tmp_path}/predictions.jsonl.partial" in caplog.text
    assert f"--output {tmp_path} --resume continues after them" in caplog.text


@pytest.mark.parametrize("generation", ["deepsynth", "transformers"])
def test_every_page_says_how_sure_the_model_was_and_every_token_on_request(
    generation: str, tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsynth.modules.DeepSynthModule.AUTO_GENERATION", generation)
    _, file = run_predict(tmp_path, make_data(jsonl, batch_size=3), token_logprobs=True)
    found = read(file)
    for one in found:
        (page,) = one["token_logprobs"]
        ended = one["stop"] == "eos"
        assert "".join(text for text, _ in (page[:-1] if ended else page)) == one["prediction"]
        mean = sum(logprob for _, logprob in page) / len(page)
        assert one["page_mean_logprobs"] == [one["mean_logprob"]] == [pytest.approx(mean, abs=2e-4)]
        assert one["mean_logprob"] < 0
    assert len({one["mean_logprob"] for one in found}) > 1
    _, file = run_predict(tmp_path, make_data(jsonl, batch_size=3))
    assert all("token_logprobs" not in one for one in read(file))


def test_the_confidence_of_a_document_is_that_of_all_its_tokens() -> None:
    pages = [{**row("a", "x", n), "mean_logprob": m, "tokens": t} for n, m, t in ((1, -2.0, 1), (0, -0.5, 3))]
    found = document_row(pages)
    assert (found["mean_logprob"], found["page_mean_logprobs"]) == (-0.875, [-0.5, -2.0])
    found = document_row([*pages, {**row("a", "y", 2), "mean_logprob": None, "tokens": 2}])
    assert (found["mean_logprob"], found["page_mean_logprobs"]) == (None, [-0.5, -2.0, None])


def test_a_document_says_its_language_source_and_prompt_where_they_are_known() -> None:
    pages = [row("a", "one", 0, "one"), row("a", "two", 1, "two")]
    assert set(document_row(pages)) == {"id", "prediction", "target", "stop"}
    known = {"language": "fa", "source": "books", "prompt": "<image>\nFree OCR."}
    assert document_row([{**page, **known} for page in pages]) == {**document_row(pages), **known}
    assert "language" not in document_row([{**page, "language": None} for page in pages])


@pytest.mark.parametrize("line", [b"\x00\xff\n", b"[" * 100_000 + b"\n", b"5\n"])
def test_a_damaged_line_of_an_interrupted_run_is_named(line: bytes, tmp_path: Path) -> None:
    partial = tmp_path / "read.jsonl.partial"
    partial.write_bytes(b'{"document_id": "a"}\n' + line)
    with pytest.raises(UserError, match=r"partial, line 2: it is damaged; remove the file to predict from the start"):
        list(rows_of(partial))
