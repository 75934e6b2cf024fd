"""The forward pass of training: what a step needs and nothing else.

    B  samples     T  tokens of a row     V  images of the batch     H  width of the decoder     L  label positions

The model's own ``forward`` encodes images with a graph for gradients that nobody wants, hands the decoder a mask that
right-padded causal attention does not need, and projects every position, prompts and images too, on the vocabulary.
This one encodes frozen images without a graph, a few pages at a time or not at all (``feature_cache``), runs the
decoder, and projects the positions that have a label, a chunk at a time (``linear_cross_entropy``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
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
from deepsynth.models.engine.feature_cache import FeatureCache
from deepsynth.models.engine.image_features import ImageFeatures
from deepsynth.models.engine.token_places import TokenPlaces, find_places
from deepsynth.models.engine.written_window import attention_inputs, whole_mask
from deepsynth.models.kernels import packed_attention
from deepsynth.models.kernels.linear_cross_entropy import Loss, linear_cross_entropy

#: What decoders attend by in training where rows are not packed, in transformers' table of attention functions.
CAUSAL_ATTENTION = "sdpa_causal"


class TrainingForward(ImageFeatures):
    """Computes the mean loss over label tokens, as the model's own ``forward`` would.

    The balance loss of DeepSeek-OCR's experts is added where the model trains with it.

    Args:
        model: of a family whose loss is computed without logits, or peft's model around one; others compute ``plain``.
        loss: ``plain`` calls the model itself; ``auto`` is ``liger`` on CUDA where it is installed, else ``chunked``.
        vision_chunk: see :class:`ImageFeatures`, and so are the others.
        cache: see there.
        fast_paths: see there.

    Raises:
        UserError: for liger-kernel where it is not installed, and as :class:`ImageFeatures` does.
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
        super().__init__(model, vision_chunk=vision_chunk, cache=cache, fast_paths=fast_paths)
        if not self.family.supports("loss"):
            loss = "plain"
        self.window = self.family.window(self.base.config)
        self.loss = loss
        self._run, self._head_loss = self._compute, self._project
        if isinstance(model, FSDPModule):
            self._run = _gathering(model, "training_loss", self._compute)
            if isinstance(self.base.lm_head, FSDPModule):
                self._head_loss = _gathering(self.base.lm_head, "linear_cross_entropy", self._project)
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
            return self._run(inputs, self.find_places(inputs, on_host))

    def find_places(
        self, inputs: dict[str, torch.Tensor], on_host: Mapping[str, torch.Tensor] | None = None
    ) -> TokenPlaces:
        """Return the places of the tokens of inputs, found on the host where the tokens are there too."""
        grids, merge = inputs.get("image_grid_thw") if self.family.by_grid else None, 1
        if grids is not None:
            merge = int(self.base.config.vision_config.spatial_merge_size)
        device = inputs["labels"].device
        return find_places(on_host or inputs, self.base.config.image_token_id, device, grids, merge)

    def _compute(self, inputs: dict[str, torch.Tensor], places: TokenPlaces) -> torch.Tensor:
        hidden, balance = self._decode(inputs, places)
        states = hidden.flatten(0, 1).index_select(0, places.predicting)
        loss = self._head_loss(states, inputs["labels"].flatten().index_select(0, places.predicting + 1))
        return loss if balance is None else loss + balance

    def _project(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        liger = self.loss == "liger" or (self.loss == "auto" and hidden.is_cuda and liger_kernel.is_installed())
        return linear_cross_entropy(hidden, self.base.get_output_embeddings().weight, labels, liger=liger)

    def _plain(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if "position_ids" in inputs:
            positions = self.find_places(inputs).positions  # transformers' own count is for whole rows
            # It sees that a row is packed only where there is no mask.
            inputs = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
            if positions is not None:
                inputs["position_ids"] = positions
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
        decoder = self.family.decoder_of(self.base)
        embeds = decoder.embed_tokens(inputs["input_ids"])
        packing: dict[str, Any] = {}
        if "position_ids" in inputs:
            packing = {"cu_seq_lens_q": places.bounds, "cu_seq_lens_k": places.bounds}
            packing["max_length_q"] = packing["max_length_k"] = max(places.lengths)
            packing["position_ids"] = inputs["position_ids"]
        if len(inputs.get("pixel_values", ())):
            images = inputs["input_ids"] == self.base.config.image_token_id
            if places.positions is not None:
                packing["position_ids"] = places.positions
            features, *added = torch.split(torch.cat(self.image_features(inputs)), embeds.shape[-1], dim=-1)
            embeds = self._insert(embeds, images, places.slots, features)
            if added:  # by the first layers of the decoder
                packing |= {"visual_pos_masks": images, "deepstack_visual_embeds": added}
        own = self.base.config.model_type == "deepseek_ocr"
        coefficient = self.base.config.router_aux_loss_coef if own else 0.0
        balances = coefficient > 0 and self.base.training
        # Causal attention never looks at padding on the right. The balance loss does count what padding computes.
        mask: Any = inputs["attention_mask"] if balances else None
        if "position_ids" in inputs:
            packed = attention_implementation(decoder.config) == packed_attention.NAME
            mask = embeds.new_empty(1, 1, 0, 0) if packed else None  # four axes: transformers shall build no mask
        if self.window is not None:
            mask, packing = attention_inputs(decoder.config, places, self.window, packing, embeds)
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


def _gathering(module: Any, name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return the function as a method of a sharded module, which gathers the module's own weights for it."""
    setattr(module, name, function)
    register_fsdp_forward_method(module, name)
    found: Callable[..., torch.Tensor] = getattr(module, name)
    return found
