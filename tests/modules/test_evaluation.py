"""Texts that are generated in validation, and the settings of generation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from deepsynth.callbacks import PredictionWriter
from deepsynth.data import JsonlSource
from deepsynth.generation import RepetitionCriterion
from deepsynth.modules.text_generator import TextGenerator
from deepsynth.profiling.memory import Usage
from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module, make_trainer


@pytest.mark.parametrize("generation", ["auto", "deepsynth"])
def test_every_setting_of_generation_reads_the_same(generation: str, tmp_path: Path, jsonl: Path) -> None:
    rows: dict[str, list[Any]] = {}
    for setting in ("transformers", generation):
        module = make_module(max_new_tokens=5, implementation=setting)
        batches = make_trainer(tmp_path, limit_predict_batches=2).predict(module, make_data(jsonl))
        rows[setting] = [one for batch in batches or [] for one in batch]
    assert rows[generation] == rows["transformers"]
    assert {one["stop"] for one in rows[generation]} <= {"eos", "length"}


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_texts_are_the_same_however_many_are_generated_at_once(rows: int, tmp_path: Path, jsonl: Path) -> None:
    found: list[list[Any]] = []
    for setting in (None, rows):
        module = make_module(max_new_tokens=6, rows=setting)
        batches = make_trainer(tmp_path).predict(module, make_data(jsonl, batch_size=2))
        found.append([(one["id"], one["page"], one["prediction"]) for batch in batches or [] for one in batch])
    assert len(found[0]) > 4
    assert found[0] == found[1]


def test_loops_are_stopped_unless_the_setting_says_no(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RepetitionCriterion, "for_tokenizer", classmethod(lambda cls, tokenizer: cls(1, 60)))
    caplog.set_level("INFO")
    for stops in (True, False):
        caplog.clear()
        module = make_module(max_new_tokens=40, stop_on_repetition=stops)
        trainer = make_trainer(tmp_path, limit_predict_batches=1, callbacks=[PredictionWriter()])
        batches = trainer.predict(module, make_data(jsonl))
        assert ("loop" in {one["stop"] for batch in batches or [] for one in batch}) == stops
        (told,) = [record.getMessage() for record in caplog.records if "known text" in record.getMessage()]
        assert ("loop_rate 0.0000" in told) != stops


class GeneratedRows(Callback):
    """Remembers the ids of the samples whose texts were generated, batch by batch."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.ids.append([row["id"] for row in outputs["rows"]])


@pytest.mark.parametrize(
    ("samples", "sizes"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (3, [3, 0, 0]), (4, [3, 1, 0]), (7, [3, 3, 1])]
)
def test_as_many_texts_are_generated_as_asked_for(samples: int, sizes: list[int], tmp_path: Path, jsonl: Path) -> None:
    rows = GeneratedRows()
    module = make_module(max_new_tokens=2, samples=samples)
    data = make_data(jsonl, val_source=JsonlSource(str(jsonl)), eval_batch_size=3)
    make_trainer(tmp_path, callbacks=[rows]).validate(module, data, verbose=False)
    assert [len(ids) for ids in rows.ids] == sizes
    assert [name.split("#")[0] for ids in rows.ids for name in ids] == [f"d{number}" for number in range(samples)]


