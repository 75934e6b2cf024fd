"""Samples of pages: prompt, image tokens, labels and pixels.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from deepsynth.data.processing.prompts import EncodedPrompt, Prompts, check_boxes, prompts_of, unpublished
from deepsynth.errors import UserError
from deepsynth.io.paged_file import PagedFile
from deepsynth.metrics.otsl import html_to_otsl
from deepsynth.models.family import Family
from deepsynth.models.prompts import OWN_PROMPTS
from deepsynth.models.registry import family_of_model, load_pretrained
from deepsynth.models.tokens import Layout
from deepsynth.types import Document, Page, Sample

log = logging.getLogger(__name__)

IGNORED_LABEL = -100


class Processor(ABC):
    """Makes model inputs of the pages of one sample."""

    @abstractmethod
    def __call__(self, document: Document, pages: Sequence[Page], *, prompt_only: bool = False) -> Sample | None:
        """Return the sample, or ``None`` when it exceeds the token budget and the processor was told to drop it.

        With ``prompt_only`` the sample is for prediction: without the tokens of the target, which then need no budget.

        Raises:
            UserError: when it exceeds the token budget.
        """

    @property
    def drops(self) -> bool:
        """Whether samples beyond the token budget are dropped instead of being an error."""
        return False

    def check(self, *, packing: bool, targets: Collection[str]) -> None:  # noqa: B027  most models take them all
        """Refuse what the model cannot learn, and log what it is asked where nothing is published.

        Args:
            packing: whether ``data.packing`` is asked for, which needs a model that keeps the samples of a row apart.
            targets: the kinds of ``data.target``.

        Raises:
            UserError: with the reason.
        """

    def prompt_of(self, kind: str) -> str:
        """Return the prompt of a task or of a kind of ``data.target``, with ``{phrase}`` in that of ``locate``."""
        return OWN_PROMPTS[kind]

    def as_written(self, kind: str, text: str) -> str:
        """Return a target of a kind of ``data.target``, whose tables are HTML, as the model is to write it."""
        return text

    @property
    def longest_side_px(self) -> int:
        """Longest side of a page that the model can use; pages without a size of their own are rasterized so."""
        return 1024

    @property
    def page_side_px(self) -> int:
        """Side of the pages that are drawn where the user chooses no size."""
        return 1024

    @property
    @abstractmethod
    def pad_token_id(self) -> int:
        """The id that fills ``input_ids`` of shorter samples."""

    @abstractmethod
    def prompt_for(self, document: Document) -> str:
        """Return the prompt of a document, with ``<image>`` for the pages."""


@dataclass(frozen=True)
class OcrProcessor(Processor):
    """The processor of OCR models: the prompt with its pages, the target, and what ends it.

    The labels are the target and its end, which is never cut. How prompts look is for the model's family to say:
    DeepSeek-OCR's is ``[bos] image tokens, prompt, target, [eos]``, others go by their chat template.

    Args:
        model_name: model whose tokenizer and image processor are used: a built-in name, a folder or a Hub repository.
        mode: resolution by name (``tiny``, ``base``, ``gundam``, ...); by default that of the model's
            ``processor_config.json``.
        prompt: prompt with ``<image>`` where the pages go; by default one for each task.
        max_tokens: token budget of a sample (image, prompt, target, EOS); by default the number of the decoder's
            positions.
        on_max_tokens: what to do with samples longer than ``max_tokens``: stop with an error, or drop and count them.
    """

    model_name: str = "deepsynth/tiny-random"
    mode: str | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    on_max_tokens: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        """Check the options that need no file.

        Raises:
            UserError: for a prompt without ``<image>`` or a budget below 1.
        """
        if self.prompt is not None and self.prompt.count("<image>") != 1:
            raise UserError(f"data.prompt is {self.prompt!r}; it must hold <image> exactly once, where the pages go")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"data.max_tokens is {self.max_tokens}; it must be at least 1")

    def __getstate__(self) -> dict[str, Any]:
        """Leave loaded objects out: each DataLoader worker loads its own."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the arguments."""
        self.__dict__.update(state)

    @cached_property
    def hf_processor(self) -> Any:
        """Load the Hugging Face processor (tokenizer and image processor) once per process."""
        from transformers import AutoProcessor

        return load_pretrained(AutoProcessor, self.model_name)

    @cached_property
    def family(self) -> Family:
        """What is known of the model's kind."""
        return family_of_model(self.model_name)

    @cached_property
    def layout(self) -> Layout:
        """How an image becomes tokens."""
        return self.family.layout(self.hf_processor, self.mode)

    @cached_property
    def _prompts(self) -> Prompts:
        return prompts_of(self.family, self.hf_processor, self.layout)

    @property
    def longest_side_px(self) -> int:
        """Longest side of a page that the model can use."""
        return self.layout.longest_side

    @property
    def page_side_px(self) -> int:
        """Side of the pages that are drawn where the user chooses no size."""
        return self.layout.page_side

    @cached_property
    def token_budget(self) -> int:
        """The most tokens that a sample may have: ``max_tokens``, or the decoder's positions."""
        if self.max_tokens:
            return self.max_tokens
        from transformers import AutoConfig

        config = load_pretrained(AutoConfig, self.model_name)
        return int(config.get_text_config().max_position_embeddings)

    @property
    def drops(self) -> bool:
        """Whether samples beyond the token budget are dropped instead of being an error."""
        return self.on_max_tokens == "drop"

    def check(self, *, packing: bool, targets: Collection[str]) -> None:
        """Refuse what the model or its family cannot do, and log what it is asked where nothing is published.

        Raises:
            UserError: with the reason.
        """
        if packing:
            self.family.refuse("packing", "data.packing is true", "set data.packing=false")
        if set(targets) != {"text"}:
            check_boxes(self.family, self.hf_processor.tokenizer, targets)
            if self.prompt is None and (line := unpublished(self.family, targets)):
                log.info(line)

    def prompt_of(self, kind: str) -> str:
        """Return the prompt of a task or of a kind of ``data.target``: the family's, else DeepSynth's own."""
        return self.family.prompt(kind)

    def as_written(self, kind: str, text: str) -> str:
        """Return a target as the published model writes it, which a family may have tables in OTSL for.

        Raises:
            UserError: for a table that cannot be written so.
        """
        return html_to_otsl(text) if kind == "table" and self.family.tables == "otsl" else text

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's padding id, else that of its EOS: the attention mask hides it."""
        tokenizer = self.hf_processor.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def prompt_for(self, document: Document) -> str:
        """Return the document's own prompt, or that of its task; the pages come first where it has no ``<image>``."""
        prompt = document.prompt or self.prompt
        if prompt is None:
            prompt = self.prompt_of(document.task)
        prompt = prompt.strip()
        return prompt if "<image>" in prompt else f"<image>\n{prompt}"

    def _encode(self, document: Document, prompt: str, pages: Sequence[Page]) -> EncodedPrompt:
        """Return a prompt with its pages: all where ``<image>`` stands once, else each at its own."""
        count = prompt.count("<image>")
        if count not in (1, len(pages)):
            raise UserError(
                f"document {document.id!r}: its prompt holds <image> {count} times, and it has {len(pages)} "
                "pages; write <image> once for all pages, or once for each"
            )
        return self._prompts.encode(prompt, [page.image for page in pages])

    def __call__(self, document: Document, pages: Sequence[Page], *, prompt_only: bool = False) -> Sample | None:
        """Return input ids (T,), labels (T,) and the views of the pages.

        Raises:
            UserError: when the sample exceeds the token budget, with its id and lengths.
        """
        target = _target_of(document, pages)
        prompt = self.prompt_for(document)
        encoded = self._encode(document, prompt, pages)
        prompt_ids = encoded.ids
        target_ids = [] if prompt_only else self._prompts.target_ids(target)
        total = len(prompt_ids) + len(target_ids)
        if total > self.token_budget:
            if self.on_max_tokens == "drop":
                return None
            raise UserError(
                f"document {document.id!r}: {len(prompt_ids)} tokens of {len(pages)} page(s) and prompt + "
                f"{len(target_ids)} of the target = {total}, but the budget is {self.token_budget}; raise "
                "data.max_tokens, put less text on a page, or set data.on_max_tokens=drop"
            )
        # From an array: torch takes a third of a millisecond for a list of a page's tokens.
        input_ids = torch.from_numpy(np.array(prompt_ids + target_ids, np.int64))
        labels = input_ids.clone()
        labels[: len(prompt_ids)] = IGNORED_LABEL
        number = pages[0].number
        several = not document.is_whole and (document.image is None or isinstance(document.image, PagedFile))
        return Sample(
            id=f"{document.id}#{number}" if several else document.id,
            document_id=document.id,
            page=number,
            input_ids=input_ids,
            labels=labels,
            prompt_length=len(prompt_ids),
            images=encoded.images,
            token_inputs={
                name: torch.cat([values, values.new_zeros(len(target_ids))])
                for name, values in encoded.token_inputs.items()
            },
            target=target,
            prompt=prompt,
            language=document.language,
            source=document.source,
            pixel_table=encoded.pixel_table,
            sizes=tuple(page.image.size for page in pages),
        )


def _target_of(document: Document, pages: Sequence[Page]) -> str:
    """Return what the model is to write for these pages."""
    if document.target is not None:
        return document.target
    if document.one_sample:
        return document.text or "\n".join(page.text for page in pages)
    return pages[0].text
