"""What UnslothModule needs of Unsloth, on the CPU: the same names and arguments, transformers and peft behind them.

It shows that the module asks for the right things in the right order. What Unsloth does with them, a GPU shows.
"""

from __future__ import annotations

import inspect
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import set_seed


class FastVisionModel:
    """Arguments as in unsloth 2026.10.9; one that is not here is a mistake."""

    calls: list[tuple[str, dict[str, Any]]]
    #: What loading a model raises, as the real one does where it cannot.
    fault: Exception | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_name: str,
        max_seq_length: int,
        dtype: torch.dtype,
        load_in_4bit: bool,
        load_in_8bit: bool,
        load_in_16bit: bool,
        device_map: Any,
        use_gradient_checkpointing: Any,
        use_exact_model_name: bool,
        trust_remote_code: bool,
        auto_model: Any,
        offload_embedding: bool,
        random_state: int,
    ) -> tuple[Any, Any]:
        assert load_in_4bit + load_in_8bit + load_in_16bit == 1
        assert not trust_remote_code
        cls.calls.append(("from_pretrained", dict(locals())))
        if cls.fault is not None:
            raise cls.fault
        model = auto_model.from_pretrained(model_name, dtype=dtype)
        model.is_loaded_in_4bit, model.is_loaded_in_8bit = load_in_4bit, load_in_8bit
        return model, object()

    @classmethod
    def get_peft_model(
        cls,
        model: Any,
        r: int,
        lora_alpha: float,
        lora_dropout: float,
        use_rslora: bool,
        use_dora: bool,
        init_lora_weights: Any,
        random_state: int,
        use_gradient_checkpointing: Any,
        target_modules: Any = None,
        target_parameters: Any = None,
        finetune_vision_layers: bool = True,
    ) -> Any:
        cls.calls.append(("get_peft_model", dict(locals())))
        assert target_modules is None or type(target_modules) in (list, tuple, str)
        set_seed(random_state)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            use_rslora=use_rslora,
            use_dora=use_dora,
            init_lora_weights=init_lora_weights,
            target_modules=r".*language_model.*\.(q_proj|v_proj)" if target_modules is None else target_modules,
            target_parameters=target_parameters,
        )
        return get_peft_model(model, config)

    @classmethod
    def for_training(cls, model: Any) -> Any:
        cls.calls.append(("for_training", {}))
        return model.train()

    @classmethod
    def for_inference(cls, model: Any) -> Any:
        cls.calls.append(("for_inference", {}))
        return model.eval()


def unknown_arguments(real: type) -> list[str]:
    """Return what the stand-in takes and a class in its place does not, as ``method`` or ``method.argument``.

    An argument is known by its name in the signature, in the code that takes it out of ``**kwargs``, or, where an
    adapter's ``**kwargs`` are passed on, as one of peft's LoraConfig.
    """
    found = []
    for name in ("from_pretrained", "get_peft_model", "for_training", "for_inference"):
        method = getattr(real, name, None)
        if method is None:
            found.append(name)
            continue
        parameters = inspect.signature(method).parameters
        known = set(parameters)
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            source = inspect.getsource(method)
            own = inspect.signature(getattr(FastVisionModel, name)).parameters
            known |= {argument for argument in own if f'"{argument}"' in source or f"'{argument}'" in source}
            known |= set(inspect.signature(LoraConfig).parameters) if name == "get_peft_model" else set()
        found += [f"{name}.{a}" for a in inspect.signature(getattr(FastVisionModel, name)).parameters if a not in known]
    return found


def install(monkeypatch: pytest.MonkeyPatch) -> type[FastVisionModel]:
    """Put the stand-in in Unsloth's place for one test."""
    module = ModuleType("unsloth")
    module.__spec__ = ModuleSpec("unsloth", None)
    FastVisionModel.calls = []
    monkeypatch.setattr(FastVisionModel, "fault", None)
    module.FastVisionModel = FastVisionModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr("deepsynth.modules.unsloth.has_accelerator", lambda: True)
    return FastVisionModel