def test_the_decoder_is_kept_between_calls_and_forgotten_after_an_epoch(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = make_module(max_new_tokens=3, samples=8), make_data(jsonl, val_fraction=0.5)
    make_trainer(tmp_path).validate(module, data, verbose=False)
    assert not module.text_generator.holds_memory
    made: list[int] = []
    make_decoder = module.text_generator.make_decoder
    monkeypatch.setattr(
        module.text_generator, "make_decoder", lambda slots: (made.append(slots), make_decoder(slots))[1]
    )
    batch = next(iter(data.val_dataloader()))
    first = module.generate(batch)
    assert module.generate(batch) == first
    assert made == [len(batch)]
    assert module.text_generator.holds_memory


class AsWithFreshDecoders(Callback):
    """Generates the texts of each validation again, with the decoder that is kept and with one that is new."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        fresh = TextGenerator(module)
        fresh.longest_target = module.text_generator.longest_target
        kept, new = ([(one.text, one.logprobs) for one in made.generate(batch) or []] for made in (module, fresh))
        assert kept == new
        assert [row["prediction"] for row in outputs["rows"]] == [text for text, _ in kept]
        self.found.append(kept)


@pytest.mark.parametrize("room", [True, False])
def test_one_decoder_serves_all_validations_of_a_fit_where_there_is_room(
    room: bool, tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(lr=2e-2, max_new_tokens=12, samples=8)
    data = make_data(jsonl, val_source=JsonlSource(str(jsonl)), max_eval_documents=3, eval_batch_size=2)
    made: list[int] = []
    make_decoder = module.text_generator.make_decoder
    monkeypatch.setattr(
        module.text_generator, "make_decoder", lambda slots: (made.append(slots), make_decoder(slots))[1]
    )
    memory = SimpleNamespace(usage=lambda: Usage(5, 8, 8), limit=lambda: 10 if room else 8)
    monkeypatch.setattr("deepsynth.modules.text_generator.memory_of", lambda device: memory)
    again = AsWithFreshDecoders()
    trainer = make_trainer(tmp_path, callbacks=[again], max_steps=6, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.fit(module, data)
    assert len(again.found) == 3 * 2  # a batch of two and one of one
    assert again.found[0] != again.found[2] != again.found[4]  # what trains changes what is generated
    assert made == [2] * (1 if room else 3)
    assert not module.text_generator.holds_memory


def test_whoever_listens_is_told_when_generation_begins_and_is_over(jsonl: Path) -> None:
    module, data = make_module(max_new_tokens=2), make_data(jsonl)
    data.setup("fit")
    module.configure_model()
    batch = next(iter(data.train_dataloader()))
    told: list[str | None] = []
    other: list[str | None] = []
    module.add_phase_listener(told.append)
    module.add_phase_listener(told.append)  # is told once
    module.add_phase_listener(other.append)
    module.generate(batch)
    assert told == other == ["generation", None]
    module.remove_phase_listener(told.append)
    module.remove_phase_listener(told.append)  # is gone already
    module.generate(batch)
    assert told == ["generation", None]
    assert other == ["generation", None] * 2


def texts_of(tmp_path: Path, *words: int) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"d{i}", "text": " ".join(["word"] * count)} for i, count in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def longest_target(path: Path) -> int:
    data = make_data(path, batch_size=8)
    data.setup("fit")
    return int((next(iter(data.train_dataloader())).tokens["labels"] != -100).sum(1).max())


def test_a_limit_that_cuts_known_texts_is_named_once_and_counted(tmp_path: Path) -> None:
    path = texts_of(tmp_path, 1, 40, 40, 1)
    longest = longest_target(path)
    module = make_module(max_new_tokens=4)
    trainer = make_trainer(tmp_path)
    with pytest.warns(UserWarning, match=f"max_new_tokens is 4, but targets have up to {longest} tokens") as told:
        [found] = trainer.validate(module, make_data(path, val_fraction=0.99, batch_size=4), verbose=False)
    assert len([warning for warning in told if "targets have" in str(warning.message)]) == 1
    assert found["val/cut_rate"] == 1.0  # random weights write no EOS in four tokens


def test_the_limit_follows_the_longest_target(tmp_path: Path) -> None:
    path = texts_of(tmp_path, 1, 30, 2)
    longest = longest_target(path)
    module = make_module(max_new_tokens=None)
    data = make_data(path, batch_size=1)
    make_trainer(tmp_path, max_epochs=1).fit(module, data)
    assert module.text_generator.longest_target == longest
    [batch] = [batch for batch in data.train_dataloader() if batch.targets[0].count("word") == 1]
    limit = module.text_generator.limit(batch)
    assert 1.25 * longest <= limit < 1.25 * longest + 64
    assert limit % 64 == 0


def test_the_limit_of_training_holds_for_prediction(tmp_path: Path) -> None:
    path = texts_of(tmp_path, 30, 30)
    module = make_module(max_new_tokens=None)
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, make_data(path))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    module.save_adapter(tmp_path / "adapter")
    short = make_data(texts_of(tmp_path, 1), batch_size=1)
    short.setup("fit")
    batch = next(iter(short.train_dataloader()))
    expected = module.text_generator.limit(batch)
    from_adapter = make_module(max_new_tokens=None, adapter=str(tmp_path / "adapter"))
    from_adapter.configure_model()
    assert from_adapter.text_generator.limit(batch) == expected > 64
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    from_checkpoint = make_module(max_new_tokens=None)
    from_checkpoint.on_load_checkpoint(checkpoint)
    assert from_checkpoint.text_generator.limit(batch) == expected
    unknown = make_module(max_new_tokens=None)
    unknown.configure_model()
    batch.targets = [""]
    assert unknown.text_generator.limit(batch) == 2048
