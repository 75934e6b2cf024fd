"""DeepSeek-OCR on transformers' own layers.

    B  samples     V  images (pages) of the batch     N  local tiles of the batch
    T  tokens      S  side of a global view, pixels   S' side of a tile, pixels
    H  width of the decoder                           E  routed experts

What is the model's own: CLIP fed by SAM's map (``vision.py``), one projector for both, a newline after every row of
features, the tiles before the global view and the separator last. The decoder is DeepSeek-OCR-2's.

Loaded weights of vision are frozen, by ``requires_grad`` alone, so that gradients may flow into them when someone wants
to train them (:meth:`DeepseekOcrPreTrainedModel.freeze_vision`). A model with random weights is trainable as a whole.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import (
    DeepseekOcr2PreTrainedModel,
    DeepseekOcr2TextModel,
)

from deepsynth.compat.transformers import cache_name, unify_dtype
from deepsynth.models.deepseek_ocr.balance import RouterRecorder, balance_loss
from deepsynth.models.deepseek_ocr.checkpoint import load_strictly, write_published
from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.vision import DeepseekOcrVisionModel


@dataclass
class DeepseekOcrModelOutput(BaseModelOutputWithPast):
    """Hidden states (B, T, H), and the features (tokens, H) of each image as ``image_outputs.pooler_output``."""

    image_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class DeepseekOcrCausalLMOutput(CausalLMOutputWithPast):
    """Loss, logits (B, T, vocabulary), features of the images, and the balance loss apart.

    ``loss`` is the mean over label tokens, plus ``router_aux_loss_coef * aux_loss`` when the model trains with it.
    """

    aux_loss: torch.Tensor | None = None
    image_outputs: BaseModelOutputWithPooling | None = None


class DeepseekOcrPreTrainedModel(DeepseekOcr2PreTrainedModel):
    """What both classes share: the configuration, the initialization, the checkpoint formats."""

    config: DeepseekOcrConfig
    config_class = DeepseekOcrConfig
    _supports_flex_attn = False
    _no_split_modules: ClassVar[list[str]] = [
        "DeepseekOcr2SamVisionLayer",
        "CLIPEncoderLayer",
        "DeepseekOcr2TextDecoderLayer",
    ]

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for its decorator in the source of this module; the experts are in DeepSeek-OCR-2's.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeepseekOcrModel):
            for vector in (module.image_newline, module.view_separator):
                nn.init.normal_(vector, std=self.config.text_config.hidden_size**-0.5)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a native or a published checkpoint in one dtype, with vision frozen.

        Raises:
            ValueError: listing the keys that are missing, unexpected or of another shape, or naming the broken file.
        """
        loaded = load_strictly(super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)
        unify_dtype(loaded[0] if isinstance(loaded, tuple) else loaded).freeze_vision()
        return loaded

    def freeze_vision(self, frozen: bool = True) -> None:
        """Stop (or let) gradients change encoders, projector, newline and separator."""
        for name, parameter in self.named_parameters():
            if ".language_model." not in f".{name}" and not name.startswith("lm_head."):
                parameter.requires_grad_(not frozen and not name.endswith("embeddings.patch_embedding.weight"))

    def save_pretrained(self, save_directory: str | PathLike[str], *, format: str = "native", **kwargs: Any) -> None:
        """Write the model.

        Args:
            save_directory: created if absent.
            format: ``native`` (fused experts) or ``published`` (the original keys and ``config.json``, for the original
                code, vLLM and SGLang).
            **kwargs: transformers' own.

        Raises:
            ValueError: for another format.
        """
        if format == "published":
            write_published(self, super().save_pretrained, save_directory, **kwargs)
        elif format == "native":
            super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})
        else:
            raise ValueError(f"format is {format!r}; want 'native' or 'published'")


