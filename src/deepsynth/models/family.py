"""What DeepSynth has to know about a kind of model; ``deepsynth.models.families`` has one file for each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from deepsynth.errors import UserError
from deepsynth.models import chat_template
from deepsynth.models.prompts import OWN_PROMPTS
from deepsynth.models.tokens import CountedLayout, Layout

if TYPE_CHECKING:
    import torch
    from torch import nn

#: What of the engine may work for a family; ``FEATURES`` says what each is.
Feature = Literal[
    "loss",
    "frozen_vision",
    "vision_cache",
    "packing",
    "experts",
    "kernels",
    "layers",
    "compile",
    "quantization",
    "decoder",
    "sharding",
    "unsloth",
    "flops",
    "published",
    "vllm_lora",
]
#: The features in words.
FEATURES: dict[Feature, str] = {
    "loss": "loss without logits",
    "frozen_vision": "vision in chunks without a graph",
    "vision_cache": "vision cache",
    "packing": "packing",
    "experts": "adapters on routed experts",
    "kernels": "kernels",
    "layers": "activation memory",
    "compile": "compiled layers",
    "quantization": "4 and 8 bits",
    "decoder": "DeepSynth's decoder",
    "sharding": "FSDP2",
    "unsloth": "Unsloth",
    "flops": "MFU",
    "published": "published format",
    "vllm_lora": "adapters for vLLM",
}

#: The scopes of ``model.lora`` that are expressions; ``vision`` and ``projector`` are all linear layers of these parts.
Scope = Literal["attention", "mlp", "experts=shared"]


@dataclass(frozen=True)
class PublishedModel:
    """Weights that can be downloaded.

    Attributes:
        repository: on the Hub, ``owner/name``.
        parameters: how many, such as ``3.3 B``.
        license: of the weights, by its SPDX identifier where it has one.
    """

    repository: str
    parameters: str
    license: str


def decoder_scopes(layer: str, mlp: str = "gate_proj|up_proj|down_proj") -> dict[Scope, str]:
    """Return the usual LoRA scopes of a decoder.

    Args:
        layer: expression for the name of one of its layers.
        mlp: names of the linear layers of its dense MLP.
    """
    return {
        "attention": rf"{layer}\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        "mlp": rf"{layer}\.mlp\.({mlp})",
    }


@dataclass(frozen=True, eq=False)
class Family:
    """A kind of model: how it is recognized, prompted and adapted, and what of the engine works for it.

    Attributes:
        name: key in ``FAMILIES``.
        title: for tables and messages.
        model_types: the ``model_type`` that a configuration may have.
        architectures: one of which must be listed where a configuration lists any: others may share the type.
        published: weights that can be downloaded, the one to name in messages first.
        inputs: how prompts are made: of square ``views`` and their tokens, or by the processor's ``chat`` template.
        chat_template: Jinja template for processors that have none.
        prompts: published ones by task or kind of target, with ``<image>`` for the pages.
        own_prompts: for kinds that none is published for.
        tables: what the target ``table`` is written in, as the published model writes it.
        markup: special tokens that belong to texts: they are tokens in targets, and stay in predictions.
        repeatable: markup that may follow itself for as long as it likes.
        modes: resolutions by name.
        decoder: module path of the decoder in the model.
        vision: module paths of the vision encoder.
        projector: module paths of what stands between the two.
        lora: expressions for whole module names, by scope of ``model.lora``.
        page_tokens: how many tokens a page takes, in words, where there are no modes.
        unsupported: features that do not work, each with the reason.
        has_sdpa: whether all parts have torch's attention; else transformers chooses for each part what it has.
        file_prefix: what adapter files leave out of module names behind ``base_model.model.model.``: peft passes each
            name through transformers' renaming of published checkpoints, which would double it.
        by_grid: whether images are rows of patches with ``image_grid_thw``, by which tokens have three positions.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    published: tuple[PublishedModel, ...] = ()
    inputs: Literal["views", "chat"] = "chat"
    chat_template: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    own_prompts: Mapping[str, str] = field(default_factory=lambda: OWN_PROMPTS)
    tables: Literal["html", "otsl"] = "html"
    markup: tuple[str, ...] = ()
    repeatable: tuple[str, ...] = ()
    modes: Mapping[str, Layout] = field(default_factory=dict)
    page_tokens: str = "as its processor says"
    decoder: str = "model.language_model"
    vision: tuple[str, ...] = ("model.vision_tower",)
    projector: tuple[str, ...] = ("model.multi_modal_projector",)
    lora: Mapping[Scope, str] = field(default_factory=partial(decoder_scopes, r"model\.language_model\.layers\.\d+"))
    unsupported: Mapping[Feature, str] = field(default_factory=dict)
    has_sdpa: bool = True
    file_prefix: str = ""
    by_grid: bool = False

    def matches(self, config: Any) -> bool:
        """Return whether a configuration is that of the family."""
        listed = getattr(config, "architectures", None)
        known = not listed or not self.architectures or bool(set(listed) & set(self.architectures))
        return getattr(config, "model_type", None) in self.model_types and known

    # ------------------------------------------------------------------ inputs

    def prompt(self, kind: str) -> str:
        """Return the prompt of a task or of a kind of target: the published one, else DeepSynth's own."""
        return self.prompts.get(kind) or self.own_prompts[kind]

    def processor_class(self) -> Any:
        """Return the class of the processor; ``None`` for the one that ``AutoProcessor`` finds."""
        return None

    def layout(self, hf_processor: Any, mode: str | None = None) -> Layout:
        """Return how images become tokens.

        Args:
            hf_processor: Hugging Face's.
            mode: a key of ``modes``; ``None`` takes what the processor's own configuration says.

        Raises:
            UserError: for a mode that the family does not have.
        """
        self.check_mode(mode)
        if mode is not None:
            return self.modes[mode]
        return CountedLayout(partial(chat_template.count_image_tokens, hf_processor, self.chat_template))

    def check_mode(self, mode: str | None) -> None:
        """Refuse a mode that the family does not have.

        Raises:
            UserError: with those that it has.
        """
        if mode is not None and mode not in self.modes:
            raise UserError(f"mode is {mode!r}; {self.title} has {', '.join(self.modes) or 'no modes: leave it out'}")

    def answer_prefix(self, hf_processor: Any) -> str:
        """Return what a generated text begins with, which is no part of the answer."""
        if self.inputs == "views":
            return ""
        return chat_template.answer_frame(hf_processor, self.chat_template).before

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return model inputs as the family's model takes them: most take tensors on one device.

        Grids of patches, which a batch keeps on the host, are moved there.
        """
        if "image_grid_thw" not in inputs:
            return dict(inputs)
        return {**inputs, "image_grid_thw": inputs["image_grid_thw"].to(inputs["pixel_values"].device)}

    def image_features(self, model: Any, images: Mapping[str, Any]) -> list[torch.Tensor]:
        """Return the features (tokens, H) of each image by the model's own method."""
        return list(model.get_image_features(**self.arguments(images)).pooler_output)

    def stop_ids(self, hf_processor: Any, model: Any) -> tuple[int, ...]:
        """Return the ids that end a text, first the one that targets end with.

        They are the tokenizer's; by a chat template also those that the template and the model's own settings say.
        """
        eos = hf_processor.tokenizer.eos_token_id
        if self.inputs == "views":
            return (int(eos),)
        end = chat_template.answer_frame(hf_processor, self.chat_template).end[-1]
        own = getattr(model.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [own]
        return tuple(dict.fromkeys(int(index) for index in (end, eos, *own) if index is not None))

    # ------------------------------------------------------------------ parts

    def decoder_path(self, model: nn.Module) -> str:
        """Return the module path of the decoder of a model."""
        return self.decoder

    def decoder_of(self, model: nn.Module) -> Any:
        """Return the decoder of a model, which has ``layers``."""
        return model.get_submodule(self.decoder_path(model))

    def window(self, config: Any) -> int | None:
        """Return how many of the tokens behind the prompt a token attends to, itself included; ``None``: to all.

        The prompt is always seen as a whole.
        """
        return None

    def vision_paths(self, model: nn.Module) -> tuple[str, ...]:
        """Return the module paths of the vision encoder of a model."""
        return self.vision

    def vision_of(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules of the vision encoder of a model."""
        return [model.get_submodule(path) for path in self.vision_paths(model)]

    def scopes(self, model: nn.Module) -> Mapping[Scope, str]:
        """Return expressions for whole module names, by scope of ``model.lora``."""
        return self.lora

    # ------------------------------------------------------------------ what works

    def supports(self, feature: Feature) -> bool:
        """Return whether a feature of the engine works."""
        return feature not in self.unsupported

    def refuse(self, feature: Feature, setting: str, way_out: str) -> None:
        """Refuse a setting that asks for a feature that does not work.

        Args:
            feature: that is asked for.
            setting: with its value, such as ``model.engine.loss is liger``.
            way_out: what to set instead.

        Raises:
            UserError: with the reason.
        """
        if feature in self.unsupported:
            raise UserError(f"{setting}, which does not work for {self.title} ({self.unsupported[feature]}); {way_out}")

    def without(self) -> str:
        """Return what does not work, with the reasons; nothing when all does."""
        reasons: dict[str, list[str]] = {}
        for feature, reason in self.unsupported.items():
            reasons.setdefault(reason, []).append(FEATURES[feature])
        return "; ".join(f"{', '.join(features)} ({reason})" for reason, features in reasons.items())

    def note(self) -> str:
        """Return one line on what does not work in a run, for its start; nothing when all does."""
        rare = {"experts", "published", "vllm_lora"}  # who asks for one of these is refused
        return f"not for {self.title}: {self.without()}" if set(self.unsupported) - rare else ""

    # ------------------------------------------------------------------ names in adapter files

    def to_file_name(self, name: str) -> str:
        """Return the name that a parameter of the adapter has in a file."""
        return re.sub(rf"^(base_model\.model\.model\.){re.escape(self.file_prefix)}", r"\1", name)
