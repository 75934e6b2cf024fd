"""Private parts of peft that the package relies on, and why no public one serves."""

from __future__ import annotations

from typing import Any

from torch import nn


def register_custom_module(config: Any, kind: type[nn.Module], layer: type[nn.Module]) -> None:
    """Have peft put its adapter class ``layer`` on modules of ``kind``.

    peft documents the method under its private name: which layers it adapts is no field of a configuration.
    """
    config._register_custom_module({kind: layer})


def is_linear_adapter(module: object) -> bool:
    """Return whether a module is peft's LoRA layer around a linear one, quantized or not.

    The classes of quantized layers exist where bitsandbytes is installed; peft hands them out by name.
    """
    from peft.tuners import lora

    quantized = (getattr(lora, name, None) for name in ("Linear4bit", "Linear8bitLt"))
    return isinstance(module, (lora.Linear, *(kind for kind in quantized if kind is not None)))


def is_expert_adapter(module: object, parameters: tuple[str, ...]) -> bool:
    """Return whether a module is peft's LoRA wrapper of a parameter, of a layer that has all these parameters.

    peft exports the class of its other adapters, and not this one.
    """
    from peft.tuners.lora.layer import ParamWrapper

    return isinstance(module, ParamWrapper) and all(hasattr(module.get_base_layer(), name) for name in parameters)