class DeepseekOcrModel(DeepseekOcrPreTrainedModel):
    """Encoders, projector and decoder, without the head."""

    def __init__(self, config: DeepseekOcrConfig) -> None:
        """Create all parts with initial weights."""
        super().__init__(config)
        vision, hidden_size = config.vision_config, config.text_config.hidden_size
        self.vision_tower = DeepseekOcrVisionModel(vision)
        self.multi_modal_projector = nn.Linear(
            vision.encoder_config.hidden_size + vision.sam_config.downsample_channels[-1], hidden_size
        )
        self.image_newline = nn.Parameter(torch.empty(hidden_size))
        self.view_separator = nn.Parameter(torch.empty(hidden_size))
        self.language_model = DeepseekOcr2TextModel(config.text_config)
        self.post_init()

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_values_local: torch.Tensor | None = None,
        num_local_patches: torch.Tensor | None = None,
        patches_grid: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the features of every image as ``pooler_output``, V tensors (tokens, H).

        Args:
            pixel_values: (V, 3, S, S) global views.
            pixel_values_local: (N, 3, S', S') tiles of all images in order, row by row.
            num_local_patches: (V,) tiles of each image; 0 for none.
            patches_grid: (V, 2) columns and rows of the tiles; (1, 1) for none.
            **kwargs: taken for the sake of transformers' callers, unused.

        Raises:
            ValueError: when tiles, counts and grids do not fit together.
        """
        views = self.multi_modal_projector(self.vision_tower(pixel_values).last_hidden_state)
        tiles_of = [0] * len(views) if num_local_patches is None else [int(n) for n in num_local_patches.tolist()]
        grids = [(1, 1)] * len(views) if patches_grid is None else [(int(c), int(r)) for c, r in patches_grid.tolist()]
        present = 0 if pixel_values_local is None else len(pixel_values_local)
        needed = [0 if grid == (1, 1) else grid[0] * grid[1] for grid in grids]
        if len(views) != len(grids) or tiles_of != needed or sum(needed) != present:
            raise ValueError(
                f"{len(views)} views with num_local_patches {tiles_of} and patches_grid {grids} do not fit {present} "
                "tiles in pixel_values_local; each image needs one count and one (columns, rows), (1, 1) for no tiles"
            )
        features = list(self._view_features(views))
        if pixel_values_local is not None and present:
            projected = self.multi_modal_projector(self.vision_tower(pixel_values_local).last_hidden_state)
            for index, (tiles, (columns, rows)) in enumerate(zip(projected.split(tiles_of), grids, strict=True)):
                if len(tiles):
                    features[index] = torch.cat([self._tile_features(tiles, columns, rows), features[index]])
        return BaseModelOutputWithPooling(last_hidden_state=views, pooler_output=features)

    def _view_features(self, views: torch.Tensor) -> torch.Tensor:
        """End each row of views (V, n*n, H) with the newline, and each view with the separator: (V, n*(n+1)+1, H).

        All views at once, because a loop would launch thousands of kernels for a large batch.
        """
        count, features, width = views.shape
        side = round(features**0.5)
        newline = self.image_newline.to(views.dtype).expand(count, side, 1, width)
        rows = torch.cat([views.view(count, side, side, width), newline], dim=2).flatten(1, 2)
        return torch.cat([rows, self.view_separator.to(views.dtype).expand(count, 1, width)], dim=1)

    def _tile_features(self, tiles: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
        """Join tiles (columns*rows, n*n, H) and end each row with the newline: (n*rows*(n*columns+1), H)."""
        side, width = round(tiles.shape[1] ** 0.5), tiles.shape[-1]
        grid = tiles.view(rows, columns, side, side, width).transpose(1, 2)
        joined = grid.reshape(rows * side, columns * side, width)
        newline = self.image_newline.to(tiles.dtype).expand(rows * side, 1, width)
        return torch.cat([joined, newline], dim=1).flatten(0, 1)

    def _insert(self, inputs_embeds: torch.Tensor, input_ids: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
        """Put image features (tokens, H) where the image tokens are."""
        if input_ids is None:
            token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.image_token_id
        slots = int(mask.sum())
        if slots != len(image):
            raise ValueError(
                f"the prompts hold {slots} image tokens (id {self.config.image_token_id}) but the images make "
                f"{len(image)} features; count them with deepsynth.models.tokens.ImageLayout.tokens"
            )
        return inputs_embeds.masked_scatter(mask[..., None].expand_as(inputs_embeds), image.to(inputs_embeds))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_local: torch.Tensor | None = None,
        num_local_patches: torch.Tensor | None = None,
        patches_grid: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> DeepseekOcrModelOutput:
        """Encode the images, put them into the text, run the decoder.

        Args:
            input_ids: (B, T) with the image token once for every image feature; or ``inputs_embeds``.
            pixel_values: (V, 3, S, S), the images of all samples in the order of their tokens; ``None`` without images.
            pixel_values_local: (N, 3, S', S').
            num_local_patches: (V,).
            patches_grid: (V, 2).
            attention_mask: (B, T).
            position_ids: (B, T).
            past_key_values: older name of ``cache``.
            inputs_embeds: (B, T, H).
            use_cache: return the cache.
            cache: keys and values of the tokens before these.
            **kwargs: for the decoder.

        Raises:
            ValueError: when the image tokens are not as many as the image features.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        cache = past_key_values if cache is None else cache
        features = None
        if pixel_values is not None and len(pixel_values):
            features = self.get_image_features(pixel_values, pixel_values_local, num_local_patches, patches_grid)
            inputs_embeds = self._insert(inputs_embeds, input_ids, torch.cat(features.pooler_output))
        elif cache is None and input_ids is not None and (input_ids == self.config.image_token_id).any():
            raise ValueError(
                f"the prompts hold image tokens (id {self.config.image_token_id}) but there is no pixel_values; "
                "pass what the image processor returned"
            )
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{cache_name(): cache},
            **kwargs,
        )
        return DeepseekOcrModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=features,
            **{cache_name(): outputs.get(cache_name())},
        )


