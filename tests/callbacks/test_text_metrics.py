"""Metrics under profiles, by group, with bounds, beside the module's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from deepsynth.callbacks import TextMetrics
from tests.helpers.training import LoggingModule, RankOf, make_data, make_module, make_trainer


def row(document: str, prediction: str, target: str, page: int = 0, **kwargs: Any) -> dict[str, Any]:
    return {
        "id": f"{document}#{page}",
        "document_id": document,
        "page": page,
        "prediction": prediction,
        "target": target,
        "language": None,
        "source": None,
        "prompt": "<image>\nFree OCR.",
        **kwargs,
    }


def test_each_profile_forgives_its_own_kind_of_error() -> None:
    rows = [row("a", "Hello,  world", "hello world")]  # a letter's case, a comma, a space
    figures = TextMetrics(profiles=["none", "whitespace", "case", "case+punctuation"], confidence=None).figures(rows)
    assert figures["cer/none"] == pytest.approx(3 / 11)
    assert figures["cer/whitespace"] == pytest.approx(2 / 11)
    assert figures["cer/case"] == pytest.approx(2 / 11)
    assert figures["cer/case+punctuation"] == 0
    assert figures["wer/none"] == 1 / 2
    assert len(figures) == 8


def same_digits(prediction: str, target: str) -> float:
    return float("".join(filter(str.isdigit, prediction)) == "".join(filter(str.isdigit, target)))


def test_a_function_of_ones_own_is_a_mean_over_documents_under_each_profile() -> None:
    rows = [row("a", "12 x", "12 y"), row("b", "12", "13"), row("c", "", "7"), row("d", "5", "5")]
    figures = TextMetrics(profiles=["none", "case"], metrics=[], confidence=None, functions=[same_digits]).figures(rows)
    assert figures == {"same_digits/none": 0.5, "same_digits/case": 0.5}


def test_arabic_letters_are_one_under_their_profile() -> None:
    rows = [row("a", "\u0643\u062a\u0627\u0628", "\u06a9\u062a\u0627\u0628")]  # kaf of Arabic and of Persian
    figures = TextMetrics(profiles=["none", "arabic"], confidence=None).figures(rows)
    assert (figures["cer/none"], figures["cer/arabic"]) == (0.25, 0.0)


def test_groups_that_the_data_names_have_their_own_figures() -> None:
    rows = [
        row("a", "xx", "ab", language="fa", source="news"),
        row("b", "cdcd", "cdcd", language="ur", source="news"),
        row("c", "efg", "efh", language=None, source="books"),
    ]
    figures = TextMetrics(profiles=["none"], metrics=["cer"], confidence=None).figures(rows)
    assert figures == {
        "cer/none": 3 / 9,
        "cer/none/language=fa": 1.0,
        "cer/none/language=ur": 0.0,
        "cer/none/source=books": 1 / 3,
        "cer/none/source=news": 2 / 6,
    }
    assert "cer/none/language=fa" not in TextMetrics(profiles=["none"], by=[]).figures(rows)
    alone = TextMetrics(profiles=["none"], confidence=None).figures(rows[1:2])
    assert set(alone) == {"cer/none", "wer/none"}  # a group of all documents would say the same again


def test_pages_are_joined_and_unknown_targets_left_out() -> None:
    rows = [
        row("a", "two", "two", 1, language="de"),
        row("a", "one", "one", 0, language="de"),
        row("a", "one", "one", 0, language="de"),  # a page that came twice
        row("scan", "anything", ""),
    ]
    figures = TextMetrics(profiles=["none"], metrics=["cer", "exact_match"], confidence=None).figures(rows)
    assert figures["exact_match/none"] == 1.0
    assert TextMetrics().figures([rows[-1]]) == {}
    assert TextMetrics().figures([]) == {}


def test_bounds_enclose_the_figure_and_narrow_with_less_confidence() -> None:
    rows = [row(str(i), "abcd" if i % 3 else "abcx", "abcd") for i in range(40)]
    wide = TextMetrics(profiles=["none"], resamples=200).figures(rows)
    narrow = TextMetrics(profiles=["none"], resamples=200, confidence=0.5).figures(rows)
    assert wide["cer/none/low"] < narrow["cer/none/low"] < wide["cer/none"]
    assert wide["cer/none"] < narrow["cer/none/high"] < wide["cer/none/high"]


def test_ranks_together_give_the_figure_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [[row("a", "xx", "ab")], [row("b", "cdefgh", "cdefgh"), row("c", "ij", "ij")]]

    def gather(into: list[Any], own: list[Any]) -> None:
        into[:] = ranks

    batch: Any = None  # the rows have all that is asked for
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for rank, own in enumerate(ranks):
        module, trainer = LoggingModule(), make_trainer(tmp_path, strategy=RankOf(rank, 2))
        callback = TextMetrics(profiles=["none"], metrics=["cer"], confidence=None)
        callback.on_validation_epoch_start(trainer, module)
        callback.on_validation_batch_end(trainer, module, {"loss": 0.0, "rows": own}, batch, 0)
        callback.on_validation_epoch_end(trainer, module)
        assert module.logged == {"val/cer/none": 0.2}  # not 0.5, the mean of the ranks' means


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profiles": ["lower"]}, "normalization profile 'lower' is unknown; the profiles are none, "),
        ({"metrics": ["f1"]}, "TextMetrics.metrics has 'f1'; the metrics are cer, wer"),
        ({"by": ["script"]}, "TextMetrics.by has 'script'; it must be language, source or prompt"),
        ({"confidence": 95}, "TextMetrics.confidence is 95; it must be above 0 and below 1, or null"),
        ({"resamples": 0}, "TextMetrics.resamples is 0; it must be at least 1"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextMetrics(**options)


def test_early_stopping_and_the_best_checkpoint_can_follow_a_profile(tmp_path: Path, jsonl: Path) -> None:
    # It never improves by 900 %. Lightning takes an interval of 1 batch for 1.0 epochs, hence the last argument.
    stop = EarlyStopping("val/cer/case+punctuation", min_delta=9.0, patience=1, check_on_train_epoch_end=False)
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/cer/none/low", save_on_train_epoch_end=False)
    metrics = TextMetrics(profiles=["none", "case+punctuation"], resamples=20)
    trainer = make_trainer(
        tmp_path, callbacks=[metrics, stop, best], enable_checkpointing=True, max_steps=6, val_check_interval=1
    )
    data = make_data(jsonl, val_fraction=0.3, max_eval_documents=2)
    trainer.fit(make_module(max_new_tokens=3), data)
    assert trainer.global_step == 2  # the second validation was no better
    assert (tmp_path / "best.ckpt").is_file()
    own, ours = trainer.callback_metrics["val/cer"], trainer.callback_metrics["val/cer/none"]
    assert own == pytest.approx(ours.item())
