"""FSDP2: a model's weights in shards over processes, and whole again for evaluation and for files.

Every decoder layer and every block of the vision encoder is a unit: its weights are gathered when it computes and
freed after it. So are the routed experts of a layer, which are most of it: while a unit computes the next one is
gathered, and two whole layers would take twice the memory. Embedding and head, which are large too, are units of their
own where they do not share a weight. A unit may hold a frozen base in bfloat16 beside adapters in float32: FSDP2 asks
for one dtype among trained parameters alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from deepsynth.compat.transformers import unsplit_classes


def shard(model: Any, mesh: DeviceMesh, *, compute_dtype: torch.dtype | None = None) -> None:
    """Split the parameters of ``model`` over the processes of ``mesh``, in place.

    Trained parameters begin as rank zero's. Frozen ones stay whole where all others are trained (:class:`FullModule`
    leaves a weight or two that are never used).

    Args:
        model: a Hugging Face model or a peft model around one, the same in every process.
        mesh: of one dimension.
        compute_dtype: in which weights of float32 are gathered and used; by default their own.
    """
    device = torch.device(mesh.device_type, torch.cuda.current_device()) if mesh.device_type == "cuda" else "cpu"
    for parameter in model.parameters():
        if parameter.requires_grad:
            first = parameter.data.to(device)
            dist.broadcast(first, src=0, group=mesh.get_group())
            parameter.data.copy_(first)
    adapted = hasattr(model, "peft_config")
    whole = set() if adapted else {p for p in model.parameters() if not p.requires_grad}
    settings: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(compute_dtype, torch.float32 if compute_dtype else None),
        "ignored_params": whole,
    }
    for unit in units(model):
        fully_shard(unit, **settings)
    fully_shard(model, **settings)
    register_fsdp_forward_method(model, "generate")  # peft's goes around the forward of the root


def units(model: Any) -> list[nn.Module]:
    """Return the parts that are gathered one after the other, inner ones before those that hold them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(unsplit_classes(base))
    # peft's adapters on routed experts sum up whole weights before the experts themselves are called.
    wrapped = {module.base_layer for module in base.modules() if hasattr(module, "base_layer")}
    found = [
        module
        for module in base.modules()
        if type(module).__name__ in names or (hasattr(module, "gate_up_proj") and module not in wrapped)
    ]
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if embedding.weight is not head.weight:
        found += [embedding, head]
    return found[::-1]


def is_sharded(module: nn.Module) -> bool:
    """Return whether FSDP2 holds weights of ``module``."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def gather_for_evaluation(model: nn.Module) -> None:
    """Make all weights whole in every process, until :func:`scatter_after_evaluation`.

    Processes generate texts of different lengths, and not equally many: they cannot gather a layer together for every
    token. It also saves gathering the whole model once a token.
    """
    # What is made in inference mode could not be trained on when its memory is used again.
    with torch.inference_mode(False), torch.no_grad():
        for part in _parts(model):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()


def scatter_after_evaluation(model: nn.Module) -> None:
    """Free what :func:`gather_for_evaluation` gathered."""
    with torch.inference_mode(False), torch.no_grad():
        for number, part in enumerate(_parts(model)):
            part.reshard()
            # The root's weights are needed again at once, in the backward pass.
            part.set_reshard_after_forward(number > 0, recurse=False)


def _parts(model: nn.Module) -> list[FSDPModule]:
    """Return the parts that FSDP2 holds, the root first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def whole_on_rank_zero(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors unsharded: on rank zero, in the CPU's memory; elsewhere only those that were not sharded.

    Every process must call it with the same names in the same order.
    """
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        full = tensor.full_tensor()
        if dist.get_rank() == 0:
            found[name] = full.cpu()
    return found


def shard_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor in the dtype, on the device and in the shards of ``other``; processes do not talk."""
    if not isinstance(other, DTensor):
        return tensor.to(other)
    local = tensor.to(device=other.device, dtype=other.dtype)
    return distribute_tensor(local, other.device_mesh, other.placements, src_data_rank=None)
