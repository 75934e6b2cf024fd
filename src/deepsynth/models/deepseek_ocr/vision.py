"""The two encoders of DeepSeek-OCR in a row: SAM reads the pixels, CLIP reads SAM's map.

X  views (pages or tiles)      C  channels of SAM's map, the width of CLIP
S  side of a view, pixels      n  features along a side: S / 64 at the published patch size
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import (
    DeepseekOcr2PreTrainedModel,
    DeepseekOcr2SamVisionEncoder,
)

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrVisionConfig


class DeepseekOcrVisionEmbeddings(nn.Module):
    """CLS and positions added to SAM's map.

    ``patch_embedding`` is in every published checkpoint and is never used: it stays, so that a checkpoint comes out as
    it went in.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        """Create the parameters for a grid of ``image_size // patch_size`` positions a side."""
        super().__init__()
        self.grid = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.patch_embedding.requires_grad_(False)
        self.position_embedding = nn.Embedding(self.grid**2 + 1, config.hidden_size)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (X, 1 + n*n, C) from SAM's map (X, C, n, n)."""
        cls = self.class_embedding.expand(feature_map.shape[0], 1, -1)
        sequence = torch.cat([cls, feature_map.flatten(2).transpose(1, 2)], dim=1)
        return sequence + self.positions(feature_map.shape[-1])

    def positions(self, side: int) -> torch.Tensor:
        """Return (1, 1 + side*side, C): the table, resized (bicubic, antialiased, in float32) to another grid."""
        table = self.position_embedding.weight
        if side == self.grid:
            return table[None]
        patches = table[1:].float().view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(patches, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([table[:1], resized.flatten(2)[0].T.to(table.dtype)])[None]


class DeepseekOcrVisionEncoder(PreTrainedModel):
    """CLIP's transformer on SAM's map, without its last norm."""

    config: CLIPVisionConfig
    config_class = CLIPVisionConfig
    base_model_prefix = "vision_encoder"
    main_input_name = "feature_map"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = ["CLIPEncoderLayer"]

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # A choice for the whole model is handed down to its parts; vision has no experts and ignores it.
        return True

    def __init__(self, config: CLIPVisionConfig) -> None:
        """Create embeddings, the norm (the spelling is CLIP's) and the layers."""
        super().__init__(config)
        self.embeddings = DeepseekOcrVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return what adds CLS and positions; there is no token embedding."""
        return self.embeddings

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (X, n*n, C) from SAM's map (X, C, n, n); CLS is dropped."""
        hidden_states = self.pre_layrnorm(self.embeddings(feature_map))
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=None)
        features: torch.Tensor = hidden_states[:, 1:]
        return features


class DeepseekOcrVisionModel(DeepseekOcr2PreTrainedModel):
    """SAM, then CLIP on its map, side by side."""

    config: DeepseekOcrVisionConfig
    config_class = DeepseekOcrVisionConfig
    main_input_name = "pixel_values"
    _supports_flex_attn = False
    _no_split_modules: ClassVar[list[str]] = ["DeepseekOcr2SamVisionLayer", "CLIPEncoderLayer"]

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # A choice for the whole model is handed down to its parts; vision has no experts and ignores it.
        return True

    def __init__(self, config: DeepseekOcrVisionConfig) -> None:
        """Create both encoders."""
        super().__init__(config)
        self.sam_encoder = DeepseekOcr2SamVisionEncoder(config.sam_config)
        self.vision_encoder = DeepseekOcrVisionEncoder(config.encoder_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return SAM's patch embedding."""
        embedding: nn.Module = self.sam_encoder.patch_embed
        return embedding

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Return (X, n*n, 2C), CLIP's features before SAM's, of views (X, 3, S, S) in any floating type."""
        dtype = self.sam_encoder.patch_embed.projection.weight.dtype
        feature_map = self.sam_encoder(pixel_values.to(dtype)).last_hidden_state
        clip = self.vision_encoder(feature_map)
        return BaseModelOutput(last_hidden_state=torch.cat([clip, feature_map.flatten(2).transpose(1, 2)], dim=-1))
