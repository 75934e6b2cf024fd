"""How many floating-point operations a training step needs, whatever implementation does them.

The same count holds for every backend that is compared: what one of them does more than once (gradient checkpointing)
or leaves out does not change what the work is; only pages whose features are in a cache are no work for vision. Per
sample, two operations for a multiplication and its addition:

* vision, forward: counted by PyTorch's own counter on the vision tower without weights (the ``meta`` device), a view
  of the model's size at a time: 1.14 TFLOP for DeepSeek-OCR and 1.37 TFLOP for DeepSeek-OCR-2 at 1024 x 1024 pixels;
* decoder, forward, for T positions: ``2 T W + 2 L T^2 A``, where W are the weights that a position passes: attention
  projections, dense layers, router, shared experts, as many routed experts as the router chooses, and the head, which
  is 0.57 G weights; L are the layers and A the width of all heads, causal attention counted as half of T^2, for scores
  and for values;
* backward: once the forward for frozen weights, whose inputs alone need a gradient. The adapters' own operations (under
  1 %) are left out. Frozen vision needs no backward pass; where it is adapted, it takes its forward once more.

A page of 257 image tokens and 768 text tokens is 1.37 + 2 x 1.19 = 3.8 TFLOP for DeepSeek-OCR-2.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from deepsynth.profiling.flops import flop_counter


def decoder_forward_flops(text_config: Any, positions: int) -> int:
    """Return the operations of the decoder's forward pass of one sequence.

    Args:
        text_config: of the decoder.
        positions: T, padding left out.
    """
    c = text_config
    width = c.head_dim * c.num_attention_heads
    attention = c.hidden_size * (2 * width + 2 * c.head_dim * c.num_key_value_heads)
    dense = 3 * c.hidden_size * c.intermediate_size
    expert = 3 * c.hidden_size * c.moe_intermediate_size
    sparse = c.hidden_size * c.n_routed_experts + expert * (c.num_experts_per_tok + c.n_shared_experts)
    kinds = list(c.mlp_layer_types)
    weights = len(kinds) * attention + kinds.count("dense") * dense + (len(kinds) - kinds.count("dense")) * sparse
    weights += c.hidden_size * c.vocab_size
    return int(2 * positions * weights + 2 * len(kinds) * positions**2 * width)


def vision_forward_flops(config: Any, side_px: int) -> int:
    """Return the operations of the vision tower for one square view, counted on tensors without content.

    Args:
        config: of the whole model.
        side_px: of the view.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"), torch.no_grad():
        tower = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).model.vision_tower
        with flop_counter() as counter:
            tower(torch.empty(1, 3, side_px, side_px))
    return int(counter.get_total_flops())


def training_flops(config: Any, view_sides_px: list[int], positions: int, *, vision_trained: bool) -> int:
    """Return the operations of one sample's forward and backward pass.

    Args:
        config: of the whole model.
        view_sides_px: of its views: pages and tiles.
        positions: T of image, prompt and target.
        vision_trained: whether the vision tower has adapters.
    """
    by_side = {side: vision_forward_flops(config, side) for side in set(view_sides_px)}
    vision = sum(by_side[side] for side in view_sides_px)
    return 2 * decoder_forward_flops(config.text_config, positions) + vision * (2 if vision_trained else 1)


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Return the FLOP/s of square matrix products on a device, the median over several in a row.

    Args:
        device: a CUDA device or the CPU.
        dtype: of the matrices.
        seconds: about how long to measure.
    """
    side = 8192 if device.type == "cuda" else 768
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times: list[float] = []
    begin = time.perf_counter()
    in_a_row = 10 if device.type == "cuda" else 1  # waiting for each would count the way there and back
    result = torch.mm(a, b)
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(in_a_row):
            torch.mm(a, b, out=result)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) / in_a_row)
    return 2 * side**3 / statistics.median(times[2:])
