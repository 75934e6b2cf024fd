"""Routed experts in 4 bits: packed weights, a layer that trains on them, and the LoRA adapter that fits.

    N  tokens      K  experts of a token       S  N * K rows, one for each token and expert
    E  experts     O, I  outputs and inputs of an expert's matrix       r  LoRA rank

bitsandbytes quantizes ``nn.Linear`` alone, and transformers fuses routed experts into 3-D parameters. What is here
differs from bitsandbytes' own parametrization of such parameters in two ways. The weights that the forward pass
dequantized are not kept for the backward pass, which dequantizes again (:class:`FrozenGroupedLinear`). And adapters are
products of their own beside the frozen one, not a sum of full-sized weights: with ``torch.nn.utils.parametrize``, peft
0.21 leaves its sum in place and trains one of two adapters.

nf4 is from QLoRA (Dettmers et al. 2023, arXiv:2305.14314): blocks of 64 weights share a scale; with double quantization
256 scales share one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deepsynth.compat.peft import parameter_adapter_class
from deepsynth.models.kernels.experts import ends_of
from deepsynth.models.kernels.frozen_experts import Active, FrozenExperts, factors_of, grouped_mm, is_silu

BLOCK = 64
_SCALE_BLOCK = 256
#: Up to so many rows for each expert of the layer, as in generation, only those that are hit are dequantized: 21 tokens
#: of DeepSeek-OCR (6 of 64 experts). With more, hardly one is left out.
_FEW_ROWS = 2


def dequantize_nf4(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """Return the dequantized weights, in the state's shape and dtype.

    As one long row: on CPUs with AVX-512 the kernel of bitsandbytes 0.50 gives weights the scales of other blocks
    where rows are no whole blocks.

    Args:
        packed: two weights a byte.
        state: bitsandbytes' ``QuantState``, with scales nested or not.
    """
    from bitsandbytes.functional import dequantize_4bit

    flat = copy.copy(state)
    flat.shape = torch.Size([state.shape.numel()])
    weight: torch.Tensor = dequantize_4bit(packed.view(-1, 1), flat)
    return weight.view(state.shape)


class Nf4Tensor(nn.Module):
    """Weights (E, O, I) in nf4.

    Args:
        weight: to quantize, on the device where it shall be.
        double: quantize the scales as well, to 8 bits.
        compute_dtype: of what :meth:`dequantize` returns.
    """

    def __init__(self, weight: torch.Tensor, *, double: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        from bitsandbytes.functional import quantize_4bit

        self.shape = tuple(weight.shape)
        self.compute_dtype = compute_dtype
        packed, state = quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=double, quant_type="nf4"
        )
        # Parameters and not buffers: DDP sends buffers to all ranks in every step.
        self.packed = nn.Parameter(packed.view(-1), requires_grad=False)
        self.scale = nn.Parameter(state.absmax, requires_grad=False)
        self.nested = double
        if double:
            self.scale_scale = nn.Parameter(state.state2.absmax, requires_grad=False)
            self.scale_code = nn.Parameter(state.state2.code, requires_grad=False)
            self.scale_offset = nn.Parameter(state.offset, requires_grad=False)

    @property
    def can_gather(self) -> bool:
        """Whether an expert's weights are whole blocks, so that single experts can be dequantized."""
        return (self.shape[1] * self.shape[2]) % BLOCK == 0

    @torch.no_grad()
    def dequantize(self, experts: torch.Tensor | None = None) -> torch.Tensor:
        """Return the weights (E, O, I), or those of the experts (S,) alone, in the compute dtype."""
        from bitsandbytes.functional import QuantState, dequantize_blockwise

        scale, packed, shape = self.scale.data, self.packed.data, self.shape
        if self.nested:
            scale = dequantize_blockwise(
                scale, absmax=self.scale_scale.data, code=self.scale_code.data, blocksize=_SCALE_BLOCK
            )
            scale = scale + self.scale_offset.data
        if experts is not None:
            scale = scale.view(shape[0], -1)[experts].view(-1)
            packed = packed.view(shape[0], -1)[experts].view(-1)
            shape = (len(experts), *shape[1:])
        state = QuantState(
            absmax=scale, shape=torch.Size(shape), dtype=self.compute_dtype, blocksize=BLOCK, quant_type="nf4"
        )
        return dequantize_nf4(packed, state)


class FrozenGroupedLinear(torch.autograd.Function):
    """Rows (S, I) times frozen nf4 weights, keeping nothing of full size for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: Nf4Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return (S, O)."""
        ctx.weight = weight
        ctx.save_for_backward(ends)
        return grouped_mm(rows, weight.dequantize().transpose(-2, -1), ends)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the rows (S, I); the weights are frozen."""
        (ends,) = ctx.saved_tensors
        return grouped_mm(grads[0].contiguous(), ctx.weight.dequantize(), ends), None, None


def _hit_experts(experts: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the experts that some row has, once each, and where the rows of each end.

    The shape, min(S, E), depends on no value, so that a CUDA graph can hold it: places that are left over at the end
    name the last expert once more, and have no rows.

    Args:
        experts: (S,) sorted, of each row.
        number: E.
    """
    first = torch.ones_like(experts)
    first[1:] = experts[1:] != experts[:-1]
    place = first.cumsum(0) - 1
    most = min(len(experts), number)
    hit = experts[-1:].repeat(most).scatter(0, place, experts)
    return hit, ends_of(place, most)


