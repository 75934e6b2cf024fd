"""Adapters that begin from the frozen weights: LoftQ, PiSSA and OLoRA, on linear layers and routed experts alike.

    E  experts (1 for a linear layer)     O, I  outputs and inputs     r  LoRA rank

LoftQ (Li et al. 2023, arXiv:2310.08659): the adapter begins as the best approximation of what quantization lost. The
quantized weights stay as they are, as in peft's way for models that are quantized already, so the adapter's file says
all. PiSSA (Meng et al. 2024, arXiv:2404.02948) begins with the largest singular values of a weight, OLoRA (Büyükakyüz
2024, arXiv:2406.01775) with the first columns of its QR decomposition. Both take these out of the frozen weight; stored
is plain LoRA of twice the rank, whose second half takes away what the adapter began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from deepsynth.distributed.sharding import shard_like
from deepsynth.errors import UserError
from deepsynth.models.lora import LoraSettings
from deepsynth.models.quantization.nf4_experts import Nf4Experts, dequantize_nf4
from deepsynth.models.registry import load_pretrained

#: Of the randomized SVD: columns beyond the rank, and power iterations. What quantization loses is close to noise, of
#: which the singular values fall slowly; with these the error is within 1 % of the exact decomposition's.
_MORE_COLUMNS, _ITERATIONS = 16, 8


#: Weights of adapters by the name of the parameter in a peft model.
Factors = dict[str, torch.Tensor]


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield peft's LoRA layers with the name of the frozen weight that each adapts, as the base model has it."""
    from peft.tuners.lora import LoraLayer

    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            name = path.removeprefix("base_model.model.").replace(".base_layer", "")
            yield f"{name}.{getattr(layer, 'parameter_name', 'weight')}", layer


def frozen_weight(layer: Any) -> torch.Tensor:
    """Return the weight (O, I) or (E, O, I) under a LoRA layer, dequantized if it is in nf4."""
    base, name = layer.get_base_layer(), getattr(layer, "parameter_name", "weight")
    if isinstance(base, Nf4Experts):
        return base.quantized(name).dequantize()
    weight: torch.Tensor = getattr(base, name)
    state = getattr(weight, "quant_state", None)
    return weight.data if state is None else dequantize_nf4(weight.data, state)


@torch.no_grad()
def start_adapters(model: nn.Module, lora: LoraSettings, *, model_name: str, dtype: torch.dtype) -> Factors:
    """Set the adapters of a model to the values that ``lora.init`` asks for.

    Args:
        model: a peft model with new adapters; PiSSA and OLoRA change its frozen weights in place.
        lora: its settings.
        model_name: whose weights LoftQ compares with; read once more, in the computer's memory.
        dtype: of the weights that were quantized.

    Returns:
        What the adapters took out of the frozen weights; empty where these are as they were.
    """
    if lora.init == "loftq":
        _take_up_error(model, model_name, dtype)
        return {}
    if not lora.changes_base:
        return {}
    for _, layer in adapted_layers(model):
        weight = frozen_weight(layer)
        factors = _best_factors(weight, layer) if lora.init == "pissa" else _leading_factors(weight, layer)
        _set_factors(layer, *factors)
        weight.copy_(weight.float() - _product(layer, *_adapter(layer)))
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _take_up_error(model: nn.Module, model_name: str, dtype: torch.dtype) -> None:
    """Begin LoftQ: adapters approximate what the quantized weights lack; those on exact weights keep their start."""
    from transformers import AutoModelForImageTextToText

    with torch.device("cpu"):
        whole = load_pretrained(AutoModelForImageTextToText, model_name, dtype=dtype)
    weights = dict(whole.named_parameters())
    for name, layer in adapted_layers(model):
        now = frozen_weight(layer).float()
        error = weights[name].data.to(now.device).float() - now
        if bool(error.any()):
            _set_factors(layer, *_best_factors(error, layer))


