"""The forward pass of training: what a step needs and nothing else.

    B  samples     T  tokens of a row     V  images of the batch     H  width of the decoder     L  label positions

The model's own ``forward`` encodes images with a graph for gradients that nobody wants, hands the decoder a mask that
right-padded causal attention does not need, and projects every position, prompts and images too, on the vocabulary.
This one encodes frozen images without a graph, a few pages at a time or not at all (``feature_cache``), runs the
decoder, and projects the positions that have a label, a chunk at a time (``linear_cross_entropy``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from deepsynth.compat import liger_kernel
from deepsynth.compat.transformers import (
    attention_implementation,
    implementations,
    register_causal_attention,
    sees_all,
    set_attention_implementation,
)
from deepsynth.errors import UserError
from deepsynth.lazy_imports import install_command
from deepsynth.models.engine.fast_paths import TrainingPaths
from deepsynth.models.engine.feature_cache import FeatureCache, image_keys
from deepsynth.models.engine.token_places import TokenPlaces, find_places
from deepsynth.models.engine.vision_chunks import ENCODED_AT_ONCE, RemainderPolicy, in_chunks
from deepsynth.models.engine.written_window import attention_inputs, whole_mask
from deepsynth.models.kernels import packed_attention, sam_attention
from deepsynth.models.kernels.linear_cross_entropy import Loss, linear_cross_entropy
from deepsynth.models.registry import family_of

#: What decoders attend by in training where rows are not packed, in transformers' table of attention functions.
CAUSAL_ATTENTION = "sdpa_causal"

_IMAGE_INPUTS = ("pixel_values", "pixel_values_local", "num_local_patches", "patches_grid")


class TrainingForward:
    """Computes the mean loss over label tokens, as the model's own ``forward`` would.

    The balance loss of DeepSeek-OCR's experts is added where the model trains with it.

    Args:
        model: a DeepSeek-OCR or DeepSeek-OCR-2 model for conditional generation, or peft's model around one.
        loss: ``plain`` calls the model itself; ``auto`` is ``liger`` on CUDA where it is installed, else ``chunked``.
        vision_chunk: images that are encoded together; by default 1 on the CPU and 4 on CUDA, or 8 where SAM's kernel
            keeps no bias and no cache wants chunks that every batch fills.
        cache: of the features of frozen vision.
        fast_paths: what is installed in the model.

    Raises:
        ValueError: for liger-kernel where it is not installed, or a cache for vision that is trained or that FSDP2
            shards.
    """

    def __init__(
        self,
        model: Any,
        *,
        loss: Loss = "auto",
        vision_chunk: int | None = None,
        cache: FeatureCache | None = None,
        fast_paths: TrainingPaths | None = None,
    ) -> None:
        if loss == "liger" and not liger_kernel.is_installed():
            raise UserError(
                f"model.engine.loss is liger, but liger-kernel is not installed; {install_command('gpu')}, or use "
                "model.engine.loss=auto"
            )
        register_causal_attention(CAUSAL_ATTENTION)
        self.model = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.family = family_of(self.base.config)
        if not self.family.supports("loss"):
            loss = "plain"
        self.window = self.family.window(self.base.config)
        self.loss = loss
        self._run, self._head_loss = self._compute, self._project
        if isinstance(model, FSDPModule):
            if cache is not None:
                raise UserError(
                    "model.engine.vision_cache is on, but sharded weights are gathered by all processes together, and "
                    "a page that one of them finds in its cache would leave the others waiting; set "
                    "model.engine.vision_cache=none"
                )
            self._run = _gathering(model, "training_loss", self._compute)
            if isinstance(self.base.lm_head, FSDPModule):
                self._head_loss = _gathering(self.base.lm_head, "linear_cross_entropy", self._project)
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
        #: Whether compiled layers are recorded as CUDA graphs.
        self.cuda_graphs = False

    def __call__(
        self, inputs: dict[str, torch.Tensor], on_host: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return the loss of right-padded or packed inputs; see ``deepsynth.types.Batch``.

        Args:
            inputs: on the device of the model.
            on_host: the same tokens, on the host, where they are read without waiting for the device.
        """
        if self.cuda_graphs:
            # Otherwise each compiled layer without gradients, as all of frozen vision, counts as a step of its own,
            # which may overwrite what the one before it has returned.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        config = self.base.config.text_config
        if "position_ids" in inputs and attention_implementation(config) == "sdpa":
            packed_attention.register()
            set_attention_implementation(config, packed_attention.NAME)
        with nullcontext() if self.fast_paths is None else self.fast_paths.cast_adapters():
            if self.loss == "plain":
                return self._plain(inputs)
            found = find_places(on_host or inputs, self.base.config.image_token_id, inputs["labels"].device)
            return self._run(inputs, found)

    def _compute(self, inputs: dict[str, torch.Tensor], places: TokenPlaces) -> torch.Tensor:
        hidden, balance = self._decode(inputs, places)
        states = hidden.flatten(0, 1).index_select(0, places.predicting)
        loss = self._head_loss(states, inputs["labels"].flatten().index_select(0, places.predicting + 1))
        return loss if balance is None else loss + balance

    def _project(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        liger = self.loss == "liger" or (self.loss == "auto" and hidden.is_cuda and liger_kernel.is_installed())
        return linear_cross_entropy(hidden, self.base.lm_head.weight, labels, liger=liger)

    def _plain(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if "position_ids" in inputs:  # transformers sees that a row is packed only where there is no mask
            inputs = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
        labels = inputs["labels"]
        if empty := not bool((labels[:, 1:] != -100).any()):  # the mean of nothing is no number
            inputs = {**inputs, "labels": torch.cat([labels[:, :-1], inputs["input_ids"][:, -1:]], dim=1)}
        if self.window is not None:
            masks: Any = whole_mask(self.base.config.get_text_config(), inputs, self.window, self.base.dtype)
            inputs = {**inputs, "attention_mask": masks}
        loss: torch.Tensor = self.model(**self.family.arguments(inputs), use_cache=False).loss
        return loss * 0 if empty else loss

    def _decode(self, inputs: dict[str, torch.Tensor], places: TokenPlaces) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the last hidden states (B, T, H), and the weighted balance loss where there is one."""
        decoder = self.base.model.language_model
        embeds = decoder.embed_tokens(inputs["input_ids"])
        if len(inputs.get("pixel_values", ())):
            images = inputs["input_ids"] == self.base.config.image_token_id
            embeds = self._insert(embeds, images, places.slots, torch.cat(self.image_features(inputs)))
        coefficient = float(getattr(self.base.config, "router_aux_loss_coef", 0.0) or 0.0)
        balances = coefficient > 0 and self.base.training and self.base.config.model_type == "deepseek_ocr"
        packing: dict[str, Any] = {}
        # Causal attention never looks at padding on the right. The balance loss does count what padding computes.
        mask: Any = inputs["attention_mask"] if balances else None
        if "position_ids" in inputs:
            packing = {"cu_seq_lens_q": places.bounds, "cu_seq_lens_k": places.bounds}
            packing["max_length_q"] = packing["max_length_k"] = max(places.lengths)
            packing["position_ids"] = inputs["position_ids"]
            packed = attention_implementation(decoder.config) == packed_attention.NAME
            mask = embeds.new_empty(1, 1, 0, 0) if packed else None  # four axes: transformers shall build no mask
        if self.window is not None:
            mask, packing = attention_inputs(decoder.config, inputs["labels"], self.window, packing, embeds.dtype)
        recorder: Any = nullcontext()
        if balances:
            from deepsynth.models.deepseek_ocr.balance import RouterRecorder

            recorder = RouterRecorder(decoder, active=True)
        # Its own name where no mask is needed: see register_causal_attention.
        causal = mask is None and attention_implementation(decoder.config) == "sdpa" and sees_all(decoder.config)
        with recorder, implementations(decoder.config, attention=CAUSAL_ATTENTION) if causal else nullcontext():
            hidden = decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **packing).last_hidden_state
        if not balances:
            return hidden, None
        return hidden, coefficient * self._balance(recorder.logits, inputs, places)

    def _balance(
        self, logits: list[torch.Tensor], inputs: dict[str, torch.Tensor], places: TokenPlaces
    ) -> torch.Tensor:
        """Return the balance loss of the rows, or of the sequences of a packed row, padding left out."""
        from deepsynth.models.deepseek_ocr.balance import balance_loss

        top_k = self.base.config.text_config.num_experts_per_tok
        if places.bounds is None:
            return balance_loss(logits, top_k, batch_size=len(inputs["labels"]))
        parts = zip(*(torch.split(layer, list(places.lengths)) for layer in logits), strict=True)
        losses = [
            balance_loss(list(part), top_k, batch_size=1) for part, own in zip(parts, places.used, strict=True) if own
        ]
        return torch.stack(losses).mean()

    def _insert(self, embeds: torch.Tensor, mask: torch.Tensor, slots: int, features: torch.Tensor) -> torch.Tensor:
        if slots != len(features):
            raise ValueError(
                f"the prompts hold {slots} image tokens (id {self.base.config.image_token_id}) but the images make "
                f"{len(features)} features; count them with deepsynth.models.tokens.ImageLayout.tokens"
            )
        return embeds.masked_scatter(mask[..., None], features.to(embeds))

    # ------------------------------------------------------------------ vision

    def image_features(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the features (tokens, H) of each of V images."""
        images = {name: inputs[name] for name in _IMAGE_INPUTS if name in inputs}
        if not self.frozen_vision:
            return self.family.image_features(self.base.model, images)
        with torch.no_grad():
            pixels = images["pixel_values"]
            tiles_of = images["num_local_patches"].tolist() if "num_local_patches" in images else [0] * len(pixels)
            if self.cache is None:
                return self._encode(images, list(range(len(pixels))), tiles_of)
            keys = image_keys(pixels, images.get("pixel_values_local"), tiles_of)
            found = {index: self.cache.get(key) for index, key in enumerate(keys)}
            missing = [index for index, kept in found.items() if kept is None]
            for index, new in zip(missing, self._encode(images, missing, tiles_of), strict=True):
                self.cache.put(keys[index], new)
                found[index] = new
            return [kept.to(pixels.device, non_blocking=True) for kept in found.values() if kept is not None]

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
            size = min(size, len(pixels))
        inner, tower = self.base.model, self.base.model.vision_tower
        # SAM fills a GPU with few images; what follows it is small, and launching it takes longer than running it.
        towers = size if self.fixed_chunks else ENCODED_AT_ONCE * size
        rest: RemainderPolicy = "filled" if self.fixed_chunks else "together"
        parts = [(tower, towers), (tower.sam_encoder, size), (inner.multi_modal_projector, towers)]
        if isinstance(self.model, FSDPModule):
            # All processes gather a layer together, and as often: each goes through its images within the layer.
            parts = [(layer, size) for layer in tower.sam_encoder.layers]
        with ExitStack() as chunks:
            for part, most in parts:
                chunks.enter_context(in_chunks(part, partial(_always, most), rest))
            return self.family.image_features(inner, own)


def _always(most: int, images: torch.Tensor) -> int:
    return most


def _gathering(module: Any, name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return the function as a method of a sharded module, which gathers the module's own weights for it."""
    setattr(module, name, function)
    register_fsdp_forward_method(module, name)
    found: Callable[..., torch.Tensor] = getattr(module, name)
    return found


def vision_tensors(base: Any) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers that have a part in the features of images, by name."""
    named = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    decoder = f"{family_of(base.config).decoder_path(base)}."
    return {
        name: tensor
        for name, tensor in named.items()
        if not name.startswith(decoder) and not name.startswith("lm_head.")
    }
