"""Faster ways through a decoder's layers, put in place of what transformers and peft do there.

    N  tokens      I, O  inputs and outputs of a linear layer      r  LoRA rank

Each computes what it replaces, up to rounding, keeps less for the backward pass, and is left out where it does not
apply. :func:`speed_up` is for training, and what it replaced runs as it was written in evaluation; :class:`Reading` is
for decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from deepsynth.models.kernels import frozen_experts
from deepsynth.models.kernels.adapters import Factors, adapt, adapt_experts
from deepsynth.models.kernels.experts import choose
from deepsynth.models.kernels.linear_cross_entropy import has_liger

Kernels = Literal["auto", "plain"]


def speed_up(text: Any, *, experts: bool) -> Callable[[], AbstractContextManager[None]]:
    """Replace, in a decoder that is on its device, what there is a faster way for.

    Adapters' products and frozen experts everywhere; norms, gates and rotations on CUDA, where liger-kernel is
    installed.

    Args:
        text: the decoder, adapters inside.
        experts: also choose the implementation of routed experts.

    Returns:
        What every forward pass is to run in.
    """
    if experts and hasattr(text.config, "n_routed_experts"):
        frozen_experts.register()
        text.config._experts_implementation = frozen_experts.IN_TRAINING
    found = [(module, fused) for module in text.modules() if (fused := _fused(module)) is not None]
    for module, fused in found:
        # Methods and no objects that can be called: torch.compile has one graph for all layers of a kind then.
        if fused.in_training is not None:
            module.forward = MethodType(fused.in_training, module)
    adapted = [module for module, fused in found if fused is _ADAPTED]
    return partial(Factors(text.embed_tokens.weight.dtype).at_hand, adapted)


class Reading:
    """The faster ways of a decoder in evaluation; experts are for its configuration to choose.

    Args:
        text: the decoder, which may have been speeded up for training or not.
    """

    def __init__(self, text: Any) -> None:
        self._text = text
        self._ways: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._adapted: list[Any] = []
        self._factors = Factors(text.embed_tokens.weight.dtype)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the decoder go these ways, with its adapters as they are now."""
        # Past torch's own way to set attributes, which takes longer than a token for a decoder's hundreds of modules.
        before = [module.__dict__.get("forward") for module, _ in self._ways]
        for module, way in self._ways:
            module.__dict__["forward"] = way
        try:
            with self._factors.at_hand(self._adapted):
                yield
        finally:
            for (module, _), own in zip(self._ways, before, strict=True):
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = own

    def find(self) -> None:
        """Look through the modules, at first and whenever there are others."""
        found = [(module, fused) for module in self._text.modules() if (fused := _fused(module)) is not None]
        self._ways = [(module, MethodType(fused.always, module)) for module, fused in found]
        self._adapted = [module for module, fused in found if fused is _ADAPTED]


class _Fused(NamedTuple):
    """Forward methods of a kind of module: for training (or none of its own), and for evaluation too."""

    in_training: Callable[..., Any] | None
    always: Callable[..., Any]


def _fused(module: Any) -> _Fused | None:
    """Return the faster way through a module of the decoder, if there is one."""
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.lora.layer import ParamWrapper

    four_bits = type(module).__name__ in ("Linear4bit", "Linear8bitLt") and hasattr(module, "lora_A")
    if four_bits or isinstance(module, LoraLinear):
        return _ADAPTED
    if isinstance(module, ParamWrapper) and all(hasattr(module.get_base_layer(), name) for name in _EXPERT_WEIGHTS):
        return _ADAPTED_EXPERTS
    if all(hasattr(module, name) for name in ("top_k", "topk_method", "routed_scaling_factor", "weight")):
        return _ROUTER
    if not has_liger():
        return None
    if type(module).__name__.endswith("RMSNorm"):
        return _NORM
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return _GATE if frozen_experts.is_silu(module.act_fn) else None
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "layer_idx", "scaling", "attention_dropout")
    if all(hasattr(module, name) for name in parts):
        return _ATTENTION
    return None


def _both(run: Callable[..., Any]) -> _Fused:
    """Make both methods of one that computes what a module does."""

    def in_training(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return run(self, hidden_states, *args, **kwargs)

    return _Fused(in_training, run)


def _on_cuda(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that is for CUDA, where no compiler does its own fusing."""

    def chosen(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not hidden_states.is_cuda or torch.compiler.is_compiling():
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return run(self, hidden_states, *args, **kwargs)

    return chosen


def _normalize(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return a root-mean-square norm: for the backward pass it keeps its input, and one number for each token."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    # Not in place: what comes from above may be a residual's gradient as well.
    return LigerRMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", False)


def _gate(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return a gated feed-forward layer: for the backward pass it keeps both halves of the gate, not their product."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(hidden_states), self.up_proj(hidden_states)))


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
    if self.config._attn_implementation == "eager":  # its function is the model's own
        found: tuple[torch.Tensor, Any] = type(self).forward(
            self, hidden_states, position_embeddings, attention_mask, cache, **kwargs
        )
        return found
    from liger_kernel.ops.rope import LigerRopeFunction
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    if torch.is_grad_enabled():  # it works in place, on what recomputation may have kept
        query, key = query.clone(), key.clone()
    query, key = LigerRopeFunction.apply(query, key, *position_embeddings)
    if cache is not None:
        key, value = cache.update(key, value, self.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
    dropout = self.attention_dropout if self.training else 0.0
    output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
    return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


#: The fused parameters of routed experts.
_EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
_NORM, _GATE, _ATTENTION = (_both(_on_cuda(run)) for run in (_normalize, _gate, _attend))
_ADAPTED, _ADAPTED_EXPERTS = _both(adapt), _both(adapt_experts)


def _choose(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return no logits, which reading has no use for, and the weights and indices of each token's experts."""
    found = None
    if self.topk_method == "greedy":
        rows = hidden_states.view(-1, hidden_states.shape[-1])
        found = choose(rows, self.weight, self.top_k, float(self.routed_scaling_factor))
    return type(self).forward(self, hidden_states) if found is None else (None, found[1], found[0])


_ROUTER = _Fused(None, _choose)
