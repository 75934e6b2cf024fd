"""Plain peft folders beside checkpoints, complete or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO

from deepsynth.callbacks import AdapterCheckpoint
from deepsynth.errors import UserError
from deepsynth.models.registry import resolve_model_name
from tests.helpers.training import make_data, make_module, make_trainer
from tests.modules.test_checkpoint_io import disk_with


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.iterdir()}


def test_each_checkpoint_has_its_adapter_beside_it_and_the_newest_is_the_run_s(tmp_path: Path, jsonl: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    newest_two = {"every_n_train_steps": 1, "monitor": "step", "mode": "max", "save_top_k": 2}
    every = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", **newest_two)
    module = make_module(lr=1e-2)
    trainer = make_trainer(tmp_path, callbacks=[every, AdapterCheckpoint()], enable_checkpointing=True, max_steps=3)
    trainer.fit(module, make_data(jsonl))
    folder = tmp_path / "checkpoints"
    assert files(folder) == {"step=2.ckpt", "step=2-adapter", "step=3.ckpt", "step=3-adapter"}

    def loaded(adapter: Path) -> dict[str, torch.Tensor]:
        base = AutoModelForImageTextToText.from_pretrained(resolve_model_name("deepsynth/tiny-random"))
        return {f"model.{name}": p for name, p in PeftModel.from_pretrained(base, str(adapter)).named_parameters()}

    for step, adapters in ((2, ["checkpoints/step=2-adapter"]), (3, ["checkpoints/step=3-adapter", "adapter"])):
        checkpoint = torch.load(folder / f"step={step}.ckpt", weights_only=True)["state_dict"]
        assert checkpoint
        for adapter in adapters:
            weights = loaded(tmp_path / adapter)
            assert all(torch.equal(weights[name], tensor) for name, tensor in checkpoint.items())
    assert json.loads((tmp_path / "adapter" / "deepsynth.json").read_text())["step"] == 3
    assert files(tmp_path) == {"adapter", "checkpoints", "docs.jsonl"}


class Recorder(CheckpointIO):
    """A CheckpointIO that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.calls.append(("save", path))

    def load_checkpoint(self, path: Any, map_location: Any = None) -> dict[str, Any]:
        self.calls.append(("load", path))
        return {"loaded": True}

    def remove_checkpoint(self, path: Any) -> None:
        self.calls.append(("remove", path))

    def teardown(self) -> None:
        self.calls.append(("teardown",))


def checkpoint_io_of(folder: Path, inner: CheckpointIO) -> CheckpointIO:
    """Return what the trainer writes with, of a module whose adapter is a text."""

    def write_text(folder: Path, state: Any) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_text(state)

    module, trainer = make_module(), make_trainer(folder)
    module.save_adapter = write_text  # type: ignore[method-assign]
    trainer.strategy.checkpoint_io = inner
    AdapterCheckpoint().on_fit_start(trainer, module)
    return trainer.strategy.checkpoint_io


def test_what_the_trainer_writes_with_still_works(tmp_path: Path) -> None:
    inner: Any = Recorder()
    both = checkpoint_io_of(tmp_path, inner)
    both.save_checkpoint({"state_dict": "weights"}, tmp_path / "a.ckpt")
    assert both.load_checkpoint(tmp_path / "a.ckpt", map_location="cpu") == {"loaded": True}
    assert (tmp_path / "a-adapter" / "adapter_model.safetensors").read_text() == "weights"
    both.remove_checkpoint(tmp_path / "a.ckpt")
    both.teardown()
    assert [call[0] for call in inner.calls] == ["save", "load", "remove", "teardown"]
    assert files(tmp_path) == {"adapter"}


def test_a_bucket_gets_the_checkpoint_and_the_run_its_newest_adapter(tmp_path: Path) -> None:
    inner: Any = Recorder()
    both = checkpoint_io_of(tmp_path, inner)
    both.save_checkpoint({"state_dict": "weights"}, "s3://bucket/last.ckpt")
    assert inner.calls == [("save", "s3://bucket/last.ckpt")]
    assert files(tmp_path) == {"adapter"}


def test_a_full_disk_leaves_the_previous_adapter(tmp_path: Path) -> None:
    module = make_module()
    module.configure_model()
    module.save_adapter(tmp_path / "adapter")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    with disk_with(50_000), pytest.raises(UserError, match=r"adapter: the adapter cannot be written"):
        module.save_adapter(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert files(tmp_path) == {"adapter"}


def test_another_kind_of_module_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(TypeError, match="adapter of a DeepSynthModule; LightningModule is none"):
        AdapterCheckpoint().on_fit_start(trainer, LightningModule())
