"""Models that read images at their own size, taken apart for decoding: tokens have positions in time, height and width.

N  samples     T  tokens of a prompt, padded at the right     R  rows     H  width of the decoder
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from deepsynth.generation.cache import RowCache
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.models.engine.fast_paths import GenerationPaths
from deepsynth.models.engine.grid_positions import grid_positions
from deepsynth.models.engine.patch_vision import encode_patches, split_by_image
from deepsynth.models.registry import family_of


class GridRunner(ModelRunner):
    """A model of such a family.

    An image takes fewer positions than tokens. What follows the prompt counts on from its last position, so that
    a row's places in the cache and its positions differ by a number that the cache keeps for each slot.
    """

    def prepare_vision(self, *, compiled: bool) -> None:
        """Find the fast paths; encoders of images of many sizes are not compiled."""
        self.fast_paths = GenerationPaths(self.text, nn.ModuleList(self.family.vision_of(self.model)))
        self.compiled_vision = None

    def prompts(self, inputs: dict[str, torch.Tensor]) -> list[Prompt]:
        """Encode the pages of a batch and return its N prompts, with their positions."""
        found = super().prompts(inputs)
        grids = inputs.get("image_grid_thw")
        if grids is None or not len(grids):
            return found
        merge = int(self.model.config.vision_config.spatial_merge_size)
        sizes = (grids[:, 1] * grids[:, 2] // merge**2).tolist()
        first = 0
        for prompt in found:
            slots = 0 if prompt.features is None else len(prompt.features)
            last = first
            while slots > 0:
                slots -= sizes[last]
                last += 1
            mask = (prompt.ids == self.image_token_id)[None]
            prompt.positions = grid_positions(mask, grids[first:last], merge)[:, 0]
            first = last
        return found

    def image_features(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the features (image tokens, H) of each page."""
        grids = inputs["image_grid_thw"]
        encode = partial(self.family.image_features, self.model)
        return encode_patches(encode, split_by_image(inputs["pixel_values"], grids.tolist()), grids)

    def embed(self, prompts: list[Prompt]) -> tuple[torch.Tensor, ...]:
        """Return what the decoder sees of prompts, where each ends, and the positions (3, N, T).

        Where features are wider than the decoder, what its first layers add comes last, (layers, N, T, H).
        """
        hidden, last = super().embed(prompts)
        positions = torch.arange(hidden.shape[1], device=hidden.device).repeat(3, len(prompts), 1)
        for row, prompt in enumerate(prompts):
            positions[:, row, len(prompt) :] = 0  # padding, which nothing looks at
            if prompt.positions is not None:
                positions[:, row, : len(prompt)] = prompt.positions
        width = hidden.shape[-1]
        wide = {row: prompt.features for row, prompt in enumerate(prompts) if prompt.features is not None}
        layers = max((features.shape[-1] // width - 1 for features in wide.values()), default=0)
        if not layers:
            return hidden, last, positions
        added = hidden.new_zeros(layers, *hidden.shape)
        for row, features in wide.items():
            images = prompts[row].ids == self.image_token_id
            of_layers = features[:, width:].reshape(-1, layers, width).transpose(0, 1)
            added[:, row, : len(images)][:, images] = of_layers.to(added.dtype)
        return hidden, last, positions, added

    def prefill(
        self,
        hidden: torch.Tensor,
        slots: torch.Tensor,
        last: torch.Tensor,
        cache: RowCache,
        positions: torch.Tensor | None = None,
        added: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write prompts into slots of the cache, with what else :meth:`embed` returned, as the base does."""
        assert positions is not None, "embed returned it"
        cache.fill(slots)
        cache.shifts.index_copy_(0, slots, positions.amax((0, 2)) - last)
        rotation = self.text.rotary_emb(hidden, positions)
        joining = () if added is None else added.unbind()
        return self._next_after(self._through_layers(hidden, rotation, None, None, cache, joining), last)

    def _run(
        self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: RowCache
    ) -> torch.Tensor:
        # Of rows that go on: the same in time, height and width.
        positions = (positions + cache.shifts[: len(hidden), None]).expand(3, -1, -1)
        return self._through_layers(hidden, self.text.rotary_emb(hidden, positions), None, mask, cache)


def runner_for(model: Any, *, compile_vision: bool = False) -> ModelRunner:
    """Return the runner that knows the parts of a model.

    Args:
        model: the model, or peft's around it.
        compile_vision: see :class:`ModelRunner`.

    Raises:
        UserError: when none does.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    by_grid = ModelRunner.fits(model) and family_of(base.config).by_grid
    return (GridRunner if by_grid else ModelRunner)(model, compile_vision=compile_vision)
