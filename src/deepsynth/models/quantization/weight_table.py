"""Parameters and memory of a model's weights by group, before and after quantization."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepsynth.models.quantization.nf4_experts import Nf4Tensor

#: Groups of the table, by the first expression that a parameter's name matches.
_GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("adapters", re.compile(r"\.lora_")),
    (
        "vision",
        re.compile(r"vision_tower|multi_modal_projector|image_newline|view_separator|\.visual\.|model\.projector"),
    ),
    ("embeddings", re.compile(r"embed_tokens")),
    ("attention", re.compile(r"\.self_attn\.")),
    ("routed experts", re.compile(r"\.mlp\.experts\.")),
    ("shared experts", re.compile(r"\.mlp\.shared_experts\.")),
    ("dense MLP", re.compile(r"\.mlp\.(gate_proj|up_proj|gate_up_proj|down_proj)\.")),
    ("head", re.compile(r"lm_head")),
    ("router, norms", re.compile(r"")),
)


@dataclass(frozen=True)
class WeightRow:
    """A group of weights.

    Attributes:
        group: its name.
        parameters: numbers that the model has there.
        bytes_before: of them unquantized.
        bytes_after: that are in memory, scales included.
    """

    group: str
    parameters: int
    bytes_before: int
    bytes_after: int


def weight_table(model: nn.Module, dtype: torch.dtype) -> list[WeightRow]:
    """Return a row for each group of weights that the model has.

    Args:
        model: quantized or not, with adapters or without.
        dtype: that quantized weights had before.
    """
    sums: dict[str, list[int]] = {}
    for name, parameters, before, after in _weights(model, dtype):
        group = next(group for group, expression in _GROUPS if expression.search(name))
        row = sums.setdefault(group, [0, 0, 0])
        for i, value in enumerate((parameters, before, after)):
            row[i] += value
    return [WeightRow(group, *sums[group]) for group, _ in _GROUPS if group in sums]


def count_parameters(model: nn.Module) -> int:
    """Return how many parameters a model has; packed quantized weights count unpacked."""
    return sum(parameters for _, parameters, _, _ in _weights(model, torch.float32))


def _weights(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, number of parameters, bytes before and bytes after of every weight."""
    for path, module in model.named_modules():
        if isinstance(module, Nf4Tensor):
            number = module.shape[0] * module.shape[1] * module.shape[2]
            yield f"{path}.", number, number * dtype.itemsize, sum(p.nbytes for p in module.parameters())
            continue
        for name, parameter in module.named_parameters(recurse=False, prefix=path):
            number, nbytes, full = parameter.numel(), parameter.nbytes, parameter.nbytes
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                number = state.shape.numel()
                scales = [
                    state.absmax,
                    state.offset,
                    *((state.state2.absmax, state.state2.code) if state.nested else ()),
                ]
                nbytes += sum(tensor.nbytes for tensor in scales if tensor is not None)
                full = number * dtype.itemsize
            elif parameter.dtype == torch.int8:
                own: Any = parameter
                scale = module.state.SCB if own.SCB is None else own.SCB  # the first forward pass takes it along
                nbytes, full = nbytes + scale.nbytes, number * dtype.itemsize
            yield name, number, full, nbytes


def format_weight_table(rows: list[WeightRow]) -> str:
    """Return the table as lines of text, with a sum."""
    total = WeightRow("all", *(sum(getattr(r, f) for r in rows) for f in ("parameters", "bytes_before", "bytes_after")))
    lines = [f"{'weights':<16}{'parameters':>15}{'before':>12}{'now':>12}{'bits':>7}"]
    for row in (*rows, total):
        bits = 8 * row.bytes_after / row.parameters
        lines.append(
            f"{row.group:<16}{row.parameters:>15,}{_size(row.bytes_before):>12}{_size(row.bytes_after):>12}{bits:>7.2f}"
        )
    return "\n".join(lines)


def _size(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"
