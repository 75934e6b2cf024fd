"""Random weights, one layer at a time: no more memory than the model itself takes in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def fill_with_random_weights(
    model: Any, device: torch.device, on_layer: Callable[[nn.Module, str], None] | None = None
) -> None:
    """Give a model that was made on the meta device its initial weights on ``device``.

    The numbers come from torch's global generator in an order that depends on the model alone, so that one seed gives
    a model and its quantized twin the same weights.

    Args:
        model: a transformers model on the meta device.
        device: where its weights will be.
        on_layer: called with each layer (of decoder or encoder) and its name with a dot at the end, when it is filled.
    """
    from transformers import PreTrainedModel
    from transformers.modeling_layers import GradientCheckpointingLayer

    from deepsynth.compat.torch import is_persistent
    from deepsynth.compat.transformers import initialize, unify_dtype

    unify_dtype(model)

    def fill(module: nn.Module, owner: Any, prefix: str) -> None:
        owner = module if isinstance(module, PreTrainedModel) else owner
        for name, child in module.named_children():
            fill(child, owner, f"{prefix}{name}.")
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.full_like(parameter, float("nan"), device=device)
            module.register_parameter(name, nn.Parameter(values, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            # Zeros: what _init_weights does not compute was made by the constructor, and tests compare the buffers.
            module.register_buffer(name, torch.zeros_like(buffer, device=device), is_persistent(module, name))
        initialize(owner, module)
        if on_layer is not None and isinstance(module, GradientCheckpointingLayer):
            on_layer(module, prefix)

    fill(model, model, "")
    for parameter in model.parameters():
        if parameter.is_floating_point() and bool(parameter.isnan().any()):
            parameter.normal_()  # as the constructor draws what _init_weights leaves alone: CLIP's class embedding
    model.tie_weights()
