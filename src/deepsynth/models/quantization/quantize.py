"""Frozen weights in 4 or 8 bits, layer by layer.

What is quantized: the decoder's linear layers and, in nf4, its routed experts; the vision encoder's linear layers when
asked for. Embeddings, head, router, norms, convolutions and projector keep their dtype; nothing is cast to float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from deepsynth.compat.bitsandbytes import keep_packed_on_cpu, silence_casts
from deepsynth.errors import UserError
from deepsynth.lazy_imports import install_command
from deepsynth.models.quantization.nf4_experts import BLOCK, Nf4Experts, dequantize_nf4

Kind = Literal["none", "nf4", "int8"]

#: LLM.int8()'s threshold: columns of the input with a larger value are multiplied in 16 bits (arXiv:2208.07339).
_OUTLIER = 6.0

_DECODER = re.compile(r"(^|\.)language_model\.layers\.\d+\.")
_VISION = re.compile(r"(^|\.)(vision_tower|visual)\.(?!merger\.|deepstack_merger_list\.)")


@dataclass(frozen=True)
class Quantization:
    """How frozen weights are kept.

    Args:
        kind: ``nf4``, or ``int8`` (which leaves routed experts as they are).
        double: quantize the scales of nf4 as well.
        compute_dtype: of products with dequantized weights.
        vision: quantize the vision encoder's linear layers, too.
    """

    kind: Literal["nf4", "int8"]
    double: bool
    compute_dtype: torch.dtype
    vision: bool

    def covers(self, name: str) -> bool:
        """Whether linear layers and experts of this name are quantized."""
        return bool(_DECODER.search(name)) or (self.vision and bool(_VISION.search(name)))


def require_bitsandbytes(kind: str) -> None:
    """Import bitsandbytes.

    Raises:
        UserError: when it is missing or cannot be loaded, with the way out.
    """
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.quantization is {kind}, which needs bitsandbytes ({type(error).__name__}: {error}); "
            f"{install_command('gpu')}, or use model.quantization=none"
        ) from error
    silence_casts()


@torch.no_grad()
def quantize(module: nn.Module, how: Quantization, device: torch.device, prefix: str = "") -> None:
    """Quantize the layers of a module that ``how`` covers, one at a time, on ``device``; others stay where they are.

    Args:
        module: a model or a part of one.
        how: what to do.
        device: where the quantized weights will be.
        prefix: name of ``module`` in the model, with a dot at its end.
    """
    for name, parent in list(module.named_modules()):
        for child_name, child in list(parent.named_children()):
            path = f"{prefix}{name}.{child_name}" if name else f"{prefix}{child_name}"
            if not how.covers(path):
                continue
            if type(child) is nn.Linear:
                setattr(parent, child_name, _quantized_linear(child, how, device))
            elif how.kind == "nf4" and isinstance(getattr(child, "gate_up_proj", None), nn.Parameter):
                experts = Nf4Experts(child, device=device, double=how.double, compute_dtype=how.compute_dtype)
                setattr(parent, child_name, experts)


def _quantized_linear(linear: nn.Linear, how: Quantization, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    weight, bias = linear.weight.data.to(device), linear.bias
    new: Any
    with torch.device("meta"):
        sizes = (linear.in_features, linear.out_features, bias is not None)
        if how.kind == "nf4":
            kind = bnb.nn.Linear4bit if linear.in_features % BLOCK == 0 else _linear_of_broken_blocks()
            new = kind(*sizes, compute_dtype=how.compute_dtype, compress_statistics=how.double, quant_type="nf4")
        else:
            new = _linear_of_rows()(*sizes, has_fp16_weights=False, threshold=_OUTLIER)
    if how.kind == "nf4":
        new.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, blocksize=BLOCK, compress_statistics=how.double, quant_type="nf4", module=new
        ).to(device)
        keep_packed_on_cpu(new)
    else:
        rows, scale, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
        new.weight = bnb.nn.Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=scale)
    new.bias = None if bias is None else nn.Parameter(bias.data.to(device), requires_grad=False)
    quantized: nn.Module = new.train(linear.training)
    return quantized


@cache
def _linear_of_broken_blocks() -> type[nn.Module]:
    """Return bitsandbytes' layer for 4 bits, for inputs whose number is no multiple of a block.

    On the CPU it dequantizes as :func:`dequantize_nf4` does; the backward pass keeps the result.
    """
    import bitsandbytes as bnb

    class Linear4bitFlat(bnb.nn.Linear4bit):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.device.type != "cpu":
                outputs: torch.Tensor = super().forward(x)
                return outputs
            with torch.no_grad():
                weight = dequantize_nf4(self.weight.data, self.weight.quant_state).to(self.compute_dtype)
                bias = None if self.bias is None else self.bias.to(self.compute_dtype)
            return functional.linear(x.to(self.compute_dtype), weight, bias).to(x.dtype)

    return Linear4bitFlat


@cache
def _linear_of_rows() -> type[nn.Module]:
    """Return bitsandbytes' layer for 8 bits, for inputs of any number of dimensions.

    bitsandbytes 0.50 takes 2 and 3; of the 4 of a window of SAM's it would look for outliers in the wrong columns.
    """
    import bitsandbytes as bnb

    class Linear8bitRows(bnb.nn.Linear8bitLt):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = super().forward(x.flatten(0, -2))
            return rows.view(*x.shape[:-1], -1)

    return Linear8bitRows


def mark_for_peft(model: Any, how: Quantization) -> None:
    """Say what the layers are, in the words that peft asks for before it adapts them."""
    model.is_loaded_in_4bit = how.kind == "nf4"
    model.is_loaded_in_8bit = how.kind == "int8"
