"""Every label token of an optimizer step counts the same, however its samples are dealt out to batches and ranks."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from deepsynth import FullModule, UnslothModule
from tests.helpers import unsloth_stand_in
from tests.helpers.processes import launch
from tests.helpers.training import grouped, make_data, make_module, make_trainer, seed_everything

#: Texts of 1 to 24 words: a batch's mean over tokens is far from the mean of the samples' means.
WORDS = [1, 24, 3, 12, 7, 1, 18, 2]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    rows = [{"id": f"d{i}", "text": " ".join(f"word{i}x{j}" for j in range(n))} for i, n in enumerate(WORDS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Gradients(Callback):
    """Keeps the gradients that the optimizer sees, and the loss that is logged."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.losses: list[float] = []
        self.label_tokens: list[int] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.label_tokens.append(int((batch.tokens["labels"] != -100).sum()))

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        found = [p.grad.flatten() for p in module.parameters() if p.requires_grad and p.grad is not None]
        self.gradients.append(torch.cat(found).clone())
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def train(
    folder: Path,
    documents: Path,
    batch_size: int,
    accumulate: int,
    *,
    full: bool = False,
    data: Any = None,
    **more: Any,
) -> Gradients:
    seen = Gradients()
    if full:
        seed_everything(0)
        module: Any = FullModule(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **grouped(weights="random"))
    else:
        module = make_module(lr=0.0)
    arguments = {"max_epochs": 1, "accumulate_grad_batches": accumulate, "callbacks": [seen], **more}
    trainer = make_trainer(folder, **arguments)
    trainer.fit(module, make_data(documents, batch_size=batch_size, **(data or {})))
    return seen


def assert_equal(found: Gradients, expected: Gradients, tolerance: float = 1e-5) -> None:
    assert len(found.gradients) == len(expected.gradients) > 0
    for one, other in zip(found.gradients, expected.gradients, strict=True):
        assert float((one - other).norm() / other.norm()) < tolerance
    assert found.losses == pytest.approx(expected.losses, rel=tolerance)


@pytest.mark.parametrize(
    ("settings", "data"),
    [({}, {}), ({}, {"packing": True, "max_tokens": 1024}), ({"full": True}, {})],
    ids=["padded", "packed", "all weights"],
)
def test_accumulated_batches_are_one_large_batch(
    settings: dict[str, Any], data: dict[str, Any], tmp_path: Path, documents: Path
) -> None:
    large = train(tmp_path, documents, 4, 1, data=data, **settings)
    small = train(tmp_path, documents, 1, 4, data=data, **settings)
    assert len(large.gradients) == 2
    assert max(small.label_tokens) > 4 * min(small.label_tokens)
    assert_equal(small, large)


def test_unsloths_module_accumulates_alike(tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsloth_stand_in.install(monkeypatch)

    def run(batch_size: int, accumulate: int) -> Gradients:
        seed_everything(0)
        settings = grouped(max_new_tokens=8, schedule="constant", activation_memory="none")
        module = UnslothModule(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **settings)
        seen = Gradients()
        trainer = make_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[seen])
        trainer.fit(module, make_data(documents, batch_size=batch_size))
        return seen

    assert_equal(run(1, 4), run(4, 1))


def test_the_last_window_of_an_epoch_is_whole_with_fewer_batches(tmp_path: Path, documents: Path) -> None:
    lines = documents.read_text().splitlines(keepends=True)[:7]
    documents.write_text("".join(lines))
    large = train(tmp_path, documents, 4, 1)
    small = train(tmp_path, documents, 1, 4)
    assert [len(small.label_tokens), len(small.gradients)] == [7, 2]
    assert_equal(small, large)


def test_gradients_are_clipped_after_they_are_weighted(tmp_path: Path, documents: Path) -> None:
    class Clipped(Gradients):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            found = [p.grad.flatten() for p in module.parameters() if p.requires_grad and p.grad is not None]
            if found:
                self.norm = float(torch.cat(found).norm())

    def norm(batch_size: int, accumulate: int, clip: float) -> float:
        seen = Clipped()
        trainer = make_trainer(
            tmp_path, max_steps=1, accumulate_grad_batches=accumulate, callbacks=[seen], gradient_clip_val=clip
        )
        trainer.fit(make_module(lr=0.0), make_data(documents, batch_size=batch_size))
        return seen.norm

    whole = norm(4, 1, 1e9)
    assert norm(1, 4, 1e9) == pytest.approx(whole, rel=1e-4)
    assert norm(1, 4, 0.9 * whole) == pytest.approx(0.9 * whole, rel=1e-4)


def test_a_run_that_stops_within_a_window_continues_it(tmp_path: Path, documents: Path) -> None:
    whole = train(tmp_path / "whole", documents, 1, 4, max_steps=1)
    first = Gradients()
    arguments: dict[str, Any] = {"accumulate_grad_batches": 4, "max_epochs": 1}
    trainer = make_trainer(tmp_path, callbacks=[StopAfter(2), first], **arguments)
    with pytest.raises(SystemExit):
        trainer.fit(make_module(lr=0.0), make_data(documents, batch_size=1))
    assert not first.gradients
    rest = Gradients()
    trainer = make_trainer(tmp_path, callbacks=[rest], max_steps=1, accumulate_grad_batches=4)
    trainer.fit(make_module(lr=0.0), make_data(documents, batch_size=1), ckpt_path=tmp_path / "middle.ckpt")
    assert torch.equal(rest.gradients[0], whole.gradients[0])
    assert rest.losses[0] == whole.losses[0]


class StopAfter(Callback):
    """Writes a checkpoint after a number of batches and ends the run."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.batches:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")
            raise KeyboardInterrupt


def of_a_process(folder: Path, documents: Path) -> tuple[list[torch.Tensor], list[float]]:
    seen = train(folder, documents, 1, 2, devices=2, strategy="ddp")
    return seen.gradients, seen.losses


@pytest.mark.slow
def test_two_processes_that_accumulate_are_one_large_batch(tmp_path: Path, documents: Path) -> None:
    large = train(tmp_path, documents, 4, 1)
    several = launch(2, tmp_path / "two", partial(of_a_process, tmp_path / "two", documents))
    for gradients, losses in several:
        found = Gradients()
        found.gradients, found.losses = gradients, losses
        assert_equal(found, large)
