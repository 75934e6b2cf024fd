"""What is counted in an epoch of validation: losses by their tokens, texts by their share, a limit by the clock."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from deepsynth.generation import Generation
from deepsynth.modules import evaluation
from deepsynth.modules.evaluation import Evaluator
from tests.modules.test_text_generator import make_batch


class Module:
    """What an evaluator uses of a module, with given losses, and targets as predictions.

    Args:
        rank: of this process.
        ranks: number of processes.
        seconds: that the generation of a batch takes.
    """

    def __init__(self, rank: int = 0, ranks: int = 1, seconds: float = 0.0) -> None:
        state = SimpleNamespace(fn=TrainerFn.VALIDATING)
        self.trainer = SimpleNamespace(global_rank=rank, world_size=ranks, state=state, sanity_checking=False)
        self.generation = SimpleNamespace(time_limit_s=10.0)
        self.losses: list[float] = []
        self.logged: dict[str, tuple[float, bool]] = {}
        self.deadlines: list[float | None] = []
        self.now, self.seconds = 100.0, seconds

    def compute_loss(self, batch: Any) -> torch.Tensor:
        return torch.tensor(self.losses.pop(0))

    def generate(self, batch: Any, deadline: float | None) -> list[Generation] | None:
        self.deadlines.append(deadline)
        self.now += self.seconds
        if deadline is not None and self.now > deadline:
            return None
        return [Generation(text, 1, "eos", (1,), (-1.0,)) for text in batch.targets]

    def log(self, name: str, value: float, prog_bar: bool = False) -> None:
        self.logged[name] = (float(value), prog_bar)


class Texts:
    """Keeps what an evaluator asks of a text generator."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start_validation(self) -> None:
        self.calls.append("start")

    def end_validation(self, *, again: bool) -> None:
        self.calls.append(again)


def make(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Evaluator, Any, Texts]:
    module, texts = Module(**settings), Texts()
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: module.now)
    return Evaluator(module, texts), module, texts  # type: ignore[arg-type]


def labels(*rows: list[int]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor(rows)}


def test_the_loss_is_the_mean_over_label_tokens_of_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch)
    module.losses = [1.0, 4.0]
    first = evaluator.step(make_batch(tokens=labels([-100, 0], [5, 6])), samples=0)
    second = evaluator.step(make_batch(tokens=labels([-100, -100], [-100, 6])), samples=0)
    assert (float(first["loss"]), float(second["loss"])) == (1.0, 4.0)
    assert first["rows"] == second["rows"] == []
    assert module.deadlines == []
    evaluator.log("val")
    assert module.logged == {"val/loss": ((3 * 1.0 + 4.0) / 4, True)}
    module.logged = {}
    evaluator.log("val")
    assert module.logged == {}, "nothing came since, and nothing has no mean"


def test_texts_are_scored_and_the_character_error_rate_is_in_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch)
    module.losses = [0.5]
    result = evaluator.step(make_batch(tokens=labels([1], [1])), samples=None)
    assert [(row["id"], row["prediction"], row["stop"]) for row in result["rows"]] == [
        ("d0#1", "target 0", "eos"),
        ("d1#1", "target 1", "eos"),
    ]
    evaluator.log("test")
    assert module.logged["test/cer"] == (0.0, True)
    assert module.logged["test/exact_match"] == (1.0, False)
    assert {name for name, (_, shown) in module.logged.items() if shown} == {"test/loss", "test/cer"}


@pytest.mark.parametrize(
    ("rank", "ranks", "samples", "sizes"),
    [
        (0, 1, 3, [2, 1, 0]),
        (0, 1, 2, [2, 0, 0]),
        (0, 1, None, [2, 2, 2]),
        (0, 2, 3, [2, 0, 0]),
        (1, 2, 3, [1, 0, 0]),
        (1, 2, 1, [0, 0, 0]),
        (2, 3, 9, [2, 1, 0]),
        (1, 3, 7, [2, 0, 0]),
    ],
)
def test_samples_are_dealt_out_to_ranks_one_by_one(
    rank: int, ranks: int, samples: int | None, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, module, _ = make(monkeypatch, rank=rank, ranks=ranks)
    module.losses = [1.0] * 6
    for _ in range(2):  # in each epoch the same
        found = [evaluator.step(make_batch(tokens=labels([1], [1])), samples=samples) for _ in sizes]
        assert [len(step["rows"]) for step in found] == sizes
        evaluator.start()


def test_generation_ends_when_its_time_after_the_first_batch_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch, seconds=6.0)
    module.losses = [1.0] * 4
    batch = make_batch(tokens=labels([1], [1]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sizes = [len(evaluator.step(batch, samples=64)["rows"]) for _ in range(4)]
    assert sizes == [2, 2, 0, 0]
    assert module.deadlines == [None, 116.0, 116.0], "the first batch, with what is compiled for it, takes its time"
    assert [str(warning.message) for warning in told] == [
        "validation: generation took its 10 s (model.generation.time_limit_s) and stopped after 4 of this process's 64 "
        "samples"
    ]
    evaluator.start()
    module.losses = [1.0]
    assert len(evaluator.step(batch, samples=64)["rows"]) == 2, "the next epoch generates again"


def test_without_a_number_of_samples_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch, seconds=600.0)
    module.losses = [1.0] * 3
    assert [len(evaluator.step(make_batch(tokens=labels([1], [1])), samples=None)["rows"]) for _ in range(3)] == [2] * 3
    assert module.deadlines == [None] * 3


def test_whoever_stops_generation_stops_it_for_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch)
    module.losses = [1.0] * 2
    evaluator.stop_generation()
    assert evaluator.step(make_batch(tokens=labels([1], [1])), samples=None)["rows"] == []
    evaluator.start()
    assert len(evaluator.step(make_batch(tokens=labels([1], [1])), samples=None)["rows"]) == 2


@pytest.mark.parametrize(
    ("fn", "sanity", "again"),
    [(TrainerFn.FITTING, False, True), (TrainerFn.FITTING, True, False), (TrainerFn.VALIDATING, False, False)],
)
def test_more_validations_are_expected_in_a_fit_alone(
    fn: TrainerFn, sanity: bool, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, module, texts = make(monkeypatch)
    module.trainer.state.fn, module.trainer.sanity_checking = fn, sanity
    evaluator.log("val")
    assert texts.calls == ["start", again, "start"]


def test_pages_of_a_document_that_other_ranks_have_are_scored_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, module, _ = make(monkeypatch, ranks=2)
    module.losses = [1.0]
    other = {"document_id": "d0", "page": 8, "prediction": "wrong", "target": "right", "stop": "length"}

    def gather(own: list[Any]) -> list[Any]:
        if own and isinstance(own[0], tuple):
            return [own, [(8.0, 6)]]
        assert [sorted(row) for row in own] == [["document_id", "page", "prediction", "stop", "target"]]
        return [own, [other]]

    monkeypatch.setattr(evaluation, "gather_parts", gather)
    batch = make_batch(tokens=labels([1], [1]), targets=["target 0", ""])
    evaluator.step(batch, samples=None)
    evaluator.log("val")
    assert module.logged["val/loss"][0] == (1.0 * 2 + 8.0) / 8
    assert module.logged["val/exact_match"][0] == 0.0
    assert module.logged["val/cut_rate"][0] == 1.0
    assert 0 < module.logged["val/cer"][0] < 1
