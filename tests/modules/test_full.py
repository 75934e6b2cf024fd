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


def test_a_checkpoint_of_before_the_markup_tokens_loads(tmp_path: Path) -> None:
    """Embedding, head and the optimizer's averages had 463 rows; the model's own rows are added, and zeros."""
    module = make_full(model_name="deepsynth/tiny")
    module.configure_model()
    own = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    short = {name: p[:463] + 1 if p.shape == (472, 256) else p + 1 for name, p in own.items()}
    assert sum(p.shape == (463, 256) for p in short.values()) == 2
    averages = {number: {"step": torch.tensor(3.0), "exp_avg": p.clone()} for number, p in enumerate(short.values())}
    checkpoint = {
        "state_dict": short,
        "deepsynth": {"prompt": None, "random_state": {}},
        "optimizer_states": [{"state": averages}],
    }
    module.on_load_checkpoint(checkpoint)
    assert not module.load_state_dict(checkpoint["state_dict"], strict=False).missing_keys
    for name, p in module.named_parameters():
        if p.requires_grad:
            assert torch.equal(p[:463], own[name][:463] + 1), name
            if p.shape == (472, 256):
                assert torch.equal(p[463:], own[name][463:])
    for (name, p), state in zip(own.items(), averages.values(), strict=True):
        assert state["exp_avg"].shape == p.shape, name
        if p.shape == (472, 256):
            assert not state["exp_avg"][463:].any()
            assert state["exp_avg"][:463].any()


def test_a_checkpoint_of_another_vocabulary_is_refused() -> None:
    module = make_full(model_name="deepsynth/tiny")
    module.configure_model()
    state = {name: p.detach()[:400] for name, p in module.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"of another shape \(.*embed_tokens.weight is \(400, 256\)"):
        module.on_load_checkpoint({"state_dict": state, "deepsynth": {"version": "0"}})


def test_an_adapter_to_begin_with_is_refused(tmp_path: Path) -> None:
    module = make_full(adapter=str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.adapter is .*FullModule trains no adapter"):
        module.configure_model()
