"""Faster forward methods for a decoder's layers, in place of those of transformers and peft.

    N  tokens      I, O  inputs and outputs of a linear layer      r  LoRA rank

Each computes what it replaces, up to rounding, keeps less for the backward pass, and is left out where it does not
apply. ``models.engine.fast_paths`` puts them in place.
"""

from __future__ import annotations

from typing import Any

import torch

from deepsynth.compat import liger_kernel
from deepsynth.compat.peft import is_expert_adapter, is_linear_adapter
from deepsynth.compat.transformers import attention_function, attention_implementation, cache_name
from deepsynth.models.kernels.adapters import adapt, adapt_experts
from deepsynth.models.kernels.experts import choose_experts
from deepsynth.models.kernels.fast_forward import FastForward, Forward
from deepsynth.models.kernels.frozen_experts import is_silu
from deepsynth.models.kernels.layer_classes import computes_as, layer_classes

#: The paths by the names that users see.
ADAPTERS, EXPERT_ADAPTERS, ROUTER = "adapters", "adapters of experts", "router"
NORM, GATE, ATTENTION = "norms", "gated layers", "rotations"
PATHS = (ADAPTERS, EXPERT_ADAPTERS, ROUTER, NORM, GATE, ATTENTION)


def fast_forward_for(module: Any) -> FastForward | None:
    """Return the faster forward of a module of the decoder, if there is one.

    Classes are those of transformers and peft; FSDP2 makes subclasses of them.
    """
    if is_linear_adapter(module):
        return _ADAPTED
    if is_expert_adapter(module, _EXPERT_WEIGHTS):
        return _ADAPTED_EXPERTS
    if isinstance(module, layer_classes("TextTopkRouter")):
        return _ROUTER
    if not liger_kernel.is_installed():
        return None
    if computes_as(module, "TextRMSNorm"):
        return _NORM
    if computes_as(module, "TextMLP"):
        return _GATE if is_silu(module.act_fn) else None
    if computes_as(module, "FusedMLP"):
        return _FUSED_GATE if is_silu(module.activation_fn) else None
    attends = computes_as(module, "TextAttention") and getattr(module, "sliding_window", None) is None
    return _ATTENTION if attends else None


def why_unused(path: str, count: int, weight: torch.Tensor, *, training: bool) -> str:
    """Return why a path is not used, and an empty text when it is.

    Args:
        path: one of :data:`PATHS`.
        count: of the modules that it is for.
        weight: of the decoder, on its device.
        training: for training, not for generation.
    """
    if path in (NORM, GATE, ATTENTION):
        if not liger_kernel.is_installed():
            return "liger-kernel is not installed"
        if not weight.is_cuda:
            return f"the model is on {weight.device.type}"
    if path == ROUTER and training:
        return "for generation alone"
    return "" if count else "the decoder has no such modules"


def _for_both_modes(path: str, run: Forward) -> FastForward:
    """Make both methods of one that computes what a module does."""

    def in_training(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return run(self, hidden_states, *args, **kwargs)

    return FastForward(path, in_training, run)


def _on_cuda(run: Forward) -> Forward:
    """Make a method that is for CUDA, where no compiler does its own fusing."""

    def chosen(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not hidden_states.is_cuda or torch.compiler.is_compiling():
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return run(self, hidden_states, *args, **kwargs)

    return chosen


def _normalize(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return a root-mean-square norm: for the backward pass it keeps its input, and one number for each token."""
    return liger_kernel.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _gate(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return a gated feed-forward layer: for the backward pass it keeps both halves of the gate, not their product."""
    return self.down_proj(liger_kernel.silu_product(self.gate_proj(hidden_states), self.up_proj(hidden_states)))


def _gate_from_one(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return a gated feed-forward layer whose gate and other half are one matrix, the gate first."""
    gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
    return self.down_proj(liger_kernel.silu_product(gate, up))


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    cache: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Return attention and its weights, as transformers' layer does, queries and keys rotated by one kernel.

    ``past_key_values`` is the older name of ``cache``.
    """
    cache = past_key_values if cache is None else cache
    implementation = attention_implementation(self.config)
    if implementation == "eager":  # its function is the model's own
        if cache is not None:
            kwargs[cache_name()] = cache
        found: tuple[torch.Tensor, Any] = type(self).forward(
            self, hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask, **kwargs
        )
        return found
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    if torch.is_grad_enabled():  # it works in place, on what recomputation may have kept
        query, key = query.clone(), key.clone()
    query, key = liger_kernel.rotate(query, key, *position_embeddings)
    if cache is not None:
        key, value = cache.update(key, value, self.layer_idx)
    attend = attention_function(implementation)
    dropout = self.attention_dropout if self.training else 0.0
    output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
    return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


def _choose(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return no logits, for which generation has no use, and the weights and indices of each token's experts."""
    found = None
    if self.topk_method == "greedy":
        rows = hidden_states.view(-1, hidden_states.shape[-1])
        found = choose_experts(rows, self.weight, self.top_k, float(self.routed_scaling_factor))
    return type(self).forward(self, hidden_states) if found is None else (None, found[1], found[0])


#: The fused parameters of routed experts.
_EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
_ADAPTED, _ADAPTED_EXPERTS = _for_both_modes(ADAPTERS, adapt), _for_both_modes(EXPERT_ADAPTERS, adapt_experts)
_FUSED_GATE = _for_both_modes(GATE, _on_cuda(_gate_from_one))
_NORM, _GATE = _for_both_modes(NORM, _on_cuda(_normalize)), _for_both_modes(GATE, _on_cuda(_gate))
_ATTENTION = _for_both_modes(ATTENTION, _on_cuda(_attend))
_ROUTER = FastForward(ROUTER, None, _choose)