class Nf4Experts(nn.Module):
    """Stands in for the fused experts of a DeepSeek-OCR decoder layer.

    Args:
        experts: transformers' module, with ``gate_up_proj`` (E, 2*O, I) and ``down_proj`` (E, I, O).
        device: of the quantized weights.
        double: see :class:`Nf4Tensor`.
        compute_dtype: of the products.
    """

    #: The fused parameters by the names that they had, which adapters are called by.
    PARAMETERS = ("gate_up_proj", "down_proj")

    def __init__(self, experts: nn.Module, *, device: torch.device, double: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.act_fn: Any = experts.act_fn
        for name in self.PARAMETERS:
            weight = getattr(experts, name).data.to(device)
            self.add_module(f"{name}_nf4", Nf4Tensor(weight, double=double, compute_dtype=compute_dtype))
        self.compute_dtype = compute_dtype
        #: Factors (E, O, r), (E, r, I) and scale of the adapters that are active in this call, by parameter.
        self.active: Active = {}
        #: Whether the backward pass computes the gate's halves again.
        self.recomputes = False

    def quantized(self, name: str) -> Nf4Tensor:
        """Return the quantized weights of a fused parameter."""
        tensor: Nf4Tensor = self.get_submodule(f"{name}_nf4")  # type: ignore[assignment]
        return tensor

    def placeholder(self, name: str) -> torch.Tensor:
        """Return a tensor with shape, dtype and device of a fused parameter, and no memory."""
        weight = self.quantized(name)
        return torch.zeros(1, dtype=self.compute_dtype, device=weight.packed.device).expand(weight.shape)

    # Its products depend on the routing; what surrounds it in a layer is compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted sum of each token's experts (N, I).

        Args:
            hidden_states: (N, I).
            top_k_index: (N, K).
            top_k_weights: (N, K).
        """
        number = self.quantized("gate_up_proj").shape[0]
        few = not torch.is_grad_enabled() and top_k_index.numel() <= _FEW_ROWS * number
        if not few and is_silu(self.act_fn):
            weights = (self.quantized(name) for name in self.PARAMETERS)
            factors = factors_of(self.active, self.compute_dtype) if any(self.active.values()) else ()
            total: torch.Tensor = FrozenExperts.apply(  # type: ignore[no-untyped-call]
                hidden_states.to(self.compute_dtype),
                top_k_index,
                top_k_weights,
                *weights,
                number,
                self.recomputes,
                *factors,
            )
            return total.to(hidden_states.dtype)
        count, chosen = top_k_index.shape
        experts, order = torch.sort(top_k_index.reshape(-1), stable=True)
        rows = hidden_states[order // chosen].to(self.compute_dtype)
        ends = ends_of(experts, number)
        hit = _hit_experts(experts, number) if few else None
        gate, up = self._linear("gate_up_proj", rows, ends, hit).chunk(2, dim=-1)
        outputs = self._linear("down_proj", self.act_fn(gate) * up, ends, hit)
        outputs = outputs * top_k_weights.reshape(-1)[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return outputs[back].view(count, chosen, -1).sum(dim=1).to(hidden_states.dtype)

    def _linear(
        self, name: str, rows: torch.Tensor, ends: torch.Tensor, hit: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        weight = self.quantized(name)
        if hit is not None and weight.can_gather:
            result = grouped_mm(rows, weight.dequantize(hit[0]).transpose(-2, -1), hit[1])
        else:
            result = FrozenGroupedLinear.apply(rows, weight, ends)  # type: ignore[no-untyped-call]
        for left, right, scale in self.active.get(name, []):
            fill = -right.shape[1] % 8  # the kernel wants rows of whole 16 bytes
            right = functional.pad(right, (0, 0, 0, fill))
            left = functional.pad(left, (0, fill))
            inner = grouped_mm(rows, right.transpose(-2, -1), ends)
            result = result + scale * grouped_mm(inner, left.transpose(-2, -1).contiguous(), ends)
        return result


@contextmanager
def expert_parameters(model: nn.Module) -> Iterator[None]:
    """Show the fused parameters of quantized experts as they were, without memory, to who looks for them by name."""
    found = [module for module in model.modules() if isinstance(module, Nf4Experts)]
    for experts in found:
        for name in Nf4Experts.PARAMETERS:
            experts.register_parameter(name, nn.Parameter(experts.placeholder(name), requires_grad=False))
    try:
        yield
    finally:
        for experts in found:
            for name in Nf4Experts.PARAMETERS:
                delattr(experts, name)


def adapter_class() -> type[nn.Module]:
    """Return peft's adapter of a fused parameter, made for :class:`Nf4Experts`; names and shapes are peft's own."""
    return parameter_adapter_class(
        "an adapter cannot be merged into experts of 4 bits; deepsynth export merges it into the model's own 16-bit "
        "weights"
    )
