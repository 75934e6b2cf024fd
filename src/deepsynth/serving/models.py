"""A base model with several adapters, and a decoder for each."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image

from deepsynth.data import Collator, OcrProcessor
from deepsynth.errors import UserError
from deepsynth.generation import Decoder
from deepsynth.generation.cache import bytes_per_position
from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.quantization.quantize import Kind
from deepsynth.models.registry import load_pretrained
from deepsynth.modules import FullModule, PeftModule
from deepsynth.modules.adapter import adapter_settings, json_object, read_adapter, recorded_longest_target
from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.settings import Dtype, GenerationSettings
from deepsynth.modules.text_generator import LIMIT_WITHOUT_TARGETS, limit_for
from deepsynth.profiling.memory import memory_of
from deepsynth.types import Document, Page, Sample

log = logging.getLogger(__name__)

#: Pages that are encoded before the rows at work go on: more at once keep their clients waiting for tokens.
PAGES_AT_ONCE = 8
_NAME = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What requests choose by ``model``.

    Attributes:
        name: which they give.
        folder: an adapter's; ``None`` for the base model as it is.
        base: a built-in model, a local folder or a Hub repository.
        prompt: that the adapter was trained with; ``None`` for the published one.
        max_new_tokens: of a text.
    """

    name: str
    folder: Path | None
    base: str
    prompt: str | None = None
    max_new_tokens: int = LIMIT_WITHOUT_TARGETS

    @classmethod
    def of(cls, name: str, folder: Path, base: str | None, max_new_tokens: int | None) -> ServedModel:
        """Return what a folder holds: an adapter, or a whole model.

        Args:
            name: for requests.
            folder: of :meth:`DeepSynthModule.save_adapter`, of peft, or of transformers.
            base: to take in place of the one that the adapter names.
            max_new_tokens: of a text; by default a quarter more than the longest text of the training.

        Raises:
            UserError: when it holds neither, or its files are broken.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"--ckpt_path: the name {name!r} must be letters, digits, dots and dashes: NAME=FOLDER")
        limit = max_new_tokens or limit_for(recorded_longest_target(folder))
        record = json_object(folder / "deepsynth.json") if (folder / "deepsynth.json").is_file() else {}
        prompt = record.get("prompt")
        prompt = prompt if isinstance(prompt, str) and prompt.count("<image>") == 1 else None
        if (folder / "adapter_config.json").is_file():
            stored = adapter_settings(folder).get("model_name")
            named = base or stored or json_object(folder / "adapter_config.json").get("base_model_name_or_path")
            if not isinstance(named, str):
                raise UserError(f"{folder}/adapter_config.json names no base model; give it with --model_name")
            return cls(name, folder, named, prompt, limit)
        if (folder / "config.json").is_file():
            return cls(name, None, str(folder), prompt, limit)
        raise UserError(f"--ckpt_path is {folder}, which holds no adapter_config.json and no config.json")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How the model is loaded and generates.

    Attributes:
        models: what requests may choose, all of one base; the first is the default.
        slots: texts of a model that are written at the same time.
        dtype: of the frozen weights.
        quantization: of the frozen weights.
        compile: what the decoder compiles, by ``model.generation.compile``.
        mode: resolution by name; by default that of the model's ``processor_config.json``.
        weights: ``random`` makes the architecture with random weights, to measure speed: no token ends a text.
        stop_on_repetition: whether a text that repeats itself is ended, by ``model.generation``.
    """

    models: tuple[ServedModel, ...]
    slots: int
    dtype: Dtype = "auto"
    quantization: Kind = "none"
    compile: Literal["auto", "none", "vision", "all"] = "auto"
    mode: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    stop_on_repetition: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be served together.

        Raises:
            UserError: with the models.
        """
        bases = {model.base for model in self.models}
        if len(bases) > 1:
            raise UserError(f"--ckpt_path: one service has one base model, not {', '.join(sorted(bases))}")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise UserError(f"--ckpt_path: {', '.join(names)} are not all different; name them: NAME=FOLDER")
        if self.slots < 1:
            raise UserError(f"--slots is {self.slots}; it must be at least 1")
        whole = any(model.folder is None for model in self.models)
        if len(names) > 1 and whole:
            raise UserError("--ckpt_path: several adapters of one base can be served together, but not whole models")
        if len(names) > 1 and self.quantization != "none":
            raise UserError("--quantization is for one adapter; serve several in the model's own precision")
        if whole and self.quantization != "none":
            raise UserError("--quantization is for an adapter on its base; a whole model keeps its weights")


def processor_of(settings: ModelSettings) -> OcrProcessor:
    """Return what prepares pages for the base model, without its weights.

    Raises:
        UserError: when there is no such model, or our decoder or the resolution is not for it.
    """
    base = settings.models[0].base
    processor = OcrProcessor(base, mode=settings.mode)
    processor.family.refuse("decoder", f"the model is {base}", "use deepsynth predict")
    if settings.mode is not None:
        processor.layout.check(settings.mode)
    return processor


class ModelPool:
    """The loaded model; one thread uses it.

    Args:
        settings: of the service.
        device: torch's name.
    """

    def __init__(self, settings: ModelSettings, device: str) -> None:
        self.settings = settings
        self.models = {model.name: model for model in settings.models}
        self.processor = processor_of(settings)
        self.token_budget = self.processor.token_budget
        self._collator = Collator(self.processor.pad_token_id)
        self._module = _load(settings, torch.device(device))
        if settings.weights == "random":  # each text takes all its tokens: such weights end it anywhere
            self.tokenizer.eos_token_id = self.processor.hf_processor.image_token_id
        self._decoders: dict[str, Decoder] = {}
        self._work = ExitStack()
        self._active = settings.models[0].name
        self.processor.longest_side_px  # noqa: B018  loads what threads would load at the same time

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the texts, which no other thread encodes with."""
        return self._module.processor.tokenizer

    def use(self, name: str) -> Decoder:
        """Make a model the active one and return its decoder, which belongs to it alone: graphs stay valid.

        The decoder is at work until another model is used.
        """
        if name != self._active:
            self._work.close()
            self._module.model.set_adapter(_peft_name(self.settings, name), inference_mode=True)
            self._active = name
        if name not in self._decoders:
            self._work.close()
            self._decoders[name] = self._module.text_generator.make_decoder(self.settings.slots)
        if not self._decoders[name].is_at_work:
            self._work.enter_context(self._decoders[name].at_work())
        return self._decoders[name]

    def warm_up(self) -> None:
        """Generate from blank pages with the first model, so that no client waits for what a GPU compiles and records.

        Longer texts than those of :data:`LIMIT_WITHOUT_TARGETS` tokens, and those of other models, wait at their first
        time.
        """
        name, began = self.settings.models[0].name, time.monotonic()
        try:
            longest = self._warm_up(name)
        except torch.OutOfMemoryError as error:
            self.forget(name)
            log.warning(
                "the model is not warmed up, for want of memory: lower --slots (%d). %s", self.settings.slots, error
            )
            return
        log.info("the model is warmed up after %.0f s, for texts up to %d positions", time.monotonic() - began, longest)

    def _warm_up(self, name: str) -> int:
        """Do so, and return the longest prompt with its text that is prepared for, tokens."""
        side, model = self.processor.page_side_px, self.models[name]
        blank = Page(Image.new("RGB", (side, side), "white"), "", number=0)
        sample = self.processor(Document("warm-up", "", prompt=model.prompt), [blank], prompt_only=True)
        assert sample is not None, "the processor of a service drops nothing"
        decoder, shortest = self.use(name), sample.prompt_length
        longest = min(shortest + min(model.max_new_tokens, LIMIT_WITHOUT_TARGETS), self._room(decoder.slots))
        decoder.warm_up(range(shortest, max(longest, shortest) + 1))  # first: a cache that grows later voids all graphs
        for count in range(1, min(PAGES_AT_ONCE, decoder.slots) + 1):
            for _ in range(2):  # a shape is recorded when it comes again
                self.submit(name, [sample] * count, [1] * count)
                decoder.step()
        return longest

    def _room(self, slots: int) -> int:
        """Return how many positions of so many rows take half of the free memory; no more than a sample may have."""
        row = bytes_per_position(self._module.model.config.get_text_config(), self._module.resolved_dtype)
        memory = memory_of(self._module.device)
        free = memory.limit() - memory.usage().allocated
        return min(free // 2 // (row * slots), self.token_budget)

    def submit(self, name: str, samples: Sequence[Sample], max_new_tokens: Sequence[int]) -> range:
        """Let a model begin with samples; see :meth:`Decoder.submit`."""
        decoder = self.use(name)
        batch = self._module.in_weights_dtype(self._collator(samples).to(self._module.device))
        with self._module.generation_context():
            return decoder.submit(batch, max_new_tokens)

    def forget(self, name: str) -> None:
        """Throw the decoder of a model away, with all that it was writing."""
        self._work.close()
        self._decoders.pop(name, None)


def _peft_name(settings: ModelSettings, name: str) -> str:
    """Return what peft calls an adapter: the first one ``default``, as modules do; others must not clash with it."""
    return "default" if name == settings.models[0].name else f"served_{name}".replace(".", "_")


def _load(settings: ModelSettings, device: torch.device) -> DeepSynthModule:
    """Return the base model with all adapters, on its device."""
    first = settings.models[0]
    generation = GenerationSettings(
        compile=settings.compile,
        max_new_tokens=first.max_new_tokens,
        stop_on_repetition=settings.stop_on_repetition,
    )
    module: DeepSynthModule
    if first.folder is None:
        dtype = settings.dtype
        if dtype == "auto":  # FullModule's own is for training
            resolved = PeftModule(first.base).dtype_on(device.type)
            dtype = cast(Dtype, str(resolved).removeprefix("torch."))
        module = FullModule(first.base, weights=settings.weights, dtype=dtype, generation=generation)
    else:
        module = PeftModule(
            first.base,
            adapter=str(first.folder),
            weights=settings.weights,
            dtype=settings.dtype,
            quantization=settings.quantization,
            lora=_lora_of(first.folder),
            generation=generation,
        )
    module.to(device).eval()
    module.configure_model()
    for other in settings.models[1:]:
        _add(module, other, _peft_name(settings, other.name))
    module.model.requires_grad_(False).eval()
    return module


def _lora_of(folder: Path) -> LoraSettings:
    stored = adapter_settings(folder)
    shape = {key.removeprefix("lora."): value for key, value in stored.items() if key.startswith("lora.")}
    return replace(LoraSettings(), **shape)


def _add(module: DeepSynthModule, model: ServedModel, name: str) -> None:
    """Load a further adapter."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    assert model.folder is not None, "the settings have been checked"
    with torch.device("meta"):  # the parts are found in a model without adapters
        base = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, model.base))
    module.model.add_adapter(name, lora_config(base, _lora_of(model.folder), base_model_name=model.base))
    read_adapter(module.model, model.folder, name)
