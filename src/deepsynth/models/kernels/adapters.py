"""Adapters beside frozen layers: LoRA's products in the dtype of the layers, in place of peft's forward passes.

    N  rows      I, O  inputs and outputs of the layer      r  LoRA rank

peft casts the input of every adapted layer to the adapter's float32, and adds those of routed experts to the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deepsynth.compat.torch import copy_all, scale_all
from deepsynth.models.kernels import frozen_experts
from deepsynth.models.kernels.experts import block_of, by_triton

#: Up to so many rows; each 16 of them read both factors.
_FEW_ROWS = 64


def add_adapter(base: torch.Tensor, x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return ``base + x A^T B^T``, and what is in ``base`` may be lost; for generation, without gradients.

    Few rows, as when a model writes, take one kernel on CUDA: torch's have next to nothing to do each.

    Args:
        base: (..., O), which nobody else reads.
        x: (..., I) in the same dtype.
        left: A (r, I) in the same dtype.
        right: B (O, r) in the same dtype, times the scale.
    """
    rank, inputs = left.shape
    rows, flat = x.reshape(-1, inputs), base.reshape(-1, base.shape[-1])
    halves = x.dtype in (torch.bfloat16, torch.float16) and base.dtype == left.dtype == x.dtype
    if not (0 < len(rows) <= _FEW_ROWS and rank <= 128 and halves and base.is_contiguous() and by_triton(x)):
        return torch.addmm(flat, rows @ left.T, right.T).view(base.shape)
    from deepsynth.models.kernels.adapters_triton import add_product

    outputs, columns = flat.shape[1], 64
    read = min(max(block_of(inputs), 16), 128 if rank <= 32 else 32)  # at once; small GPUs have 100 kB for all stages
    add_product[(-(-outputs // columns), -(-len(rows) // 16))](
        flat, rows.contiguous(), left.contiguous(), right.contiguous(), len(rows), inputs, outputs, rank,
        ROWS=16, RANK=max(block_of(rank), 16), INPUTS=read, OUTPUTS=columns,
        num_warps=4, num_stages=4,
    )  # fmt: skip
    return base


def adapt(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
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
        return add_adapter(base, x, *kept)
    return AdapterProduct.apply(  # type: ignore[no-untyped-call]
        base, self.lora_dropout[names[0]](x), left.weight, right.weight, scale, *kept
    )


def adapt_experts(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
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


class AdapterFactors:
    """Of active adapters A, and B times its scale, in the layers' 16 bits: no product has to cast or scale them.

    They stay where they are, for captured graphs, and few kernels bring them up to date.

    Args:
        dtype: of the decoder; in 32 bits there is nothing to do.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._kept: dict[tuple[nn.Module, str], tuple[torch.Tensor, torch.Tensor]] = {}

    @contextmanager
    def cast_adapters(self, layers: list[Any]) -> Iterator[None]:
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
        copy_all(written, fresh)
        scale_all(written[1::2], scales)


class ForwardFactors:
    """A context in which adapters have the factors that they have now, for a forward pass that is computed again.

    Args:
        layer: which holds the adapted layers.
        inner: context that is entered too, as often as this one.
    """

    def __init__(self, layer: nn.Module, inner: Any) -> None:
        self._inner = inner
        self._factors = [(part, part.__dict__["factors"]) for part in layer.modules() if "factors" in part.__dict__]

    def __enter__(self) -> None:
        """Give them the factors."""
        for part, factors in self._factors:
            part.__dict__["factors"] = factors
        self._inner.__enter__()

    def __exit__(self, *args: object) -> None:
        """Take them back."""
        self._inner.__exit__(*args)
        for part, _ in self._factors:
            part.__dict__.pop("factors", None)


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
