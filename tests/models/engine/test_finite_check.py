"""A loss or gradient that is not finite ends a run, and spoils no checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from deepsynth.callbacks import AdapterCheckpoint
from deepsynth.errors import NonFiniteError, UserError
from deepsynth.models.engine.finite_check import FiniteCheck, check_state
from tests.helpers.training import make_data, make_module, make_trainer


class Spoil(Callback):
    """Makes the loss or the gradients of some batches infinite or no number."""

    def __init__(self, *batches: int, what: str = "loss", value: float = float("nan")) -> None:
        self.batches, self.what, self.value = batches, what, value
        self.seen: list[list[str]] = []
        self.stepped: list[bool] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(list(batch.ids))
        spoils = self.what == "loss" and batch_idx in self.batches
        original = type(module).compute_loss
        module.compute_loss = (lambda b: original(module, b) * self.value) if spoils else lambda b: original(module, b)
        self.before = weights(module)

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if self.what != "gradient":
            return

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * self.value if trainer.fit_loop.batch_idx in self.batches else gradient

        if not hasattr(self, "hook"):
            self.hook = next(p for p in module.parameters() if p.requires_grad).register_hook(spoil)

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.stepped.append(not torch.equal(self.before, weights(module)))


def weights(module: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad]).clone()


def fit(folder: Path, jsonl: Path, spoil: Spoil, skip: int = 0, **settings: Any) -> Any:
    every = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, save_on_exception=True, save_last=False)
    callbacks = [spoil, AdapterCheckpoint(str(folder / "adapter")), every]
    arguments = {"max_steps": 4, "callbacks": callbacks, "enable_checkpointing": True, **settings}
    trainer = make_trainer(folder, **arguments)
    trainer.fit(make_module(skip_non_finite=skip), make_data(jsonl))
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_stops_at_the_first_step_that_is_not_finite(what: str, value: float, tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(2, what=what, value=value)
    with pytest.raises(UserError) as error:
        fit(tmp_path, jsonl, spoil)
    message = str(error.value)
    assert "step 3 (samples " + ", ".join(spoil.seen[2]) + ")" in message
    assert str(tmp_path / "last.ckpt") in message
    assert len(spoil.seen) == 3
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    check_state(checkpoint["state_dict"], "it")
    check_state(load_file(tmp_path / "adapter" / "adapter_model.safetensors"), "it")


def test_without_a_checkpoint_the_message_says_so(tmp_path: Path, jsonl: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, callbacks=[Spoil(0)])
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        trainer.fit(make_module(), make_data(jsonl))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_as_many_steps_are_skipped_as_allowed(
    what: str, tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil = Spoil(1, 2, what=what)
    with pytest.warns(UserWarning, match=r"step \d \(samples .*\) is skipped"):
        trainer = fit(tmp_path, jsonl, spoil, skip=2)
    assert spoil.stepped == [True, False, False, True]
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 2
    check_state(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"], "it")


def test_one_step_more_than_allowed_stops_the_run(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(1, 2)
    with pytest.warns(UserWarning, match="is skipped"), pytest.raises(UserError, match=r"step 3 \("):
        fit(tmp_path, jsonl, spoil, skip=1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_every_sample_of_an_accumulated_step_is_named(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(3)
    with pytest.raises(UserError) as error:
        fit(tmp_path, jsonl, spoil, accumulate_grad_batches=2)
    assert "step 2 (samples " + ", ".join(spoil.seen[2] + spoil.seen[3]) + ")" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_not_written(value: float, tmp_path: Path) -> None:
    module = make_module()
    module.configure_model()
    module.prompt_record.add(["prompt"])
    module.save_adapter(tmp_path / "adapter")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    with torch.no_grad():
        next(p for p in module.parameters() if p.requires_grad).view(-1)[3] = value
    with pytest.raises(UserError, match=r"adapter is not written, as .*lora_A"):
        module.save_adapter(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before


def scaled(scale: float) -> Any:
    """Train in float16 with this loss scale, on the CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000))


