"""That training trains: the right weights, the right text, the same again, and on from where it stopped."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module, make_trainer

#: Measured with these settings; a change means that pages, labels, model or optimizer compute something else.
FIRST_LOSSES = [7.1488, 6.4548, 6.2012, 5.9844]


class Losses(Callback):
    """Remembers the training losses and the order of the samples."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ids: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        self.ids += batch.ids


def test_one_batch_is_learned_until_generation_equals_the_targets(tmp_path: Path, jsonl: Path) -> None:
    data = make_data(jsonl, max_train_documents=2, batch_size=2)
    module = make_module(lr=5e-3, rank=64, mlp=True, experts="shared", projector=True)
    make_trainer(tmp_path, max_steps=40).fit(module, data)
    module.eval()
    batch = next(iter(data.train_dataloader()))
    generations = module.generate(batch)
    assert generations is not None
    assert [g.text for g in generations] == batch.targets
    assert [g.stop for g in generations] == ["eos", "eos"]


def test_the_base_stays_bit_identical_and_every_adapter_moves(tmp_path: Path, jsonl: Path) -> None:
    data = make_data(jsonl)
    module = make_module(mlp=True, experts="all", vision=True, projector=True)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    make_trainer(tmp_path, max_steps=3).fit(module, data)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            assert not torch.equal(parameter, before[name]), f"{name} did not train"
        else:
            assert torch.equal(parameter, before[name]), f"{name} of the frozen base changed"


def test_bfloat16_weights_train_and_write_without_autocast(tmp_path: Path, jsonl: Path) -> None:
    module = make_module(dtype="bfloat16", experts="all", projector=True, activation_memory="full")
    losses = Losses()
    data = make_data(jsonl)
    make_trainer(tmp_path, max_steps=3, callbacks=[losses]).fit(module, data)
    assert all(loss < 20 for loss in losses.losses)
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    assert module.generate(next(iter(data.train_dataloader()))) is not None


def test_an_adapter_without_a_gradient_stops_the_run_with_its_name(tmp_path: Path, jsonl: Path) -> None:
    module = make_module()
    module.configure_model()
    attention = module.model.get_base_model().model.language_model.layers[0].self_attn
    attention.o_proj.scaling["default"] = 0.0  # the adapter is there, and its output is thrown away
    with pytest.raises(
        MisconfigurationException, match=r"1 LoRA B matrices got no gradient.*layers\.0\.self_attn\.o_proj"
    ):
        make_trainer(tmp_path, max_steps=1).fit(module, make_data(jsonl))


def test_the_first_four_losses_are_what_they_were(tmp_path: Path, jsonl: Path) -> None:
    losses = Losses()
    make_trainer(tmp_path, max_steps=4, callbacks=[losses]).fit(make_module(), make_data(jsonl))
    assert losses.losses == pytest.approx(FIRST_LOSSES, abs=2e-3)


@pytest.mark.parametrize(
    "step",
    [pytest.param(3, id="middle"), pytest.param(4, id="end-of-epoch"),
     pytest.param(6, id="second-epoch", marks=pytest.mark.slow)],
)  # fmt: skip
def test_resuming_equals_no_interruption(tmp_path: Path, jsonl: Path, step: int) -> None:
    settings = {"dropout": 0.1, "schedule": "cosine", "warmup_steps": 2}
    saved = tmp_path / "saved.ckpt"
    whole = Losses()
    trainer = make_trainer(tmp_path / "whole", callbacks=[whole, SaveAt(step, saved)], max_steps=7)
    trainer.fit(make_module(**settings), make_data(jsonl, num_workers=2))
    assert multiprocessing.active_children() == []  # workers left behind would be waited for, 5 s each
    rest = Losses()
    trainer = make_trainer(tmp_path / "rest", callbacks=[rest], max_steps=7)
    trainer.fit(make_module(seed=99, **settings), make_data(jsonl), ckpt_path=str(saved), weights_only=True)
    assert rest.ids == whole.ids[2 * step :]
    assert rest.losses == whole.losses[step:], "bit by bit"


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
def test_an_optimizer_of_eight_bits_trains_and_resumes(name: str, tmp_path: Path, jsonl: Path) -> None:
    optim = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra gpu)").optim

    def module() -> Any:
        found = make_module()
        found.optimizer = lambda params: getattr(optim, name)(params, lr=2e-3, min_8bit_size=64)
        return found

    saved, whole, rest = tmp_path / "saved.ckpt", Losses(), Losses()
    trainer = make_trainer(tmp_path / "whole", callbacks=[whole, SaveAt(3, saved)], max_steps=6)
    trainer.fit(module(), make_data(jsonl))
    (optimizer,) = trainer.optimizers
    assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}
    assert whole.losses[-1] < whole.losses[0]
    trainer = make_trainer(tmp_path / "rest", callbacks=[rest], max_steps=6)
    trainer.fit(module(), make_data(jsonl), ckpt_path=str(saved), weights_only=True)
    assert rest.losses == pytest.approx(whole.losses[3:], abs=1e-5)


