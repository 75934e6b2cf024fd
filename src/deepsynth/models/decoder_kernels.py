"""Faster ways through a decoder's layers in training, put in place of what transformers and peft do there.

    N  tokens      I, O  inputs and outputs of a linear layer      r  LoRA rank

Each computes what it replaces, up to rounding, keeps less for the backward pass, and is left out where it does not
apply. In evaluation and generation everything runs as it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from deepsynth.models import frozen_experts
from deepsynth.models.linear_cross_entropy import has_liger

Kernels = Literal["auto", "plain"]


def speed_up(text: nn.Module, *, experts: bool) -> None:
    """Replace, in a decoder that is on its device, what there is a faster way for.

    Adapters' products and frozen experts everywhere; norms and gates on CUDA, where liger-kernel is installed.

    Args:
        text: the decoder, adapters inside.
        experts: also choose the implementation of routed experts.
    """
    from peft.tuners.lora import Linear as LoraLinear

    if experts and hasattr(text.config, "n_routed_experts"):
        frozen_experts.register()
        text.config._experts_implementation = frozen_experts.NAME
    for module in text.modules():
        kind = type(module).__name__
        if isinstance(module, LoraLinear) or (kind in ("Linear4bit", "Linear8bitLt") and hasattr(module, "lora_A")):
            module.forward = _Adapted(module)
        elif (fused := _fused_class(module)) is not None:
            module.forward = fused(module)


@contextmanager
def reading(text: nn.Module) -> Iterator[None]:
    """Let norms and gates of a decoder be fused in evaluation too, for the time of a block; all else stays.

    Args:
        text: the decoder, which may have been speeded up for training or not.
    """
    before = [(module, module.__dict__.get("forward")) for module in text.modules() if _fused_class(module)]
    for module, _ in before:
        module.forward = _fused_class(module)(module, always=True)  # type: ignore[misc]
    try:
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.forward
            else:
                module.forward = own


def _fused_class(module: Any) -> type[_Fused] | None:
    if not has_liger():
        return None
    if type(module).__name__.endswith("RMSNorm"):
        return _Normalized
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if all(hasattr(module, name) for name in parts) and frozen_experts.is_silu(module.act_fn):
        return _Gated
    return None


class _Replaced:
    """Runs something else in training; what it replaces stays within reach."""

    def __init__(self, module: Any) -> None:
        self.module = module
        before = module.forward
        self.plain: Callable[..., Any] = before.plain if isinstance(before, _Replaced) else before


class _Adapted(_Replaced):
    """A linear layer with one LoRA adapter."""

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = self.module
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        usual = layer.training and not layer.disable_adapters and not layer.merged and len(names) == 1
        if not usual or args or kwargs or names[0] in layer.lora_variant or layer.lora_A[names[0]].bias is not None:
            return self.plain(x, *args, **kwargs)
        (name,) = names
        left, right = layer.lora_A[name].weight, layer.lora_B[name].weight
        if layer.lora_B[name].bias is not None or layer.lora_embedding_A:
            return self.plain(x)
        base = layer.base_layer(x)
        return AdapterProduct.apply(  # type: ignore[no-untyped-call]
            base, layer.lora_dropout[name](x), left, right, float(layer.scaling[name])
        )


class AdapterProduct(torch.autograd.Function):
    """``base + scale * x A^T B^T`` in the dtype of ``base``: adapters in float32 train through 16-bit products.

    peft casts the input of every adapted layer to float32 and keeps it; here the layers that read one tensor share it.
    """

    @staticmethod
    def forward(
        ctx: Any, base: torch.Tensor, x: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return (..., O).

        Args:
            ctx: takes what the backward pass needs.
            base: (..., O), what the frozen layer makes of ``x``.
            x: (..., I).
            left: A (r, I).
            right: B (O, r).
            scale: of the product.
        """
        rows = x.reshape(-1, x.shape[-1]).to(base.dtype)
        inner = rows @ left.to(base.dtype).T
        flat = base.reshape(-1, base.shape[-1])
        ctx.save_for_backward(x, inner, left, right)
        ctx.scale = scale
        return torch.addmm(flat, inner, right.to(base.dtype).T, alpha=scale).view(base.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of all but the scale."""
        x, inner, left, right = ctx.saved_tensors
        (above,) = grads
        rows, flat = x.reshape(-1, x.shape[-1]).to(above.dtype), above.reshape(-1, above.shape[-1])
        inner_grad = (flat @ right.to(above.dtype)).mul_(ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[1]:
            x_grad = (inner_grad @ left.to(above.dtype)).view(x.shape).to(x.dtype)
        left_grad = (inner_grad.T @ rows).to(left.dtype)
        right_grad = (flat.T @ inner).to(right.dtype).mul_(ctx.scale)
        return above, x_grad, left_grad, right_grad, None


class _Fused(_Replaced):
    """By a kernel of liger-kernel, on CUDA; what is compiled is left to the compiler.

    Args:
        module: whose forward it stands for.
        always: in evaluation too.
    """

    def __init__(self, module: Any, always: bool = False) -> None:
        super().__init__(module)
        self.always = always

    def __call__(self, x: torch.Tensor) -> Any:
        if not x.is_cuda or torch.compiler.is_compiling() or not (self.always or self.module.training):
            return self.plain(x)
        return self.run(x)

    def run(self, x: torch.Tensor) -> Any:
        """Return what the module returns."""
        raise NotImplementedError


class _Normalized(_Fused):
    """A root-mean-square norm: its input is kept for the backward pass, and one number for each token."""

    def run(self, x: torch.Tensor) -> Any:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        norm = self.module
        # Not in place: what comes from above may be a residual's gradient as well.
        return LigerRMSNormFunction.apply(x, norm.weight, norm.variance_epsilon, 0.0, "llama", False)


class _Gated(_Fused):
    """A gated feed-forward layer: both halves of the gate are kept for the backward pass, not their product."""

    def run(self, x: torch.Tensor) -> Any:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        layer = self.module
        return layer.down_proj(LigerSiLUMulFunction.apply(layer.gate_proj(x), layer.up_proj(x)))