def test_steps_that_loss_scaling_skips_are_counted_and_allowed(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil()
    trainer = fit(tmp_path, jsonl, spoil, plugins=[scaled(2.0**20)], max_steps=6)
    skipped = spoil.stepped.count(False)
    assert 0 < skipped < 6
    assert spoil.stepped[-1]
    assert float(trainer.callback_metrics["train/skipped_steps"]) == skipped
    assert float(trainer.precision_plugin.scaler.get_scale()) == 2.0 ** (20 - skipped)


def test_a_loss_that_is_not_finite_stops_a_run_with_loss_scaling(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(UserError, match=r"the loss or a gradient of step 3 \("):
        fit(tmp_path, jsonl, Spoil(2), plugins=[scaled(8.0)])


def test_a_skipped_step_is_no_overflow(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(1)
    with pytest.warns(UserWarning, match=r"step 2 \(samples .*\) is skipped"):
        trainer = fit(tmp_path, jsonl, spoil, skip=1, plugins=[scaled(8.0)])
    assert spoil.stepped == [True, False, True, True]
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1


def test_gradients_that_overflow_at_any_scale_stop_the_run(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(*range(100), what="gradient")
    with pytest.raises(UserError, match=r"gradients of step \d+ \(.* overflow at any loss scale"):
        fit(tmp_path, jsonl, spoil, plugins=[scaled(2.0**-11)], max_steps=100)
    assert len(spoil.stepped) == 3  # the scale is 2**-14 when the fourth step ends
    assert not any(spoil.stepped)


def test_the_first_step_can_be_skipped(tmp_path: Path, jsonl: Path) -> None:
    spoil = Spoil(0)
    with pytest.warns(UserWarning, match="step 1 .* is skipped"):
        fit(tmp_path, jsonl, spoil, skip=1)
    assert spoil.stepped == [False, True, True, True]


def test_a_resumed_run_goes_on_counting_what_it_skipped(tmp_path: Path, jsonl: Path) -> None:
    with pytest.warns(UserWarning, match="is skipped"):
        fit(tmp_path, jsonl, Spoil(1), skip=1, max_steps=2)
    trainer = make_trainer(tmp_path, callbacks=[Spoil(2)], max_steps=4)
    with pytest.raises(UserError, match=r"step 3 \("):
        trainer.fit(make_module(skip_non_finite=1), make_data(jsonl), ckpt_path=tmp_path / "last.ckpt")


class IgnoreLabels(Callback):
    """Takes the labels from some batches, and notes the loss that is logged."""

    def __init__(self, *batches: int) -> None:
        self.batches = batches
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.batches:
            batch.tokens["labels"].fill_(-100)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("loss", ["chunked", "plain"])
def test_a_batch_without_labels_is_named_and_teaches_nothing(loss: str, tmp_path: Path, jsonl: Path) -> None:
    ignore = IgnoreLabels(0, 2)
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[ignore])
    module = make_module(loss=loss)
    with pytest.warns(UserWarning, match="has no label token, so nothing is learned from it") as warned:
        trainer.fit(module, make_data(jsonl))
    said = [str(warning.message) for warning in warned if "no label token" in str(warning.message)]
    assert [line.partition(" (samples ")[0] for line in said] == ["step 1", "step 3"]
    assert [value == 0 for value in ignore.losses] == [True, False, True, False]
    check_state({name: p for name, p in module.named_parameters() if p.requires_grad}, "it")


@pytest.mark.parametrize("loss", ["chunked", "plain"])
def test_a_batch_without_labels_leaves_its_window_to_the_others(loss: str, tmp_path: Path, jsonl: Path) -> None:
    """The gradients and the loss are those of the batch that has labels."""
    found = []
    for accumulate, ignored in ((1, ()), (2, (1,)), (2, (0,))):
        ignore = IgnoreLabels(*ignored)
        trainer = make_trainer(tmp_path, max_steps=1, callbacks=[ignore], accumulate_grad_batches=accumulate)
        module = make_module(loss=loss)
        trainer.fit(module, make_data(jsonl))
        found.append((ignore.losses[-1], weights(module)))
    assert found[1][0] == pytest.approx(found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])
    assert found[2][0] != 0


TRAINER: Any = SimpleNamespace(precision_plugin=SimpleNamespace(), global_step=4, checkpoint_callbacks=[])


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, "s0"), (8, "s0, s1, s2, s3, s4, s5, s6, s7"), (10, "s0, s1, s2, s3, s4, s5, s6, s7 and 2 more")],
)
def test_eight_samples_of_a_step_are_named(count: int, named: str) -> None:
    check = FiniteCheck()
    for number in range(count):
        check.add_samples([f"s{number}"])
    assert check.end_step(TRAINER, torch.tensor(float("nan")), torch.tensor(3), [], allowed=0) is None
    with pytest.raises(NonFiniteError) as caught:
        check.stop_unless_finite(TRAINER)
    assert str(caught.value).startswith(f"the loss or a gradient of step 5 (samples {named}) is not finite, so")
    assert "there is no checkpoint yet" in str(caught.value)
    check.stop_unless_finite(TRAINER)  # it is told once


def test_the_samples_of_a_step_are_its_own_and_skips_are_counted() -> None:
    check, parameter = FiniteCheck(), nn.Parameter(torch.ones(2))
    for name, gradient, skipped in (("a", 1.0, 0), ("b", float("inf"), 1), ("c", 1.0, 1), ("d", float("nan"), 2)):
        check.add_samples([name])
        parameter.grad = torch.tensor([0.0, gradient])
        assert check.end_step(TRAINER, torch.tensor(1.0), torch.tensor(3), [parameter], allowed=2) == skipped
        assert (parameter.grad is None) == (gradient != 1.0)
    check.add_samples(["e"])
    parameter.grad = torch.tensor([0.0, float("nan")])
    assert check.end_step(TRAINER, torch.tensor(1.0), torch.tensor(3), [parameter], allowed=2) == 2
    with pytest.raises(NonFiniteError, match=r"step 5 \(samples e\) is not finite"):
        check.stop_unless_finite(TRAINER)
