"""What a module does around a step and with a checkpoint, without a run."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from deepsynth import PeftModule
from deepsynth._version import __version__
from deepsynth.errors import UserError
from deepsynth.modules import EngineSettings, base
from tests.helpers.training import make_module, make_trainer


class Adapted(torch.nn.Module):
    """LoRA matrices by their layers; of those that are dead, B gets a gradient of zeros, or none."""

    def __init__(self, layers: int, dead: int) -> None:
        super().__init__()
        for number in range(layers):
            for matrix in "AB":
                parameter = torch.nn.Parameter(torch.ones(2))
                parameter.grad = torch.ones(2)
                self.register_parameter(f"lora_{matrix}{number}", parameter)
                if matrix == "B" and number < dead:
                    parameter.grad = torch.zeros(2) if number % 2 else None


def make(dead: int, *, step: int = 0, tokens: int = 3, waits: bool = False) -> Any:
    """Return a module in the middle of an optimizer step."""
    module = PeftModule()
    module.model = Adapted(6, dead)
    progress = SimpleNamespace(is_last_batch=not waits, current=SimpleNamespace(ready=1))
    trainer: Any = SimpleNamespace(
        global_step=step,
        accumulate_grad_batches=2,
        precision_plugin=SimpleNamespace(),
        checkpoint_callbacks=[],
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    module.trainer = trainer
    module.loss_window.weigh(torch.tensor(1.0), torch.tensor(tokens))
    return module


@pytest.mark.parametrize(
    ("dead", "named"),
    [
        (1, "1 LoRA B matrices got no gradient in the first step, so they would train nothing: lora_B0"),
        (4, ": lora_B0, lora_B1, lora_B2, lora_B3"),
        (5, "5 LoRA B matrices got no gradient .*: lora_B0, lora_B1, lora_B2, lora_B3, …"),
    ],
)
def test_adapters_without_a_gradient_stop_the_first_step(dead: int, named: str) -> None:
    module = make(dead)
    with pytest.raises(MisconfigurationException, match=f"{named}$"):
        module.on_after_backward()


@pytest.mark.parametrize(
    ("settings", "divided"),
    [
        ({"dead": 0}, True),
        ({"dead": 2, "step": 1}, True),  # a later batch may have nothing for an adapter
        ({"dead": 2, "step": 7}, True),
        ({"dead": 2, "tokens": 0}, True),  # nothing to learn
        ({"dead": 2, "waits": True}, False),
    ],
)
def test_what_is_no_first_step_goes_on(settings: dict[str, Any], divided: bool) -> None:
    module = make(**settings)
    module.on_after_backward()
    # Lightning divided by the two batches of the step, of which there was one.
    assert module.model.lora_A0.grad.tolist() == ([2.0, 2.0] if divided else [1.0, 1.0])


def test_a_step_that_is_skipped_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    for allowed, expected in ((0, []), (2, [("train/skipped_steps", 1.0)])):
        module = make(0)
        module.engine = EngineSettings(skip_non_finite=allowed)
        monkeypatch.setattr(module, "log", lambda *values: logged.append(values))
        module.model.lora_A3.grad[0] = float("inf")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            module.on_after_backward()
        assert logged == expected
        assert ["is skipped" in str(warning.message) for warning in told] == [True] * len(expected)
        assert (module.model.lora_A3.grad is None) == bool(expected)
    assert module.finite_check.skipped == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module with a model, on a trainer that fits nothing."""
    module = make_module(rank=2)
    module.trainer = make_trainer(tmp_path_factory.mktemp("run"))
    module.trainer.state.fn = TrainerFn.FITTING
    module.configure_model()
    return module


def test_a_checkpoint_brings_back_all_that_a_module_knows(trained: Any) -> None:
    trained.prompt_record.add(["read this", "and that"])
    trained.text_generator.longest_target = 77
    trained.finite_check.skipped = 3
    checkpoint: dict[str, Any] = {"state_dict": "what Lightning found"}
    trained.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == {n for n, p in trained.named_parameters() if p.requires_grad}
    own = checkpoint["deepsynth"]
    assert (own["version"], own["module"], own["lora_start"]) == (__version__, "PeftModule", {})
    other = make_module(seed=5, rank=2)
    other.on_load_checkpoint(checkpoint)
    assert other.prompt_record.state() == {"prompt": "read this", "prompts": ["read this", "and that"]}
    assert (other.text_generator.longest_target, other.finite_check.skipped) == (77, 3)
    of_before = {name: own[name] for name in ("version", "prompt", "random_state")}
    other.on_load_checkpoint({**checkpoint, "deepsynth": of_before})
    assert (other.text_generator.longest_target, other.finite_check.skipped) == (0, 0)


def test_weights_that_are_not_finite_are_in_no_checkpoint(trained: Any) -> None:
    parameter = next(p for p in trained.parameters() if p.requires_grad)
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter[0] = float("nan")
    try:
        with pytest.raises(UserError, match=r"^the checkpoint is not written, as model\.\S+ holds values"):
            trained.on_save_checkpoint({})
    finally:
        parameter.data = before


@pytest.mark.parametrize("checkpoint", [{}, {"state_dict": {}}])
def test_a_foreign_checkpoint_is_refused_before_the_model_is_loaded(checkpoint: dict[str, Any]) -> None:
    module = PeftModule()
    with pytest.raises(UserError, match="the checkpoint was not written by DeepSynth: it has no 'deepsynth'"):
        module.on_load_checkpoint(checkpoint)
    assert module.model is None


def test_weights_of_the_base_are_not_missing_from_a_checkpoint(trained: Any) -> None:
    state = {name: p.detach() for name, p in trained.named_parameters() if p.requires_grad}
    assert trained.load_state_dict(state, strict=False).missing_keys == []
    first = next(iter(state))
    state["x"] = state.pop(first)
    found = trained.load_state_dict(state, strict=False)
    assert found.missing_keys == [first]
    assert found.unexpected_keys == ["x"]


@pytest.mark.parametrize(("total", "steps"), [(8, 8), (float("inf"), None)])
def test_the_schedule_ends_with_the_run_and_the_optimizer_has_what_trains(
    total: float, steps: int | None, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(trained.trainer), "estimated_stepping_batches", total)
    asked: list[Any] = []
    monkeypatch.setattr(base, "make_schedule", lambda optimizer, *arguments: asked.append(arguments))
    found = trained.configure_optimizers()
    assert asked == [("constant", 0, steps)]
    assert found["lr_scheduler"]["interval"] == "step"
    given = {id(p) for group in found["optimizer"].param_groups for p in group["params"]}
    assert given == {id(p) for p in trained.parameters() if p.requires_grad}