class DeepseekOcrForConditionalGeneration(DeepseekOcrPreTrainedModel, GenerationMixin):
    """DeepSeek-OCR: images and text in, text out."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: DeepseekOcrConfig) -> None:
        """Create the model with initial weights."""
        super().__init__(config)
        self.model = DeepseekOcrModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Return the features of every image; see :meth:`DeepseekOcrModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, *args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_local: torch.Tensor | None = None,
        num_local_patches: torch.Tensor | None = None,
        patches_grid: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> DeepseekOcrCausalLMOutput:
        """Predict the next tokens.

        Args:
            input_ids: (B, T); for the other inputs see :meth:`DeepseekOcrModel.forward`.
            pixel_values: (V, 3, S, S).
            pixel_values_local: (N, 3, S', S').
            num_local_patches: (V,).
            patches_grid: (V, 2).
            attention_mask: (B, T).
            position_ids: (B, T).
            past_key_values: older name of ``cache``.
            inputs_embeds: (B, T, H).
            labels: (B, T), -100 where nothing is learned; shifted here.
            use_cache: return the cache.
            logits_to_keep: the last so many positions (0: all), or their indices.
            cache: keys and values of the tokens before these.
            **kwargs: for the decoder and the loss (``num_items_in_batch``).
        """
        coefficient = self.config.router_aux_loss_coef
        recorder = RouterRecorder(self.model.language_model, active=self.training and coefficient > 0)
        with recorder:
            outputs = self.model(
                input_ids=input_ids,
                pixel_values=pixel_values,
                pixel_values_local=pixel_values_local,
                num_local_patches=num_local_patches,
                patches_grid=patches_grid,
                attention_mask=attention_mask,
                position_ids=position_ids,
                cache=past_key_values if cache is None else cache,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **kwargs,
            )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])
        loss = aux_loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
            if recorder.logits:
                top_k = self.config.text_config.num_experts_per_tok
                aux_loss = balance_loss(recorder.logits, top_k, batch_size=len(labels))
                loss = loss + coefficient * aux_loss
        return DeepseekOcrCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            aux_loss=aux_loss,
            image_outputs=outputs.image_outputs,
            **{cache_name(): outputs.get(cache_name())},
        )
