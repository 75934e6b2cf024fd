"""The default optimizer is torch's AdamW, on CUDA in one kernel; schedules by their factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from deepsynth.errors import UserError
from deepsynth.modules.optim import FusedAdamW, Schedule, check_optimizer, make_schedule
from tests.helpers.training import make_data, make_module, make_trainer


def steps(optimizer_class: type[torch.optim.Optimizer], device: str = "cpu") -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7, 5, device="cpu").to(device))
    optimizer = optimizer_class([{"params": [weight], "weight_decay": 0.1}], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    return weight.detach().cpu()


def test_it_is_adamw() -> None:
    assert torch.equal(steps(FusedAdamW), steps(torch.optim.AdamW))
    optimizer = FusedAdamW([torch.nn.Parameter(torch.zeros(1))])
    assert not optimizer.param_groups[0]["fused"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_is_fused_and_lets_lightning_clip() -> None:
    optimizer = FusedAdamW([torch.nn.Parameter(torch.zeros(1, device="cuda"))])
    assert optimizer.param_groups[0]["fused"]
    assert not optimizer._step_supports_amp_scaling
    torch.testing.assert_close(steps(FusedAdamW, "cuda"), steps(torch.optim.AdamW), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"lr": -1.0}, "learning rate: -1.0"), ({"rate": 1.0}, "unexpected keyword argument 'rate'")],
    ids=["value", "name"],
)
def test_an_optimizer_that_cannot_be_is_refused_in_its_own_words(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=rf"^model.optimizer: .*{complaint}"):
        check_optimizer(lambda parameters: torch.optim.AdamW(parameters, **settings))
    check_optimizer(FusedAdamW)


def factors(name: Schedule, warmup_steps: int, total_steps: int | None, count: int) -> list[float]:
    """Return the learning rates of the first steps of an optimizer whose learning rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, name, warmup_steps, total_steps)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


RISE = [0.0, 0.25, 0.5, 0.75]
HALF = 0.5**0.5  # the cosine of 45 degrees


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0.0]),
    ],
)
def test_a_schedule_rises_over_the_warm_up_and_then_has_its_own_shape(name: Schedule, after: list[float]) -> None:
    assert factors(name, 4, 8, 9) == pytest.approx(RISE + after)
    assert factors(name, 0, 4, 5) == pytest.approx(after)


def test_only_a_constant_schedule_needs_no_end() -> None:
    assert factors("constant", 4, None, 6) == pytest.approx([*RISE, 1.0, 1.0])
    for name in ("linear", "cosine"):
        with pytest.raises(UserError, match=rf"model\.schedule is {name}, which needs the end of the run"):
            factors(name, 4, None, 1)


@pytest.mark.parametrize(
    "callback",
    [
        WeightAveraging(),
        EMAWeightAveraging(decay=0.9),
        StochasticWeightAveraging(swa_lrs=1e-3),
        ModelPruning("l1_unstructured"),
        BackboneFinetuning(),
        LearningRateFinder(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_whose_result_would_be_lost_are_refused_before_the_model_is_loaded(
    callback: Any, tmp_path: Path, jsonl: Path
) -> None:
    module = make_module()
    trainer = make_trainer(tmp_path, max_steps=1, callbacks=[callback])
    with pytest.raises(UserError) as error:
        trainer.fit(module, make_data(jsonl))
    message = str(error.value)
    assert message.startswith(f"trainer.callbacks has {type(callback).__name__}, which does not work here: ")
    assert "\n" not in message
    assert module.model is None
