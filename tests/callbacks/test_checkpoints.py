"""Checkpoints at bad moments: in the middle of an accumulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.helpers.training import make_data, make_module, make_trainer


class Losses(Callback):
    """Remembers the training losses; saves and stops after so many batches."""

    def __init__(self, stop_after: int | None = None, path: Path | None = None) -> None:
        self.losses: list[float] = []
        self.stop_after = stop_after
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        if len(self.losses) == self.stop_after:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def test_resuming_in_the_middle_of_an_accumulation_equals_no_interruption(tmp_path: Path, jsonl: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 2, "accumulate_grad_batches": 3}
    data: dict[str, Any] = {"batch_size": 1}
    whole, first, rest = Losses(), Losses(2, tmp_path / "middle.ckpt"), Losses()
    uninterrupted, resumed = make_module(lr=1e-2), make_module(lr=1e-2)
    make_trainer(tmp_path, callbacks=[whole], **settings).fit(uninterrupted, make_data(jsonl, **data))
    make_trainer(tmp_path, callbacks=[first], **settings).fit(make_module(lr=1e-2), make_data(jsonl, **data))
    assert torch.load(first.path, weights_only=True)["deepsynth"]["partial_gradients"]
    make_trainer(tmp_path, callbacks=[rest], **settings).fit(resumed, make_data(jsonl, **data), ckpt_path=first.path)
    assert first.losses + rest.losses == pytest.approx(whole.losses, abs=1e-6)
    ours, theirs = dict(resumed.named_parameters()), dict(uninterrupted.named_parameters())
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs if "lora_" in name)


def test_a_checkpoint_between_steps_carries_no_gradients(tmp_path: Path, jsonl: Path) -> None:
    losses = Losses(2, tmp_path / "between.ckpt")
    trainer = make_trainer(tmp_path, callbacks=[losses], max_steps=4, accumulate_grad_batches=2)
    trainer.fit(make_module(), make_data(jsonl, batch_size=1))
    assert torch.load(losses.path, weights_only=True)["deepsynth"]["partial_gradients"] == {}
