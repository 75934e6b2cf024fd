"""Families that read images at their own size: rows of patches, a grid for each image, and positions by that grid.

The image processor resizes an image to whole patches within a budget of pixels, and writes for each image how many
patches it has in time, height and width (``image_grid_thw``). Blocks of patches are merged into one token. A token of
an image has three positions, those of its block in time, height and width; a token of a text has the same one three
times (M-RoPE, Wang et al. 2024, https://arxiv.org/abs/2409.12191).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.errors import UserError
from deepsynth.models.family import Family, Feature
from deepsynth.models.tokens import Layout

if TYPE_CHECKING:
    import torch

#: Side of the pages that are drawn where the user chooses no size, unless the model sees less.
_PAGE_SIDE_PX = 1024


class PatchLayout(Layout):
    """How an image becomes patches and these become tokens, as its image processor says.

    Args:
        image_processor: Hugging Face's, which resizes images within a budget of pixels.
    """

    def __init__(self, image_processor: Any) -> None:
        self._images = image_processor
        self._count = lru_cache(maxsize=4096)(self._count_tokens)

    def _count_tokens(self, width: int, height: int) -> int:
        try:
            patches = int(self._images.get_number_of_image_patches(height, width, {}))
        except ValueError as error:  # sides that are too different
            raise UserError(f"an image of {width} x {height} pixels: {error}") from error
        return patches // int(self._images.merge_size) ** 2

    def tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of an image of ``width`` x ``height`` pixels.

        Raises:
            UserError: for an image that the processor refuses.
        """
        return self._count(width, height)

    @property
    def longest_side(self) -> int:
        """Side in pixels of the largest square image that is not made smaller."""
        block = int(self._images.patch_size) * int(self._images.merge_size)
        side = isqrt(int(self._images.size["longest_edge"])) // block * block
        while side > block and not self._keeps(side):
            side -= block  # some budgets count an image twice, as two frames
        return side

    def _keeps(self, side: int) -> bool:
        return (
            int(self._images.get_number_of_image_patches(side, side, {})) == (side // int(self._images.patch_size)) ** 2
        )

    @property
    def page_side(self) -> int:
        """Side of the square pages that are drawn where the user chooses no size, pixels."""
        return min(self.longest_side, _PAGE_SIDE_PX)

    def processor_kwargs(self) -> dict[str, Any]:
        """Return nothing: the budget is in the processor's own configuration."""
        return {}


def pages_of_patches(pixels: torch.Tensor, grids: torch.Tensor, image_processor: Any) -> list[torch.Tensor]:
    """Return the images (3, height, width) that were made patches, as the model sees them.

    Patches that are rows of values stand block after block, those that are pictures row after row of the image: so do
    the image processors of GLM-OCR and Qwen2.5-VL, and that of PaddleOCR-VL.

    Args:
        pixels: (P, ...) patches of all images.
        grids: (V, 3) patches of each in time (1), height and width.
        image_processor: Hugging Face's.
    """
    import torch

    side, merge = int(image_processor.patch_size), int(image_processor.merge_size)
    block = merge if pixels.dim() == 2 else 1
    pictures = pixels.view(len(pixels), 3, -1, side, side)[:, :, 0]  # frames are alike
    pages = []
    parts = torch.split(pictures, grids.prod(1).tolist())
    for one, (_, height, width) in zip(parts, grids.tolist(), strict=True):
        blocks = one.view(height // block, width // block, block, block, 3, side, side)
        pages.append(blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, height * side, width * side))
    return pages


@dataclass(frozen=True, eq=False)
class NativeFamily(Family):
    """A family that reads images at their own size, with a dense decoder in transformers' classes."""

    vision: tuple[str, ...] = ("model.visual",)
    projector: tuple[str, ...] = ("model.visual.merger",)
    by_grid: bool = True
    page_tokens: str = "2772 (1 for 28 x 28 pixels)"
    unsupported: Mapping[Feature, str] = field(
        default_factory=lambda: {
            "experts": "its decoder is dense",
            "published": "transformers' own format is the published one",
            "vllm_lora": "their names in vLLM are not known here",
        }
    )

    def image_features(self, model: Any, images: Mapping[str, Any]) -> list[torch.Tensor]:
        """Return the features (tokens, H) of each image by the model's own method."""
        return list(self.encode(model, images).pooler_output)

    def encode(self, model: Any, images: Mapping[str, Any]) -> Any:
        """Return what the model's own method returns of images.

        Grids are read on the host, where a batch has them: who reads one on a GPU waits for all that the GPU has to do.
        """
        import torch

        from deepsynth.models.engine.token_places import moved

        pixels, grids = images["pixel_values"], images["image_grid_thw"].cpu()
        computed = {
            f"image_{name}": moved(value, pixels.device) if isinstance(value, torch.Tensor) else value
            for name, value in self.computed_of(grids, model.base_model.visual).items()
        }
        return model.get_image_features(pixel_values=pixels, image_grid_thw=grids, **computed)

    def computed_of(self, grids: torch.Tensor, encoder: Any) -> dict[str, Any]:
        """Return what the encoder computes of grids, by the names of the arguments that spare it that.

        Args:
            grids: (V, 3) patches of each image in time, height and width, on the host.
            encoder: of transformers; ``transformers.vision_utils`` has the names.
        """
        from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

        bounds = get_vision_cu_seqlens(grids)
        return {
            "position_ids": get_vision_position_ids(grids, encoder.config.spatial_merge_size),
            "cu_seqlens": bounds,
            "max_seqlen": int(bounds.diff().max()),
        }

    def layout(self, hf_processor: Any, mode: str | None = None) -> Layout:
        """Return how images become tokens.

        Raises:
            UserError: for any mode.
        """
        if mode is not None:
            raise UserError(
                f"mode is {mode!r}; {self.title} has no modes: leave it out, or change size in preprocessor_config.json"
            )
        return PatchLayout(hf_processor.image_processor)


#: Where a folder may say how videos are read, the first first, as transformers looks for it; and under which key.
_VIDEO_FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
)


