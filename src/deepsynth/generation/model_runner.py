"""The model's parts as decoding needs them: pages to features, prompts into the cache, one more token a row.

Layers, adapters and quantized weights are called as they are; what runs around them is leaner than ``forward``.

    N  samples      T  tokens of a prompt, padded at the right
    R  rows         H  width of the decoder
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import zip_longest
from typing import Any

import torch

from deepsynth.compat.torch import own_parameters
from deepsynth.compat.transformers import cache_name, implementations
from deepsynth.errors import UserError
from deepsynth.generation.cache import RowCache
from deepsynth.generation.prompt import Prompt
from deepsynth.models.engine.fast_paths import GenerationPaths
from deepsynth.models.engine.layer_runner import transformer_layers
from deepsynth.models.engine.vision_chunks import (
    ENCODED_AT_ONCE,
    CompiledLayers,
    GraphRunner,
    RemainderPolicy,
    by_graph,
    in_chunks,
)
from deepsynth.models.kernels import frozen_experts, sam_attention
from deepsynth.models.registry import family_of

log = logging.getLogger(__name__)

#: Patches of views or tiles that vision encodes at once, by type of device: enough to fill a GPU (4096 are a page of
#: 1024² pixels), and no more than a CPU has in its caches: SAM's attention keeps numbers for pairs of patches.
VISION_PATCHES = {"cuda": 4 * 4096, "cpu": 2 * 4096}


class ModelRunner:
    """A model of a family whose layers are known, taken apart for decoding.

    Args:
        model: the model, or peft's around it.
        compile_vision: compile the layers of its vision encoders, which takes a minute or so for the first page.

    Raises:
        UserError: when it has other parts; :meth:`fits` says so beforehand.
    """

    def __init__(self, model: Any, *, compile_vision: bool = False) -> None:
        if not self.fits(model):
            raise UserError(
                f"{type(model).__name__} is no model whose parts the decoder of this package knows; "
                "use model.generation.implementation=transformers"
            )
        self.model = _base(model)
        self.text = self.model.model.language_model
        self.head = self.model.get_output_embeddings()
        self.family = family_of(self.model.config)
        self.layers = list(self.text.layers)
        self.image_token_id: int = self.model.config.image_token_id
        self.prepare_vision(compiled=compile_vision)
        self._modules: tuple[Any, ...] = ()
        self._tuned: list[Any] = []
        self._cache_name = cache_name()
        #: Runs a function of tensors as a captured graph, where there are graphs.
        self.captured: GraphRunner | None = None

    def prepare_vision(self, *, compiled: bool) -> None:
        """Find the fast paths of the model, and compile the layers of its vision encoders if that is asked for."""
        tower = self.model.model.vision_tower
        #: What stands in for forward methods while the model generates.
        self.fast_paths = GenerationPaths(self.text, tower)
        #: The compiled layers of vision, if there are such.
        self.compiled_vision: CompiledLayers | None = CompiledLayers(transformer_layers(tower)) if compiled else None

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether a model, or the one in peft's, is of a family that is known, whole on this process."""
        base = _base(model)
        if not hasattr(base, "config") or not family_of(base.config).supports("decoder"):
            return False
        return not any(hasattr(parameter, "device_mesh") for parameter in base.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.text.embed_tokens.weight.device
        return device

    @property
    def compiles_vision(self) -> bool:
        """Whether the layers of the vision encoder run compiled."""
        return self.compiled_vision is not None

    def fingerprint(self) -> int:
        """Return a number that changes with all that a captured step has fixed.

        That is where weights are, which adapters are merged or active and how much they count, and autocast.
        """
        modules = self._look()
        parameters = (parameter for module in modules for parameter in own_parameters(module))
        places = tuple(parameter.data_ptr() for parameter in parameters if parameter is not None)
        adapters = tuple(
            (
                *(tuple(module.merged_adapters), tuple(module.active_adapters), module.disable_adapters),
                tuple(module.scaling.items()),
            )
            for module in self._tuned
        )
        kind = self.device.type
        return hash((places, adapters, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)))

    def _look(self) -> tuple[Any, ...]:
        """Return the modules that there are; when they are others than the last time, find what is to be known."""
        modules = tuple(self.model.modules())
        if modules != self._modules:
            self._modules = modules
            self._tuned = [module for module in modules if hasattr(module, "merged_adapters")]
            self.fast_paths.refresh()
        return modules

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Switch to evaluation, to attention that takes a mask, and to experts that read only what is hit.

        Grouped products were the quickest on the CPU too, and copy no weight, as ``batched_mm`` does for every token.
        """
        training = [module for module in self._look() if module.training]
        for module in training:
            module.training = False
        frozen_experts.register()
        try:
            # Triton launches where torch stands.
            on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
            chosen = implementations(self.text.config, attention="sdpa", experts=frozen_experts.ALWAYS)
            with chosen, on_device, self.fast_paths.installed():
                yield
        finally:
            for module in training:
                module.training = True

    # ------------------------------------------------------------------ vision

    def prompts(self, inputs: dict[str, torch.Tensor]) -> list[Prompt]:
        """Encode the pages of a batch and return its N prompts.

        Args:
            inputs: what ``generate(**inputs)`` takes, left-padded (``Batch.prompts``).

        Raises:
            ValueError: when image tokens and features are not as many.
        """
        ids, masks = inputs["input_ids"], inputs["attention_mask"].bool()
        # Read once for all: each time the host waits for the device, other threads of a service may keep it waiting.
        lengths, counts = torch.stack((masks.sum(1), ((ids == self.image_token_id) & masks).sum(1))).tolist()
        rows = [row[len(row) - length :] for row, length in zip(ids, lengths, strict=True)]
        pixels = inputs.get("pixel_values")
        if pixels is None or not len(pixels):
            if sum(counts):
                raise ValueError(f"the prompts hold {sum(counts)} image tokens but there is no page")
            return [Prompt(row, None) for row in rows]
        features = torch.cat(self.image_features(inputs))
        if len(features) != sum(counts):
            raise ValueError(
                f"the prompts hold {sum(counts)} image tokens (id {self.image_token_id}) but the pages make "
                f"{len(features)} features"
            )
        parts = torch.split(features, counts)
        return [Prompt(row, part if len(part) else None) for row, part in zip(rows, parts, strict=True)]

    def image_features(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the features (image tokens, H) of each page."""
        images = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        if not len(images.get("pixel_values_local", ())):
            images.pop("pixel_values_local", None)
        if self.compiled_vision is not None:
            try:
                with self.compiled_vision.installed():
                    return self._encode(images, "single")
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.compiled_vision = None
                reason = " ".join(str(error).split("\n")[:2])
                log.warning("generation encodes pages without torch.compile, which failed: %s", reason)
        return self._encode(images, "together")

    def _encode(self, images: dict[str, torch.Tensor], rest: RemainderPolicy) -> list[torch.Tensor]:
        tower = self.model.model.vision_tower
        compiled = rest == "single"

        def of_sam(pixels: torch.Tensor) -> int:
            # Twice as many where its bias is not in memory; but what is compiled runs those that are left one by one.
            return self._images_at_once(pixels) * (2 if sam_attention.has_kernel(pixels) and not compiled else 1)

        with (
            by_graph(tower, self.captured, several=compiled),  # then there are but two numbers of images
            in_chunks(tower, lambda pixels: self._images_at_once(pixels) * (1 if compiled else ENCODED_AT_ONCE), rest),
            in_chunks(tower.sam_encoder, of_sam, "together"),
        ):
            return self.family.image_features(self.model, images)

    def _images_at_once(self, pixels: torch.Tensor) -> int:
        patch = int(self.model.config.vision_config.sam_config.patch_size)
        patches = pixels.shape[-1] * pixels.shape[-2] // patch**2
        most = VISION_PATCHES.get(pixels.device.type, VISION_PATCHES["cpu"])
        return max(most // max(patches, 1), 1)

    # ------------------------------------------------------------------ decoder

    def embed(self, prompts: list[Prompt]) -> tuple[torch.Tensor, ...]:
        """Return what the decoder sees of prompts, (N, T, H) padded at the right, and where each ends (N,).

        What a subclass returns besides is for its :meth:`prefill`.
        """
        embed = self.text.embed_tokens
        rows = []
        for prompt in prompts:
            row = embed(prompt.ids)
            if prompt.features is not None:
                images = (prompt.ids == self.image_token_id)[:, None]
                row = row.masked_scatter(images, prompt.features[:, : row.shape[-1]].to(row.dtype))
            rows.append(row)
        hidden = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return hidden, torch.tensor([len(prompt) - 1 for prompt in prompts], device=hidden.device)

    def prefill(self, hidden: torch.Tensor, slots: torch.Tensor, last: torch.Tensor, cache: RowCache) -> torch.Tensor:
        """Write prompts into slots of the cache and return the first token of each text, (N, 2) as :meth:`step`.

        Args:
            hidden: (N, T, H), see :meth:`embed`.
            slots: (N,) of the cache.
            last: (N,) where each prompt ends.
            cache: with room for T positions.
        """
        cache.fill(slots)
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        # Padding stands at the right, where causality alone hides it; later tokens overwrite what it left behind.
        return self._next_after(self._run(hidden, positions, None, cache), last)

    def _next_after(self, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Return the next token of prompts (N, T, H) that end at ``last`` (N,)."""
        return self._next(hidden[torch.arange(len(last), device=hidden.device), last])

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, cache: RowCache, seen: int) -> torch.Tensor:
        """Return the next token of each row and its log-probability, (R, 2); shapes and places are fixed.

        Args:
            tokens: (R,) the last token of each row.
            positions: (R,) theirs in the texts.
            cache: of the rows; it gets their keys and values.
            seen: number of places in the cache that attention covers, at least ``cache.needed`` of the positions.
        """
        places, last = cache.places(positions)
        cache.extend(len(tokens), places, seen)
        mask = (torch.arange(seen, device=tokens.device) <= last[:, None])[:, None, None]
        hidden = self._run(self.text.embed_tokens(tokens[:, None]), positions[:, None], mask, cache)
        return self._next(hidden[:, -1])

    def aligned_step(self, tokens: torch.Tensor, position: int, cache: RowCache) -> torch.Tensor:
        """Do as :meth:`step` for rows that all are at the same place: no mask, and nothing is looked at in vain."""
        cache.extend(len(tokens), position, position + 1)
        positions = torch.full((1, 1), position, device=tokens.device)
        hidden = self._run(self.text.embed_tokens(tokens[:, None]), positions, None, cache)
        return self._next(hidden[:, -1])

    def _run(
        self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: RowCache
    ) -> torch.Tensor:
        return self._through_layers(hidden, self.text.rotary_emb(hidden, positions), positions, mask, cache)

    def _through_layers(
        self, hidden: torch.Tensor, rotation: Any, positions: Any, mask: Any, cache: RowCache, added: Any = ()
    ) -> torch.Tensor:
        """Return what the layers make of hidden states (N, T, H); those of ``added`` join behind the first layers."""
        others = {"position_ids": positions, "position_embeddings": rotation, self._cache_name: cache}
        for layer, more in zip_longest(self.layers, added):
            hidden = layer(hidden, attention_mask=mask, use_cache=True, **others)
            hidden = hidden if more is None else hidden + more
        return hidden

    def _next(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the likeliest token after hidden states (N, H) and its log-probability, (N, 2)."""
        chosen = (logits := self.head(self.text.norm(hidden)).float()).argmax(-1, keepdim=True)
        # One tensor, as the host waits once; float32 is exact for ids below 2^24.
        return torch.cat((chosen, logits.gather(-1, chosen) - logits.logsumexp(-1, keepdim=True)), -1)


def _base(model: Any) -> Any:
    """Return the model in peft's wrapper, its layers still adapted; another model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
