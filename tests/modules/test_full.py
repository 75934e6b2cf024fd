"""That the module without adapters trains every weight, and keeps and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from deepsynth.modules import FullModule
from tests.helpers.training import grouped, make_data, make_trainer


def make_full(**kwargs: Any) -> FullModule:
    settings = grouped(schedule="constant", max_new_tokens=8, **kwargs)
    return FullModule(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3), **settings)


def test_every_weight_trains_and_a_checkpoint_brings_them_back(tmp_path: Path, jsonl: Path) -> None:
    module = make_full()
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    assert {p.dtype for p in before.values()} == {torch.float32}
    assert any("vision_tower" in name for name in before)
    assert any("language_model" in name for name in before)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, make_data(jsonl))
    after = dict(module.named_parameters())
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert len(moved) >= 0.9 * len(before)  # experts that no token was sent to stay
    assert any("vision_tower" in name for name in moved)

    trainer.save_checkpoint(tmp_path / "full.ckpt")
    again = make_full()
    again.on_load_checkpoint(torch.load(tmp_path / "full.ckpt", weights_only=True))
    again.load_state_dict(torch.load(tmp_path / "full.ckpt", weights_only=True)["state_dict"], strict=False)
    for name, value in again.named_parameters():
        assert torch.equal(value, after[name]), name

    module.save_adapter(tmp_path / "model")
    written = dict(
        AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32).named_parameters()
    )
    assert all(torch.equal(value, written[name.removeprefix("model.")]) for name, value in after.items())


def test_an_adapter_to_begin_with_is_refused(tmp_path: Path) -> None:
    module = make_full(adapter=str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.adapter is .*FullModule trains no adapter"):
        module.configure_model()
