"""Which weights of a DeepSeek-OCR model get LoRA adapters, by name of the part.

v1 and v2 share the names of the language model. The expressions are anchored to it: bare ``gate_proj`` names, and
peft's ``all-linear``, also match layers of v2's vision encoder; and the routed experts are fused 3-D parameters that
``target_modules`` cannot reach at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig

Experts = Literal["none", "shared", "routed", "all"]

#: peft's other ways (pissa, olora, loftq, …) change the frozen weights too, which the file of an adapter does not hold.
_INITS: dict[str, bool | str] = {"default": True, "gaussian": "gaussian"}

_LAYER = r"model\.language_model\.layers\.\d+"
_MLP = "(gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class LoraScope:
    """The parts of the model that are adapted.

    Args:
        attention: query, key, value and output projections of the decoder.
        mlp: the decoder's dense layers (the first one, in the published models).
        experts: the decoder's shared experts, its routed experts, both or none.
        vision: linear layers of the vision encoder, which otherwise stays frozen.
        projector: the linear layer between vision encoder and decoder.
    """

    attention: bool = True
    mlp: bool = False
    experts: Experts = "none"
    vision: bool = False
    projector: bool = False

    def target_modules(self, model: nn.Module) -> str:
        """Return one regular expression for peft that matches whole module names of ``model``.

        Raises:
            ValueError: when nothing is chosen, or a chosen part is not in the model.
        """
        parts: dict[str, str] = {}
        if self.attention:
            parts["attention"] = rf"{_LAYER}\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
        if self.mlp:
            parts["mlp"] = rf"{_LAYER}\.mlp\.{_MLP}"
        if self.experts in ("shared", "all"):
            parts["experts=shared"] = rf"{_LAYER}\.mlp\.shared_experts\.{_MLP}"
        if self.vision:
            parts["vision"] = _linear_layers_below(model, "vision_tower")
        if self.projector:
            parts["projector"] = _linear_layers_below(model, "multi_modal_projector")
        names = [name for name, _ in model.named_modules()]
        for part, expression in parts.items():
            if not any(re.fullmatch(expression, name) for name in names):
                raise ValueError(f"model.lora_{part} asks for layers that {type(model).__name__} does not have")
        return "|".join(parts.values())

    def target_parameters(self, model: nn.Module) -> list[str]:
        """Return the fused expert parameters to adapt, by the end of their names."""
        if self.experts not in ("routed", "all"):
            return []
        found = [name for name, _ in model.named_parameters() if name.endswith("mlp.experts.gate_up_proj")]
        if not found:
            raise ValueError(f"model.lora_experts={self.experts}, but {type(model).__name__} has no routed experts")
        return ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _linear_layers_below(model: nn.Module, part: str) -> str:
    """Return an expression for all linear layers in ``model.<part>``, whatever the layer's number.

    Whole paths, because leaf names are not unique: SAM's attention and its strided convolutions both have a ``proj``.
    """
    prefix = f"model.{part}"
    paths = {
        re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
        for name, module in model.named_modules()
        if (name == prefix or name.startswith(prefix + ".")) and isinstance(module, nn.Linear)
    }
    return "|".join(re.escape(path).replace(r"\#", r"\d+") for path in sorted(paths))


def lora_config(
    model: nn.Module,
    scope: LoraScope,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    rslora: bool,
    dora: bool,
    init: str,
    base_model_name: str,
) -> LoraConfig:
    """Return peft's configuration of an adapter for ``model``.

    Raises:
        ValueError: for a scope that is empty, not in the model, or that peft cannot combine with the other settings.
    """
    from peft import LoraConfig

    if init not in _INITS:
        raise ValueError(
            f"model.lora_init is {init!r}; there are {', '.join(_INITS)}: others change the frozen weights, and the "
            "adapter alone would not give the trained model"
        )
    modules, parameters = scope.target_modules(model), scope.target_parameters(model)
    if not modules and not parameters:
        raise ValueError(
            "no part of the model would be trained; set one of model.lora_attention, model.lora_mlp, "
            "model.lora_experts, model.lora_vision, model.lora_projector"
        )
    if parameters and dropout:
        raise ValueError(
            f"model.lora_dropout is {dropout}, but adapters on routed experts have no dropout; "
            "set model.lora_dropout=0 or model.lora_experts=shared"
        )
    if parameters and dora:
        raise ValueError("model.dora works on linear layers alone; set model.lora_experts=shared or model.dora=false")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=modules or [],
        target_parameters=parameters or None,
        use_rslora=rslora,
        use_dora=dora,
        init_lora_weights=_INITS[init],
        base_model_name_or_path=base_model_name,
    )


def untrained_adapters(model: nn.Module) -> list[str]:
    """Return the LoRA B matrices that got no gradient, or a zero one, in the backward pass just done."""
    return [
        name
        for name, parameter in model.named_parameters()
        if "lora_B" in name and parameter.requires_grad and not _any(parameter.grad)
    ]


def _any(gradient: torch.Tensor | None) -> bool:
    """Return whether a gradient is not zero, in any process when it is sharded (a ``DTensor``)."""
    if gradient is None:
        return False
    whole: torch.Tensor = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return bool(whole.any())
