"""Private parts of peft that the package relies on, and why no public one serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from deepsynth.errors import UserError


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


@cache
def parameter_adapter_class(merge_error: str) -> type[nn.Module]:
    """Return peft's adapter of a fused parameter, for layers that multiply with adapters themselves.

    Such a layer has ``placeholder(name)``, a tensor like the parameter, and ``active``, which gets the factors and the
    scale of each active adapter by the parameter's name, for the time of a call. peft would add adapters to the weights
    in a private method; it has no public place for another way.

    Args:
        merge_error: what a user is told who merges the adapter.
    """
    from peft.tuners.lora.layer import ParamWrapper

    class ParameterAdapter(ParamWrapper):  # type: ignore[misc]
        """Hands its factors to the layer for the time of a call."""

        def get_param(self) -> torch.Tensor:
            return self.get_base_layer().placeholder(self.parameter_name)  # type: ignore[no-any-return]

        @contextmanager
        def _activate_lora(self, active_adapters: list[str]) -> Iterator[None]:
            active = self.get_base_layer().active
            names = [name for name in active_adapters if name in self.lora_A]
            active[self.parameter_name] = [self.get_delta_factors(name) for name in names]
            try:
                yield
            finally:
                del active[self.parameter_name]

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            raise UserError(merge_error)

    # peft nests adapters of several parameters of one module only where a class of this name says that it may.
    ParameterAdapter.__name__ = ParamWrapper.__name__
    return ParameterAdapter
