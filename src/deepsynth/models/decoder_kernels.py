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

from deepsynth.models import frozen_experts
from deepsynth.models.adapter_kernels import add_product
from deepsynth.models.expert_kernels import choose
from deepsynth.models.linear_cross_entropy import has_liger

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


class Factors:
    """Of active adapters A, and B times its scale, in the layers' 16 bits: no product has to cast or scale them.

    They stay where they are, for captured graphs, and few kernels bring them up to date.

    Args:
        dtype: of the decoder; in 32 bits there is nothing to do.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._kept: dict[tuple[nn.Module, str], tuple[torch.Tensor, torch.Tensor]] = {}

    @contextmanager
    def at_hand(self, layers: list[Any]) -> Iterator[None]:
        """Let peft's linear layers have the factors of their adapters as they are now, as ``factors`` by their names.

        No longer than for the block: whoever runs a layer after it may have trained the adapter.
        """
        try:
            if self._dtype != torch.float32:
                self._refresh(layers)
            yield
        finally:
            for layer in layers:
                layer.__dict__.pop("factors", None)

    def _refresh(self, layers: list[Any]) -> None:
        known, self._kept = self._kept, {}
        fresh: list[torch.Tensor] = []
        scales: list[float] = []
        for layer in layers:
            layer.__dict__["factors"] = {}
            for name in layer.active_adapters:
                # Of sharded ones the layer itself has the whole, and for as long as it runs.
                if name not in layer.lora_A or hasattr(layer.lora_A[name].weight, "device_mesh"):
                    continue
                whole = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
                own = known.get((layer, name))
                if own is None or any(
                    a.shape != b.shape or a.device != b.device for a, b in zip(own, whole, strict=True)
                ):
                    with torch.inference_mode(False):  # a later backward pass may need them
                        own = (
                            torch.empty_like(whole[0], dtype=self._dtype),
                            torch.empty_like(whole[1], dtype=self._dtype),
                        )
                layer.__dict__["factors"][name] = self._kept[layer, name] = own
                fresh += whole
                scales.append(float(layer.scaling[name]))
        if not fresh:
            return
        # Past autograd: a second forward pass before the backward pass writes the same numbers once more.
        written = [factor.data for own in self._kept.values() for factor in own]
        torch._foreach_copy_(written, fresh)
        torch._foreach_mul_(written[1::2], scales)


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


def _fuse(run: Callable[..., Any]) -> _Fused:
    """Make both methods of a function that computes what a module does, on CUDA; a compiler does its own fusing."""

    def always(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not hidden_states.is_cuda or torch.compiler.is_compiling():
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return run(self, hidden_states, *args, **kwargs)

    def in_training(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return always(self, hidden_states, *args, **kwargs)

    return _Fused(in_training, always)


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
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Return attention and its weights, as transformers' layer does, queries and keys rotated by one kernel."""
    if self.config._attn_implementation == "eager":  # its function is the model's own
        found: tuple[torch.Tensor, Any] = type(self).forward(
            self, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
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
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
    dropout = self.attention_dropout if self.training else 0.0
    output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
    return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


def _adapt(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return a linear layer's output with one LoRA adapter; with anything unusual, peft's own."""
    names = [name for name in self.active_adapters if name in self.lora_A]
    usual = not self.disable_adapters and not self.merged and len(names) == 1
    if not usual or args or kwargs or names[0] in self.lora_variant:
        return type(self).forward(self, x, *args, **kwargs)
    left, right = self.lora_A[names[0]], self.lora_B[names[0]]
    if left.bias is not None or right.bias is not None:
        return type(self).forward(self, x)
    base, scale = self.base_layer(x), float(self.scaling[names[0]])
    kept = None if torch.compiler.is_compiling() else self.__dict__.get("factors", {}).get(names[0])
    kept = kept if kept is not None and kept[0].dtype == base.dtype else (None, None)
    if kept[0] is not None and not torch.is_grad_enabled() and kept[0].dtype == x.dtype:
        return add_product(base, x, *kept)
    return AdapterProduct.apply(  # type: ignore[no-untyped-call]
        base, self.lora_dropout[names[0]](x), left.weight, right.weight, scale, *kept
    )


def _adapt_in_training(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if not self.training:
        return type(self).forward(self, x, *args, **kwargs)
    return _adapt(self, x, *args, **kwargs)


def _adapt_experts(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return what routed experts make of tokens, their adapters' products beside theirs; else peft's own way.

    peft adds an adapter to the weights in every pass: a sum of full size, which it keeps, and a gradient as large.
    """
    experts = self.get_base_layer()
    if self.disable_adapters or self.merged or not frozen_experts.takes_adapters(experts, x):
        return type(self).forward(self, x, *args, **kwargs)
    active: frozen_experts.Active = experts.__dict__.setdefault("active", {})
    names = [name for name in self.active_adapters if name in self.lora_A]
    active[self.parameter_name] = [self.get_delta_factors(name) for name in names]
    try:
        return self.base_layer(x, *args, **kwargs)
    finally:
        del active[self.parameter_name]


def _adapt_experts_in_training(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if not self.training:
        return type(self).forward(self, x, *args, **kwargs)
    return _adapt_experts(self, x, *args, **kwargs)


#: The fused parameters of routed experts.
_EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
_ADAPTED_EXPERTS = _Fused(_adapt_experts_in_training, _adapt_experts)
_NORM, _GATE, _ATTENTION = _fuse(_normalize), _fuse(_gate), _fuse(_attend)
_ADAPTED = _Fused(_adapt_in_training, _adapt)


def _choose(self: Any, hidden_states: torch.Tensor) -> Any:
    """Return no logits, which reading has no use for, and the weights and indices of each token's experts."""
    found = None
    if self.topk_method == "greedy":
        rows = hidden_states.view(-1, hidden_states.shape[-1])
        found = choose(rows, self.weight, self.top_k, float(self.routed_scaling_factor))
    return type(self).forward(self, hidden_states) if found is None else (None, found[1], found[0])


_ROUTER = _Fused(None, _choose)


class AdapterProduct(torch.autograd.Function):
    """``base + scale * x A^T B^T`` in the dtype of ``base``: adapters in float32 train through 16-bit products.

    peft casts the input of every adapted layer to float32 and keeps it; here the layers that read one tensor share it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor,
        x: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        scale: float,
        own_left: torch.Tensor | None,
        own_right: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return (..., O).

        Args:
            ctx: takes what the backward pass needs.
            base: (..., O), what the frozen layer makes of ``x``.
            x: (..., I).
            left: A (r, I).
            right: B (O, r).
            scale: of the product.
            own_left: A in the dtype of ``base``, if that is there already.
            own_right: B times the scale, in the dtype of ``base``.
        """
        rows = x.reshape(-1, x.shape[-1]).to(base.dtype)
        if own_left is None or own_right is None:
            own_left, own_right = left.to(base.dtype), right.to(base.dtype) * scale
        inner = rows @ own_left.T
        ctx.save_for_backward(x, inner, own_left, own_right)
        ctx.scale, ctx.dtypes = scale, (left.dtype, right.dtype)
        # Not in place, though nobody else reads it: selective recomputation keeps what a linear layer returned.
        return torch.addmm(base.reshape(-1, base.shape[-1]), inner, own_right.T).view(base.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of ``base``, ``x`` and both factors."""
        x, inner, left, right = ctx.saved_tensors
        (above,) = grads
        rows, flat = x.reshape(-1, x.shape[-1]).to(above.dtype), above.reshape(-1, above.shape[-1])
        inner_grad = flat @ right
        x_grad = (inner_grad @ left).view(x.shape).to(x.dtype) if ctx.needs_input_grad[1] else None
        left_grad = (inner_grad.T @ rows).to(ctx.dtypes[0])
        right_grad = torch.addmm(flat.new_empty(1, 1), flat.T, inner, beta=0, alpha=ctx.scale).to(ctx.dtypes[1])
        return above, x_grad, left_grad, right_grad, None, None, None
