"""Which weights of a model get LoRA adapters, by name of the part.

A family's expressions are anchored to its decoder: bare ``gate_proj`` names, and peft's ``all-linear``,
also match layers of vision encoders; and routed experts are fused 3-D parameters that ``target_modules`` cannot reach
at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from deepsynth.errors import UserError
from deepsynth.models.family import Scope
from deepsynth.models.registry import family_of

Experts = Literal["none", "shared", "routed", "all"]

Init = Literal["default", "gaussian", "loftq", "pissa", "olora"]

#: What peft does; the others are computed by ``deepsynth.models.lora_init`` after it, routed experts included.
_PEFT_INITS: dict[Init, bool | str] = {"gaussian": "gaussian"}
_CHANGES_BASE = ("pissa", "olora")


@dataclass(frozen=True)
class LoraSettings:
    """The settings ``model.lora``: which parts of the model get adapters, and their shape.

    Attributes:
        rank: r of the adapters.
        alpha: scale of the adapters; by default twice the rank.
        dropout: probability of dropout on the input of the adapters.
        attention: adapt the query, key, value and output projections of the decoder.
        mlp: adapt the dense layers of the decoder (the first one, in the published models).
        experts: adapt ``none``, ``shared``, ``routed`` or ``all`` experts of the decoder.
        vision: adapt the linear layers of the vision encoder, which otherwise stays frozen.
        projector: adapt the linear layer between vision encoder and decoder.
        rslora: scale by alpha / sqrt(r) instead of alpha / r (https://arxiv.org/abs/2312.03732).
        dora: train weight-decomposed adapters (https://arxiv.org/abs/2402.09353).
        init: how adapters begin. ``default``: A uniform, B zero; ``gaussian``: A normal, B zero; ``loftq``: as what nf4
            lost of the weights; ``pissa``: as their largest singular values; ``olora``: as part of their QR
            decomposition. The last two are stored as plain LoRA of twice the rank.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    attention: bool = True
    mlp: bool = False
    experts: Experts = "none"
    vision: bool = False
    projector: bool = False
    rslora: bool = False
    dora: bool = False
    init: Init = "default"

    def __post_init__(self) -> None:
        """Refuse values that cannot be, and combinations that peft does not have.

        Raises:
            UserError: with the key, what was found and what is allowed.
        """
        if self.rank < 1:
            raise UserError(f"model.lora.rank is {self.rank}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.lora.dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.init not in get_args(Init):
            raise UserError(f"model.lora.init is {self.init!r}; it must be one of {', '.join(get_args(Init))}")
        if self.dora and self.init not in ("default", "gaussian"):
            raise UserError(
                f"model.lora.init is {self.init!r}, but model.lora.dora measures weights before that; set "
                "model.lora.init=default or model.lora.dora=false"
            )
        routed = self.experts in ("routed", "all")
        if routed and self.dropout:
            raise UserError(
                f"model.lora.dropout is {self.dropout}, but adapters on routed experts have no dropout; "
                "set model.lora.dropout=0 or model.lora.experts=shared"
            )
        if routed and self.dora:
            raise UserError(
                "model.lora.dora is true, but it works only on linear layers; set model.lora.experts=shared or "
                "model.lora.dora=false"
            )

    @property
    def scale(self) -> float:
        """The alpha of peft's configuration: as given, else twice the rank."""
        return self.alpha or 2 * self.rank

    @property
    def changes_base(self) -> bool:
        """Whether adapters begin as a part of the frozen weights, which then lack it."""
        return self.init in _CHANGES_BASE

    def as_stored(self) -> LoraSettings:
        """Return the settings of the adapter that is written: for weights that nothing was taken out of."""
        if not self.changes_base:
            return self
        # Twice the rank at the same scale, which is alpha / sqrt(r) with rslora.
        alpha = self.scale * (math.sqrt(2) if self.rslora else 2)
        return replace(self, rank=2 * self.rank, alpha=alpha, init="default")

    def check_base(self, *, quantization: str, weights: str, adapter: str | None) -> None:
        """Refuse a start that the frozen weights do not allow.

        Args:
            quantization: of the frozen weights.
            weights: ``pretrained`` or ``random``.
            adapter: that training starts from, if any.

        Raises:
            UserError: with the key and the way out.
        """
        if self.init == "loftq" and quantization != "nf4":
            raise UserError(
                f"model.lora.init is 'loftq', but model.quantization is {quantization}; such adapters belong to "
                "weights in 4 bits: set model.quantization=nf4, or model.lora.init=default for a new adapter"
            )
        if self.init == "loftq" and weights == "random" and not adapter:
            raise UserError(
                "model.lora.init is 'loftq', but model.weights is random, so quantization lost nothing; set "
                "model.lora.init=default"
            )
        if self.changes_base and quantization != "none":
            raise UserError(
                f"model.lora.init is {self.init!r}, which changes the frozen weights, and model.quantization is "
                f"{quantization}; set model.lora.init=loftq for nf4, or model.quantization=none"
            )
        if self.changes_base and adapter:
            raise UserError(
                f"model.lora.init is {self.init!r}, but training starts from the adapter {adapter}; set "
                "model.lora.init=default"
            )

    def target_modules(self, model: Any) -> str:
        """Return one regular expression for peft that matches whole module names of ``model``.

        Raises:
            UserError: when a chosen part is not in the model, or does not work for its family.
        """
        family = family_of(model.config)
        if self.experts != "none":
            family.refuse("experts", f"model.lora.experts is {self.experts}", "set model.lora.experts=none")
        scopes = family.scopes(model)
        chosen: dict[Scope, bool] = {
            "attention": self.attention,
            "mlp": self.mlp,
            "experts=shared": self.experts in ("shared", "all"),
        }
        parts: dict[str, str] = {scope: scopes.get(scope, "") for scope, is_chosen in chosen.items() if is_chosen}
        if self.vision:
            parts["vision"] = _linear_layers_below(model, family.vision_paths(model), but=family.projector)
        if self.projector:
            parts["projector"] = _linear_layers_below(model, family.projector)
        names = [name for name, _ in model.named_modules()]
        for part, expression in parts.items():
            if not expression or not any(re.fullmatch(expression, name) for name in names):
                raise UserError(f"model.lora.{part} asks for layers that {type(model).__name__} does not have")
        return "|".join(parts.values())

    def target_parameters(self, model: Any) -> list[str]:
        """Return the fused expert parameters to adapt, by the end of their names.

        Raises:
            UserError: when there are none.
        """
        if self.experts not in ("routed", "all"):
            return []
        found = [name for name, _ in model.named_parameters() if name.endswith("mlp.experts.gate_up_proj")]
        if not found:
            raise UserError(f"model.lora.experts is {self.experts}, but {type(model).__name__} has no routed experts")
        return ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _linear_layers_below(model: nn.Module, parts: Sequence[str], but: Sequence[str] = ()) -> str:
    """Return an expression for all linear layers in some parts of a model, whatever the layer's number.

    Whole paths, because leaf names are not unique: SAM's attention and its strided convolutions both have a ``proj``.

    Args:
        model: with the parts.
        parts: module paths.
        but: paths within the parts that are left out: some encoders hold their projector.
    """
    paths = {
        re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
        for name, module in model.named_modules()
        if _is_below(name, parts) and not _is_below(name, but) and isinstance(module, nn.Linear)
    }
    return "|".join(re.escape(path).replace(r"\#", r"\d+") for path in sorted(paths))


def _is_below(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def lora_config(model: Any, lora: LoraSettings, *, base_model_name: str) -> Any:
    """Return peft's configuration of an adapter for ``model``.

    Raises:
        UserError: when nothing would be adapted, or a chosen part is not in the model.
    """
    from peft import LoraConfig

    modules, parameters = lora.target_modules(model), lora.target_parameters(model)
    if not modules and not parameters:
        raise UserError(
            "no part of the model would be trained; set one of model.lora.attention, model.lora.mlp, "
            "model.lora.experts, model.lora.vision, model.lora.projector"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.scale,
        lora_dropout=lora.dropout,
        target_modules=modules or [],
        target_parameters=parameters or None,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=_PEFT_INITS.get(lora.init, True),
        base_model_name_or_path=base_model_name,
    )


def scope_parameters(model: Any, rank: int) -> dict[str, int]:
    """Return how many parameters adapters have in each part of a model that can be adapted.

    An adapter of a weight (out, in) has ``rank * (in + out)``; fused experts have as many for each expert.

    Args:
        model: without adapters; it may be on the meta device.
        rank: r.
    """
    family = family_of(model.config)
    expressions: dict[str, str] = {
        **{str(scope): expression for scope, expression in family.scopes(model).items()},
        "vision": _linear_layers_below(model, family.vision_paths(model), but=family.projector),
        "projector": _linear_layers_below(model, family.projector),
    }
    counts = dict.fromkeys(expressions, 0)
    for name, module in model.named_modules():
        for scope, expression in expressions.items():
            if isinstance(module, nn.Linear) and re.fullmatch(expression, name):
                counts[scope] += rank * (module.in_features + module.out_features)
    if family.supports("experts"):
        counts["experts=routed"] = sum(
            rank * weight.shape[0] * (weight.shape[1] + weight.shape[2])
            for name, weight in model.named_parameters()
            if name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj"))
        )
    return {scope: count for scope, count in counts.items() if count}


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
