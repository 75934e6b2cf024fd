"""Prompts and targets of a family as tokens, with the model inputs of their pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from deepsynth.data.processing.pixel_lookup import AS_BYTES, PatchTable, ViewTable, patch_table, view_table
from deepsynth.errors import UserError
from deepsynth.models import chat_template
from deepsynth.models.family import Family
from deepsynth.models.markup import text_codec
from deepsynth.models.prompts import BOX_TOKENS, BOXED, OWN_PROMPTS
from deepsynth.models.tokens import ImageLayout, Layout


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt with its pages.

    Attributes:
        ids: P tokens, those of images among them.
        images: model inputs of the pages by Hugging Face's own names.
        token_inputs: model inputs with a value for each token, (P,).
        pixel_table: values of views or patches that are bytes; ``None`` when ``images`` has values.
    """

    ids: list[int]
    images: dict[str, torch.Tensor]
    token_inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    pixel_table: torch.Tensor | None = None


class Prompts(ABC):
    """Encodes the prompts and targets of a family.

    Args:
        family: of the model.
        hf_processor: Hugging Face's.
        layout: of its images.
    """

    def __init__(self, family: Family, hf_processor: Any, layout: Layout) -> None:
        self.family, self.hf_processor, self.layout = family, hf_processor, layout

    @abstractmethod
    def encode(self, prompt: str, images: Sequence[Image.Image]) -> EncodedPrompt:
        """Return a prompt with its pages: all where ``<image>`` stands once, else each at its own."""

    @abstractmethod
    def target_ids(self, target: str) -> list[int]:
        """Return what the model is to write behind a prompt: the target and what ends it."""


class ViewPrompts(Prompts):
    """``[bos] image tokens, prompt, target, [eos]``; the number of image tokens is that of the layout."""

    layout: ImageLayout

    @cached_property
    def _view_table(self) -> ViewTable | None:
        return view_table(self.hf_processor.image_processor, self.layout)

    def encode(self, prompt: str, images: Sequence[Image.Image]) -> EncodedPrompt:
        """Return a prompt with its pages, views as bytes where the processor's values follow from them."""
        outputs, table = self._views(images)
        tensors = {name: torch.as_tensor(value) for name, value in outputs.items()}
        return EncodedPrompt(self._prompt_ids(prompt, images), tensors, pixel_table=table)

    def _views(self, images: Sequence[Image.Image]) -> tuple[Mapping[str, torch.Tensor], torch.Tensor | None]:
        """Return the outputs of the image processor for the pages, and the table of their values if they are bytes."""
        image_processor = self.hf_processor.image_processor
        if self._view_table:
            return self._view_table(images, image_processor), self._view_table.values
        outputs = image_processor(images=list(images), return_tensors="pt", **self.layout.processor_kwargs())
        return outputs, None

    def _prompt_ids(self, prompt: str, images: Sequence[Image.Image]) -> list[int]:
        texts = prompt.split("<image>")
        image_token = self.hf_processor.image_token_id
        ids = [int(self.hf_processor.tokenizer.bos_token_id), *self._encode(texts[0])]
        for number, image in enumerate(images):
            ids += [image_token] * self.layout.tokens(*image.size)
            if len(texts) > 2:
                ids += self._encode(texts[number + 1])
        return ids if len(texts) > 2 else ids + self._encode(texts[1])

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []  # on both sides of most prompts
        ids = self.hf_processor.tokenizer.encode(text, add_special_tokens=False)
        return [int(i) for i in ids]

    def target_ids(self, target: str) -> list[int]:
        """Return the target and EOS."""
        tokenizer = self.hf_processor.tokenizer
        return [*text_codec(tokenizer).encode(target), tokenizer.eos_token_id]


class ChatPrompts(Prompts):
    """A turn of the processor's chat template, and what the template adds for an answer."""

    @cached_property
    def _frame(self) -> chat_template.AnswerFrame:
        return chat_template.answer_frame(self.hf_processor, self.family.chat_template)

    @cached_property
    def _patch_table(self) -> PatchTable | None:
        return patch_table(self.hf_processor.image_processor) if self.family.by_grid else None

    def encode(self, prompt: str, images: Sequence[Image.Image]) -> EncodedPrompt:
        """Return a prompt with its pages, as the processor writes them out."""
        messages = chat_template.turn(prompt, len(images))
        text = chat_template.render(self.hf_processor, messages, self.family.chat_template, asks=True)
        table = self._patch_table
        options = self.layout.processor_kwargs() if table is None else AS_BYTES
        outputs = chat_template.model_inputs(self.hf_processor, text, images, options)
        ids, mask = outputs.pop("input_ids")[0], outputs.pop("attention_mask", None)
        assert mask is None or bool(mask.all()), "one prompt needs no padding"
        tensors = {name: torch.as_tensor(value) for name, value in outputs.items()}
        token_inputs = {name: value[0] for name, value in tensors.items() if value.shape == (1, len(ids))}
        own = {name: value for name, value in tensors.items() if name not in token_inputs}
        if table is None:
            return EncodedPrompt(ids.tolist(), own, token_inputs)
        if "pixel_values" in own:
            own["pixel_values"] = table.pack(own["pixel_values"])
        return EncodedPrompt(ids.tolist(), own, token_inputs, table.values)

    def target_ids(self, target: str) -> list[int]:
        """Return the target in the frame that the template gives an answer."""
        tokenizer, before = self.hf_processor.tokenizer, self._frame.before
        if not before.strip():
            return [*text_codec(tokenizer).encode(before + target), *self._frame.end]
        ids = [int(index) for index in tokenizer.encode(before, add_special_tokens=False)]
        return [*ids, *text_codec(tokenizer).encode(target), *self._frame.end]


def prompts_of(family: Family, hf_processor: Any, layout: Layout) -> Prompts:
    """Return what encodes the prompts of a family."""
    kind = ViewPrompts if family.inputs == "views" else ChatPrompts
    return kind(family, hf_processor, layout)


def check_boxes(family: Family, tokenizer: Any, kinds: Collection[str]) -> None:
    """Refuse kinds of targets whose boxes are written in tokens that neither a family nor a tokenizer has.

    As text each of these tokens would take several, and the document's own text could hold them.

    Raises:
        UserError: with the kind and the tokens.
    """
    known = {*family.markup, *map(str, tokenizer.added_tokens_decoder.values())}
    missing = [token for token in BOX_TOKENS if token not in known]
    boxed = [kind for kind in kinds if kind in BOXED]
    if boxed and missing:
        raise UserError(
            f"data.target is {boxed[0]!r}, whose boxes are written in {', '.join(missing)}, which are no tokens of "
            f"{family.title}; set data.target=markdown, or use a model of DeepSeek-OCR's lineage"
        )


def unpublished(family: Family, kinds: Collection[str]) -> str:
    """Return one line on kinds that a family has no published prompt for, with what is asked; "" where it has all."""
    own = {kind: family.prompt(kind) for kind in kinds if kind in OWN_PROMPTS and kind not in family.prompts}
    asked = ", ".join(f"{kind} is asked for by {prompt!r}" for kind, prompt in own.items())
    return f"{family.title} has no published prompt for every kind of data.target: {asked}" if asked else ""
