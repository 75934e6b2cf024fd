"""SAM's patches and its attention with relative positions, in fewer passes over memory.

    X  views or windows     Q  heads     s  positions along a side, s * s in all     D  width of a head

Attention gets a bias for every pair of positions, the sum of one number for the distance in height and one for that in
width. transformers adds them by broadcasting over five axes, into memory that attention then has to copy, and copies
queries, keys and values too. Here queries, keys and values stay where the linear layer wrote them, and

- a kernel of our own, on CUDA in 16 bits where nothing of it trains, adds the two numbers as it goes along: the bias of
  all pairs, 400 MB for a page of 1024 x 1024 in a layer that sees all of it, is never there;
- elsewhere a product with a matrix of zeros and ones writes the same sums in the order in which attention reads them.

Patches do not overlap, so that embedding them is a matrix product.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch.nn import functional

from deepsynth.models.kernels.fast_forward import FastForward
from deepsynth.models.kernels.layer_classes import layer_classes

_HAS_TRITON = importlib.util.find_spec("triton") is not None
#: Of a program of the kernel. On an H200 the quickest of 64 and 128, for whole pages and for windows.
_QUERIES = 64


#: The paths by the names that users see.
ATTENTION, PATCHES = "SAM attention", "SAM patches"
PATHS = (ATTENTION, PATCHES)


def fast_forward_for(module: Any) -> FastForward | None:
    """Return the faster forward of a module of the vision encoder, if there is one: SAM's, by torch's attention."""
    if isinstance(module, layer_classes("SamVisionSdpaAttention")):
        return FastForward(ATTENTION, _attend, _attend)
    if isinstance(module, layer_classes("SamPatchEmbeddings")):
        return FastForward(PATCHES, _embed, _embed)
    return None


def why_unused(path: str, count: int, weight: torch.Tensor, *, training: bool) -> str:
    """Return why a path is not used, and an empty text when it is.

    Args:
        path: one of :data:`PATHS`.
        count: of the modules that it is for.
        weight: of the model, on its device.
        training: for training, not for generation.
    """
    if path == PATCHES and not weight.is_cuda:
        return f"the model is on {weight.device.type}"
    return "" if count else "SAM attends by another implementation than sdpa"


def _embed(self: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the embeddings of patches (X, s, s, Q * D) of views (X, channels, pixels, pixels)."""
    convolution = self.projection
    high, wide = convolution.kernel_size
    whole = pixel_values.shape[2] % high == 0 and pixel_values.shape[3] % wide == 0
    if not (pixel_values.is_cuda and whole and convolution.stride == (high, wide)):
        found: torch.Tensor = type(self).forward(self, pixel_values)
        return found
    count, channels, *size = pixel_values.shape
    grid = pixel_values.reshape(count, channels, size[0] // high, high, size[1] // wide, wide)
    patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return functional.linear(patches, convolution.weight.flatten(1), convolution.bias)


def _attend(self: Any, hidden_states: torch.Tensor, output_attentions: bool = False) -> tuple[torch.Tensor, None]:
    """Return what transformers' layer returns: (X, s, s, Q * D), and no weights."""
    if output_attentions:  # it says itself that it cannot
        found: tuple[torch.Tensor, None] = type(self).forward(self, hidden_states, output_attentions)
        return found
    count, *size, _ = hidden_states.shape
    states = self.qkv(hidden_states).view(count, size[0] * size[1], 3, self.num_attention_heads, -1)
    if self.use_rel_pos and _by_kernel(states, self):
        query = states[:, :, 0].unflatten(1, size)
        heights, widths = (_table(self, side, table) for side, table in zip(size, _tables(self), strict=True))
        of_height = torch.einsum("xhwqd,hkd->xqkhw", query, heights)
        of_width = torch.einsum("xhwqd,wkd->xqhwk", query, widths)
        return self.proj(_attend_by_kernel(states, of_height, of_width, *size).view(hidden_states.shape)), None
    query, key, value = (part.transpose(1, 2) for part in states.unbind(2))
    bias = relative_bias(self, query, size) if self.use_rel_pos else None
    output = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return self.proj(output.transpose(1, 2).reshape(hidden_states.shape)), None


def has_kernel(states: torch.Tensor) -> bool:
    """Return whether there is a kernel for tensors like this one, so that no bias is in memory for what is frozen."""
    return _HAS_TRITON and states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)


def _by_kernel(states: torch.Tensor, layer: Any) -> bool:
    trains = torch.is_grad_enabled() and (states.requires_grad or layer.rel_pos_h.requires_grad)
    return has_kernel(states) and not trains and states.shape[-1] in (16, 32, 64, 128)


@torch.library.custom_op("deepsynth::sam_attention", mutates_args=())
def _attend_by_kernel(
    states: torch.Tensor, of_height: torch.Tensor, of_width: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Return the heads' outputs (X, s * s, Q * D); an operation of its own, which torch.compile takes as it is.

    Args:
        states: (X, s * s, 3, Q, D), queries, keys and values.
        of_height: (X, Q, s, s, s), for each height of a key what it adds for the query at (height, width).
        of_width: (X, Q, s, s, s), for the query at (height, width) what it adds for each width of a key.
        height: of the view, in positions.
        width: of the view, in positions.
    """
    from deepsynth.models.kernels.sam_triton import attend

    count, positions, _, heads, d = states.shape
    result = states.new_empty(count, positions, heads * d)
    attend[(-(-positions // _QUERIES) * count * heads,)](
        states.contiguous(), of_height.contiguous(), of_width.contiguous(), result, d**-0.5, heads, height, width,
        QUERIES=_QUERIES, WIDTH=max(1 << (width - 1).bit_length(), 16), D=d, num_warps=4, num_stages=3,
    )  # fmt: skip
    return result


@_attend_by_kernel.register_fake
def _(states: torch.Tensor, of_height: torch.Tensor, of_width: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return states.new_empty(*states.shape[:2], states.shape[3] * states.shape[4])


def relative_bias(layer: Any, query: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Return the bias (X, Q, s * s, s * s).

    Args:
        layer: with the tables of its distances.
        query: (X, Q, s * s, D).
        size: height and width.
    """
    heights, widths = (_table(layer, side, table) for side, table in zip(size, _tables(layer), strict=True))
    places = query.view(*query.shape[:2], *size, -1)
    of_height = torch.einsum("xqhwd,hkd->xqhwk", places, heights)
    of_width = torch.einsum("xqhwd,wkd->xqhwk", places, widths)
    both = torch.cat([of_height, of_width], dim=-1).flatten(2, 3)
    rows, columns = (torch.eye(s, dtype=both.dtype, device=both.device) for s in size)
    spread = torch.cat(
        [rows[:, :, None].expand(-1, -1, size[1]).flatten(1), columns[:, None].expand(-1, size[0], -1).flatten(1)]
    )
    return both @ spread


def _tables(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.rel_pos_h, layer.rel_pos_w


def _table(layer: Any, side: int, table: torch.Tensor) -> torch.Tensor:
    """Return the vector for each pair of positions along a side (s, s, D)."""
    if len(table) != 2 * side - 1:  # another size than the model was made for
        resized: torch.Tensor = layer.get_rel_pos(side, side, table)
        return resized
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place[None] + side - 1]