def test_a_run_that_reached_max_steps_goes_on_with_the_rest_of_its_epoch(tmp_path: Path, jsonl: Path) -> None:
    first, rest = Losses(), Losses()
    trainer = make_trainer(tmp_path, callbacks=[first], max_steps=3)
    trainer.fit(make_module(), make_data(jsonl))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer = make_trainer(tmp_path, callbacks=[rest], max_steps=4)
    trainer.fit(make_module(), make_data(jsonl), ckpt_path=str(tmp_path / "end.ckpt"), weights_only=True)
    assert sorted(first.ids + rest.ids) == sorted(f"d{i}#0" for i in range(8))


class SaveAt(Callback):
    """Saves a checkpoint after a step, as ModelCheckpoint does."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_workers_do_not_change_a_batch(tmp_path: Path, jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter

    batches = []
    for workers in (0, 2):
        data = make_data(jsonl, num_workers=workers, augmenter=PageAugmenter(preset="scan"))
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert one.ids == other.ids
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_an_epoch_changes_order_and_augmentation_but_not_the_text(jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter

    data = make_data(jsonl, batch_size=8, augmenter=PageAugmenter(preset="scan"))
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    first = next(iter(loader))
    loader.sampler.set_epoch(1)
    second = next(iter(loader))
    assert first.ids != second.ids
    assert sorted(first.ids) == sorted(second.ids)
    again = second.ids.index(first.ids[0])
    assert first.targets[0] == second.targets[again]
    assert not torch.equal(first.inputs["pixel_values"][0], second.inputs["pixel_values"][again])


def test_overfitting_repeats_its_batches_pixel_by_pixel(tmp_path: Path, jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter

    class Seen(Callback):
        def __init__(self) -> None:
            self.batches: list[tuple[list[str], dict[str, torch.Tensor]]] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            self.batches.append((batch.ids, {name: tensor.clone() for name, tensor in batch.inputs.items()}))

    seen = Seen()
    data = make_data(jsonl, augmenter=PageAugmenter(preset="scan"))
    make_trainer(tmp_path, overfit_batches=2, max_epochs=3, callbacks=[seen]).fit(make_module(), data)
    assert len(seen.batches) == 6
    assert seen.batches[0][0] != seen.batches[1][0]
    for (ids, inputs), (first_ids, first_inputs) in zip(seen.batches[2:], seen.batches[:2] * 2, strict=True):
        assert ids == first_ids
        assert all(torch.equal(tensor, first_inputs[name]) for name, tensor in inputs.items())


def test_the_bar_has_a_loss_of_the_host_that_is_new_at_logging_steps(tmp_path: Path, jsonl: Path) -> None:
    """Lightning reads what the bar shows after every batch, and reading a GPU waits for all that it has to do."""
    shown, losses = [], []

    class Look(Callback):
        def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
            shown.append(dict(trainer.progress_bar_metrics))
            losses.append(float(trainer.callback_metrics["train/loss"]))

    trainer = make_trainer(tmp_path, callbacks=[Look()], max_steps=4, log_every_n_steps=2)
    trainer.fit(make_module(), make_data(jsonl))
    assert [list(values) for values in shown] == [["loss"]] * 4
    assert [values["loss"] for values in shown] == [losses[0], losses[1], losses[1], losses[3]]
    assert len(set(losses)) == 4