def _best_factors(matrix: torch.Tensor, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B (…, O, k) and A (…, k, I), whose scaled product is nearest to a matrix; k is r or all there are."""
    rank = min(layer.r["default"], *matrix.shape[-2:])
    columns = min(rank + _MORE_COLUMNS, *matrix.shape[-2:])
    # The same in every run and on every rank, and drawing nothing from the run's own random numbers.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix.float(), q=columns, niter=_ITERATIONS)
    root = (values[..., :rank] / layer.scaling["default"]).sqrt()
    return left[..., :rank] * root[..., None, :], (right[..., :rank] * root[..., None, :]).transpose(-2, -1)


def _leading_factors(weight: torch.Tensor, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return OLoRA's B (…, O, k), the first columns of Q, and A (…, k, I), the first rows of R, of a weight = QR."""
    weight = weight.float()
    rank = min(layer.r["default"], *weight.shape[-2:])
    left, _ = torch.linalg.qr(weight[..., :rank])  # the first columns of Q depend on the weight's first alone
    return left, left.transpose(-2, -1) @ weight


def _adapter(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of a layer's adapter as peft keeps them: A (E * r, I) and B (O, r * E)."""
    return layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data


def _by_expert(layer: Any, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of an adapter as what is multiplied: B (E, O, r) and A (E, r, I); without E on a linear layer."""
    if not hasattr(layer, "parameter_name"):
        return b, a
    experts = layer.num_experts
    return b.view(b.shape[0], -1, experts).permute(2, 0, 1), a.view(experts, -1, a.shape[1])


def _set_factors(layer: Any, left: torch.Tensor, right: torch.Tensor) -> None:
    """Set the first columns of B and rows of A; where the rank is more than these, the rest keeps its start."""
    b, a = _by_expert(layer, *_adapter(layer))
    b[..., : left.shape[-1]], a[..., : right.shape[-2], :] = left, right


def _product(layer: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return what an adapter with these weights adds to the weight of its layer, in float32."""
    left, right = _by_expert(layer, a.float(), b.float())
    product: torch.Tensor = layer.scaling["default"] * (left @ right)
    return product


@torch.no_grad()
def restore_start(model: nn.Module, now: Factors, stored: Mapping[str, torch.Tensor]) -> Factors:
    """Have the frozen weights lack what a checkpoint's adapters began with, not what those of the model did.

    Both are the same where the decompositions were computed on the same hardware; then nothing changes, bit for bit.

    Args:
        model: that :func:`start_adapters` was called for.
        now: what it returned.
        stored: what it returned when the run of the checkpoint began.

    Returns:
        ``stored``.

    Raises:
        UserError: when one of the two runs changed the frozen weights and the other did not.
    """
    if now.keys() != stored.keys():
        raise UserError(
            "the checkpoint's adapters began in another way; set model.lora.init to what its run had (pissa and olora "
            "change the frozen weights)"
        )
    for path, layer in model.named_modules():
        names = [f"{path}.lora_{side}.default.weight" for side in "AB"]
        if names[0] not in stored or all(torch.equal(now[name], stored[name]) for name in names):
            continue
        weight = frozen_weight(layer)
        change = _product(layer, *(now[n] for n in names)) - _product(layer, *(stored[n] for n in names))
        weight.add_(shard_like(change, weight))
    return dict(stored)


def plain_lora(trained: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor], rank: int) -> Factors:
    """Return adapters for the weights as they were, before :func:`start_adapters` changed them: of twice the rank.

    The known conversion: with trained A and B, and A0 and B0 at the start, BA - B0A0 = [B, -B0] [A; A0].

    Args:
        trained: weights of adapters by parameter.
        start: of the same parameters.
        rank: r of the adapters.
    """
    plain: Factors = {}
    for name, tensor in trained.items():
        begun = start[name].to(tensor)
        if ".lora_A." in name:
            columns = tensor.shape[1]
            halves = [each.view(-1, rank, columns) for each in (tensor, begun)]
            plain[name] = torch.cat(halves, dim=1).view(-1, columns)
        else:
            rows = tensor.shape[0]
            halves = [each.view(rows, rank, -1) for each in (tensor, -begun)]
            plain[name] = torch.cat(halves, dim=1).view(rows, -1)
    return plain
