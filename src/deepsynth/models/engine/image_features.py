"""The features of a batch's images: frozen ones without a graph, a few at a time, or found again.

V  images     H  width of the decoder
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from deepsynth.errors import UserError
from deepsynth.models.engine.fast_paths import TrainingPaths
from deepsynth.models.engine.feature_cache import FeatureCache, image_keys
from deepsynth.models.engine.patch_vision import encode_patches, split_by_image
from deepsynth.models.engine.vision_chunks import ENCODED_AT_ONCE, RemainderPolicy, in_chunks
from deepsynth.models.kernels import sam_attention
from deepsynth.models.registry import family_of

#: Batches with fewer images than others whose chunk is filled up, before their number gets a shape of its own. On an
#: H200 a shape takes 7 to 10 s once, as much as a hundred steps of eight pages (docs/results/fit_h200.md).
FILLED_BATCHES = 100
_IMAGE_INPUTS = ("pixel_values", "pixel_values_local", "num_local_patches", "patches_grid", "image_grid_thw")


class ImageFeatures:
    """Encodes images as training needs them.

    Args:
        model: of a family in ``deepsynth.models.families``, or peft's model around one.
        vision_chunk: images that are encoded together; by default 1 on the CPU and 4 on CUDA, or 8 where SAM's kernel
            keeps no bias and no cache wants chunks that every batch fills; of images at their own size, as many as have
            ``patch_vision.PATCHES_AT_ONCE``.
        cache: of the features of frozen vision.
        fast_paths: what is installed in the model.

    Raises:
        UserError: for a cache for vision that is trained or that FSDP2 shards.
    """

    def __init__(
        self,
        model: Any,
        *,
        vision_chunk: int | None = None,
        cache: FeatureCache | None = None,
        fast_paths: TrainingPaths | None = None,
    ) -> None:
        self.model = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.family = family_of(self.base.config)
        if isinstance(model, FSDPModule) and cache is not None:
            raise UserError(
                "model.engine.vision_cache is on, but sharded weights are gathered by all processes together, and "
                "a page that one of them finds in its cache would leave the others waiting; set "
                "model.engine.vision_cache=none"
            )
        self.vision_chunk = vision_chunk
        self.frozen_vision = not any(p.requires_grad for name, p in vision_tensors(self.base).items())
        if cache is not None and not self.frozen_vision:
            raise UserError(
                "model.engine.vision_cache keeps features that stay what they are, but vision or projector is trained; "
                "set model.engine.vision_cache=none, or model.lora.vision=false and model.lora.projector=false"
            )
        self.cache = cache
        #: What is installed in the model.
        self.fast_paths = fast_paths
        #: Whether the last chunk is filled up with copies, so that the encoder sees one shape alone: nothing is
        #: compiled again, and features do not depend on how many others were computed with them.
        self.fixed_chunks = cache is not None
        self._most_images = 0  # of a batch in training, and how often batches had fewer
        self._fewer: Counter[int] = Counter()

    @property
    def vision_has_one_shape(self) -> bool:
        """Whether vision is frozen and sees chunks of one shape; images of their own size would be compiled each."""
        return self.frozen_vision and not self.family.by_grid

    def image_features(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the features (tokens, H) of each of V images."""
        images = {name: inputs[name] for name in _IMAGE_INPUTS if name in inputs}
        if not self.frozen_vision:
            return self.family.image_features(self.base.model, images)
        with torch.no_grad():
            if "image_grid_thw" in images:
                return self._of_patches(images["pixel_values"], images["image_grid_thw"])
            pixels = images["pixel_values"]
            tiles_of = images["num_local_patches"].tolist() if "num_local_patches" in images else [0] * len(pixels)
            if self.cache is None:
                return self._encode(images, list(range(len(pixels))), tiles_of)
            keys = image_keys(pixels, images.get("pixel_values_local"), tiles_of)
            return self._cached(keys, pixels.device, lambda missing: self._encode(images, missing, tiles_of))

    def _of_patches(self, pixels: torch.Tensor, grids: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of images that are rows of patches."""
        images = split_by_image(pixels, grids.tolist())
        at_once = self.vision_chunk
        if isinstance(self.model, FSDPModule):
            at_once = len(images)  # all processes gather a layer together, and as often
        elif self.cache is not None:
            at_once = 1  # features shall not depend on how many others were computed with them

        def encode(chosen: list[int]) -> list[torch.Tensor]:
            of_model = partial(self.family.image_features, self.base.model)
            return encode_patches(of_model, [images[index] for index in chosen], grids[chosen], at_once=at_once)

        if self.cache is None:
            return encode(list(range(len(images))))
        return self._cached(image_keys(images), pixels.device, encode)

    def _cached(
        self, keys: list[str], device: torch.device, encode: Callable[[list[int]], list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Return the features of images by their keys; those that are not in the cache are encoded, and kept there."""
        assert self.cache is not None, "the caller looked"
        found = {index: self.cache.get(key) for index, key in enumerate(keys)}
        missing = [index for index, kept in found.items() if kept is None]
        for index, new in zip(missing, encode(missing), strict=True):
            self.cache.put(keys[index], new)
            found[index] = new
        return [kept.to(device, non_blocking=True) for kept in found.values() if kept is not None]

    def _encode(self, images: dict[str, torch.Tensor], chosen: list[int], tiles_of: list[int]) -> list[torch.Tensor]:
        """Return the features of the chosen images, which are encoded some at a time, and so are their tiles."""
        if not chosen:
            return []
        pixels, tiles = images["pixel_values"], images.get("pixel_values_local")
        own = {name: value for name, value in images.items() if name != "pixel_values_local"}
        if len(chosen) < len(pixels):  # else the same, without indices that travel to the device
            own = {name: value[chosen] for name, value in own.items()}
        if tiles is not None and any(tiles_of[index] for index in chosen):
            spans = torch.split(tiles, tiles_of)
            own["pixel_values_local"] = torch.cat([spans[index] for index in chosen])
        replaced = self.fast_paths is not None and self.fast_paths.uses(sam_attention.ATTENTION)
        without_bias = replaced and sam_attention.has_kernel(pixels)
        at_once = 8 if without_bias and self.cache is None else 4
        size = self.vision_chunk or (at_once if pixels.is_cuda else 1)
        if self.cache is None:
            size = self._without_cache(size, len(pixels))
        inner = self.base.model
        if self.family.inputs != "views":
            at_once = len(chosen) if isinstance(self.model, FSDPModule) else size  # see below
            several = [slice(first, first + at_once) for first in range(0, len(chosen), at_once)]
            parts = [{name: value[some] for name, value in own.items()} for some in several]
            return [features for part in parts for features in self.family.image_features(inner, part)]
        # SAM fills a GPU with few images; what follows it is small, and launching it takes longer than running it.
        tower, towers = inner.vision_tower, size if self.fixed_chunks else ENCODED_AT_ONCE * size
        rest: RemainderPolicy = "filled" if self.fixed_chunks else "together"
        modules = [(tower, towers), (tower.sam_encoder, size), (inner.multi_modal_projector, towers)]
        if isinstance(self.model, FSDPModule):
            # All processes gather a layer together, and as often: each goes through its images within the layer.
            modules = [(layer, size) for layer in tower.sam_encoder.layers]
        with ExitStack() as chunks:
            for module, most in modules:
                chunks.enter_context(in_chunks(module, partial(_always, most), rest))
            return self.family.image_features(inner, own)

    def _without_cache(self, most: int, images: int) -> int:
        """Return the images of a chunk of a batch, which has no more than the batch unless others had more.

        The last batch of an epoch has fewer. Compiled vision would be compiled again for it; so it is filled up.
        """
        size = min(most, images)
        if not (self.fixed_chunks and self.base.training):
            return size
        if size < self._most_images:
            self._fewer[size] += 1
            return self._most_images if self._fewer[size] <= FILLED_BATCHES else size
        self._most_images = size
        return size


def _always(most: int, images: torch.Tensor) -> int:
    return most


def vision_tensors(base: Any) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers that have a part in the features of images, by name."""
    named = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    decoder = f"{family_of(base.config).decoder_path(base)}."
    return {
        name: tensor
        for name, tensor in named.items()
        if not name.startswith(decoder) and not name.startswith("lm_head.")
    }
