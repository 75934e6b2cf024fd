"""The operations of vision encoders that read images at their own size.

    P  patches of an image     N  tokens of an image

Each matrix is multiplied with all patches, or from the merger on with all tokens. A layer attends among all patches of
an image, or among those of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

#: Leaf names of matrices that stand side by side: what comes behind them needs a gradient where one of them is trained.
_BESIDE = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate", "up_proj": "gate"}
#: In the names of matrices that are multiplied with patches.
_OF_PATCHES = ("patch_embed", ".blocks.", ".layers.")
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)  # with strides as long as their kernels: a product for each place


class PatchFlops:
    """Operations that an encoder with its projector needs for an image, forward and backward.

    Args:
        base: a model with ``model.visual``; peft's layers may be inside.
        product: returns the operations of a row for a matrix by its name, outputs and inputs, and by whether what it
            is multiplied with needs a gradient.
        is_trained: returns whether something is trained in a module by its name.
    """

    def __init__(
        self, base: Any, product: Callable[[str, int, int, bool], int], is_trained: Callable[[str], bool]
    ) -> None:
        vision = base.config.vision_config
        self._merge = int(vision.spatial_merge_size)
        whole = getattr(vision, "fullatt_block_indexes", None)
        #: Side of a window in tokens.
        self._window = 0 if whole is None else int(vision.window_size) // self._merge // int(vision.patch_size)
        self._per_patch = self._per_token = self._per_pair = self._per_window_pair = 0
        needed, layer = False, 0
        behind: dict[int, bool] = {}  # whether what comes out of a layer needs a gradient
        for group in _groups(base):
            trained = False
            parts = group[0][0].split(".")
            if "deepstack_merger_list" in parts and group[0][0].endswith("linear_fc1"):  # of features of a layer
                needed = behind[vision.deepstack_visual_indexes[int(parts[-2])]]
            for name, outputs, inputs in group:
                operations = product(name, outputs, inputs, needed)
                trained = trained or is_trained(name)
                if any(part in name for part in _OF_PATCHES):
                    self._per_patch += operations
                else:
                    self._per_token += operations
            needed = needed or trained
            if "blocks" in parts:
                behind[int(parts[parts.index("blocks") + 1])] = needed
            last, width, _ = group[-1]
            if last.endswith((".qkv", "q_proj", "k_proj", "v_proj")):
                width = width // 3 if last.endswith(".qkv") else width
                of_pair = 4 * width * (3 if needed else 1)  # scores and values, each with two gradients
                if whole is None or layer in whole:
                    self._per_pair += of_pair
                else:
                    self._per_window_pair += of_pair
                layer += 1

    def __call__(self, frames: int, height: int, width: int) -> int:
        """Return the operations for an image of so many patches in time, height and width."""
        patches, tokens = height * width, height * width // self._merge**2
        total = patches * self._per_patch + tokens * self._per_token + patches**2 * self._per_pair
        if self._window:
            pairs = self._squares(height) * self._squares(width)
            total += pairs * self._per_window_pair
        return frames * total

    def _squares(self, side: int) -> int:
        """Return the sum of the squares of the sides of windows along a side of an image, in patches."""
        full, rest = divmod(side // self._merge, self._window)
        return self._merge**2 * (full * self._window**2 + rest**2)


def _groups(base: Any) -> Iterator[list[tuple[str, int, int]]]:
    """Yield the names, outputs and inputs of matrices that stand side by side, in the order in which they compute."""
    last: tuple[str, str] | None = None
    group: list[tuple[str, int, int]] = []
    for name, outputs, inputs in _matrices(base):
        parent, _, leaf = name.rpartition(".")
        place = (parent, _BESIDE.get(leaf, leaf))
        if group and place != last:
            yield group
            group = []
        group.append((name, outputs, inputs))
        last = place
    yield group


def _matrices(base: Any) -> Iterator[tuple[str, int, int]]:
    found = []
    for part in ("visual", "projector"):
        for name, module in getattr(base.model, part, nn.Module()).named_modules():
            if isinstance(module, (nn.Linear, *_CONVOLUTIONS)) and "lora_" not in name:
                path = f"model.{part}.{name}".removesuffix(".base_layer")
                if isinstance(module, nn.Linear):
                    found.append((path, module.in_features, module.out_features))
                else:
                    found.append((path, module.weight[0].numel(), module.out_channels))
    # A merger is the last to compute, wherever the model lists it.
    for path, inputs, outputs in sorted(found, key=lambda matrix: "merger" in matrix[0] or "projector" in matrix[0]):
        yield path, outputs, inputs
