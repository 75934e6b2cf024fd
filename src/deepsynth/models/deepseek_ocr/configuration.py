"""Configuration of DeepSeek-OCR: the native one, and the published ``config.json`` read into it and written back.

The published file says ``model_type: deepseek_vl_v2``, as DeepSeek-VL2 and the original DeepSeek-OCR-2 also do.
:func:`is_deepseek_ocr` therefore looks at ``architectures``, ``projector_config`` and ``vision_config`` as well.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import json
from typing import Any, ClassVar

from transformers import CLIPVisionConfig, PreTrainedConfig
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import (
    DeepseekOcr2SamVisionConfig,
    DeepseekOcr2TextConfig,
)

from deepsynth.errors import UserError
from deepsynth.models.deepseek_ocr.published import PUBLISHED_MODEL_TYPE, from_published, to_published


class DeepseekOcrVisionConfig(PreTrainedConfig):
    """The two encoders in a row: SAM, then CLIP on SAM's map.

    Attributes:
        sam_config: of SAM's ViT, its neck and the two convolutions; a dict, or ``None`` for the published sizes.
        encoder_config: of CLIP, whose patch embedding is never used; a dict, or ``None`` for the published sizes.
    """

    model_type = "deepseek_ocr_vision"
    base_config_key = "vision_config"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "sam_config": DeepseekOcr2SamVisionConfig,
        "encoder_config": CLIPVisionConfig,
    }

    sam_config: Any = None
    encoder_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the two configurations from their dictionaries."""
        if not isinstance(self.sam_config, PreTrainedConfig):
            sam = {"downsample_channels": [512, 1024], **(self.sam_config or {})}
            self.sam_config = DeepseekOcr2SamVisionConfig(**sam)
        if not isinstance(self.encoder_config, PreTrainedConfig):
            self.encoder_config = CLIPVisionConfig(**{**CLIP_LARGE, **(self.encoder_config or {})})
        super().__post_init__(**kwargs)


class DeepseekOcrConfig(PreTrainedConfig):
    """DeepSeek-OCR: vision, decoder, and what joins them.

    Attributes:
        vision_config: see :class:`DeepseekOcrVisionConfig`.
        text_config: of the decoder; the class is DeepSeek-OCR-2's, whose decoder is the same.
        image_token_id: the token that stands once for every image feature.
        router_aux_loss_coef: weight of the experts' balance loss while training; 0 leaves it out.
        published: the ``config.json`` that the model was loaded from, as JSON text, when that was in the published
            format; it is what writing that format gives back.
        tie_word_embeddings: never in published models.
    """

    model_type = "deepseek_ocr"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": DeepseekOcrVisionConfig,
        "text_config": DeepseekOcr2TextConfig,
    }

    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 128815
    router_aux_loss_coef: float = 0.0
    published: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the sub-configurations from their dictionaries.

        Raises:
            UserError: when the parts do not fit together.
        """
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = DeepseekOcrVisionConfig(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = DeepseekOcr2TextConfig(**(self.text_config or TEXT))
        super().__post_init__(**kwargs)
        sam, clip = self.vision_config.sam_config, self.vision_config.encoder_config
        if sam.downsample_channels[-1] != clip.hidden_size:
            raise UserError(
                f"vision_config: SAM's map has {sam.downsample_channels[-1]} channels (sam_config.downsample_channels) "
                f"but CLIP takes {clip.hidden_size} (encoder_config.hidden_size); they must be equal"
            )

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a folder's configuration in native terms, and the arguments that were not used."""
        config_dict, unused = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == PUBLISHED_MODEL_TYPE:
            config_dict = from_published(config_dict)
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a native or a published configuration.

        Raises:
            UserError: for another model's configuration, or a variant that this model does not have.
        """
        found = config_dict.get("model_type")
        if found == PUBLISHED_MODEL_TYPE:
            config_dict = from_published(config_dict)
        elif found not in (None, cls.model_type):
            raise UserError(
                f"config.json says model_type {found!r}; {cls.__name__} reads {cls.model_type!r} and the published "
                f"{PUBLISHED_MODEL_TYPE!r} of DeepSeek-OCR"
            )
        return super().from_dict(config_dict, **kwargs)

    def to_published(self) -> dict[str, Any]:
        """Return the ``config.json`` of the published format.

        A configuration that came from that format is given back as it was, with the data type of the weights.

        Raises:
            UserError: naming the fields that the published format has no place for.
        """
        if self.published is not None:
            kept: dict[str, Any] = json.loads(self.published)
            if _architecture(DeepseekOcrConfig.from_dict(kept)) == _architecture(self):
                dtype = str(self.dtype).removeprefix("torch.") if self.dtype is not None else None
                for part in (kept, kept.get("language_config", {})):
                    if dtype is not None and "torch_dtype" in part:
                        part["torch_dtype"] = dtype
                return kept
        written = to_published(self)
        again, own = _architecture(DeepseekOcrConfig.from_dict(written)), _architecture(self)
        if lost := sorted(key for key in own.keys() | again.keys() if own.get(key) != again.get(key)):
            raise UserError(
                f"the published format cannot represent {', '.join(f'{key} {own.get(key)!r}' for key in lost)}; "
                "save this model in the native format"
            )
        return written


#: What only describes a file, or only matters to random weights.
_NO_ARCHITECTURE = {
    "dtype",
    "transformers_version",
    "_name_or_path",
    "architectures",
    "published",
    "router_aux_loss_coef",
    "initializer_range",
    "initializer_factor",
    "mlp_ratio",
}


def _architecture(config: DeepseekOcrConfig) -> dict[str, Any]:
    """Return what decides the shapes and the arithmetic, by dotted key."""
    found: dict[str, Any] = {}

    def visit(part: dict[str, Any], prefix: str) -> None:
        for key, value in part.items():
            if key in _NO_ARCHITECTURE:
                continue
            if isinstance(value, dict) and key.endswith("_config"):
                visit(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = list(value) if isinstance(value, tuple) else value

    visit(config.to_dict(), "")
    return found


#: CLIP-L/14 as published: quick GELU, eps 1e-5, a grid of 16 x 16 positions and one for CLS.
CLIP_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

#: The decoder as published.
TEXT: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "moe_intermediate_size": 896,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "mlp_layer_types": ["dense"] + ["sparse"] * 11,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