def pages_only(processor_class: Any) -> Any:
    """Return a processor's class without its video processor, which needs torchvision and which pages do not need.

    Its settings are kept, and written with the others: who loads a model that was exported may want to read videos.

    Args:
        processor_class: of transformers, whose constructor takes image processor, tokenizer and video processor.
    """

    def __init__(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        processor_class.__init__(self, image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    def from_pretrained(cls: Any, source: Any, /, **kwargs: Any) -> Any:
        processor = processor_class.from_pretrained.__func__(cls, source, **kwargs)
        processor.video_settings = _video_settings(source, kwargs)
        return processor

    def to_dict(self: Any) -> dict[str, Any]:
        settings: dict[str, Any] = processor_class.to_dict(self)
        settings.pop("video_settings", None)
        return settings

    def save_pretrained(self: Any, folder: Any, **kwargs: Any) -> Any:
        written = processor_class.save_pretrained(self, folder, **kwargs)
        if settings := getattr(self, "video_settings", None):
            Path(folder, "video_preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        return written

    methods = {
        "__init__": __init__,
        "from_pretrained": classmethod(from_pretrained),
        "to_dict": to_dict,
        "save_pretrained": save_pretrained,
        "__module__": __name__,
    }
    # Of the same name, which is what a processor's files say.
    return type(processor_class.__name__, (processor_class,), methods)


def _video_settings(source: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a video processor in the files of a model; nothing when there are none."""
    from transformers.utils import cached_file

    hub = {name: kwargs[name] for name in ("local_files_only", "revision", "token") if name in kwargs}
    for name, key in _VIDEO_FILES:
        try:
            file = cached_file(source, name, **hub)
        except OSError:
            continue  # the model has no such file
        settings: dict[str, Any] = json.loads(Path(file).read_text())
        if found := settings.get(key) if key is not None else settings:
            return dict(found)
    return {}
