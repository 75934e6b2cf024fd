"""Prompts and answers by the chat template of a processor, for models that have no way of their own here.

A prompt is the template of one user's turn with its generation prompt. What the same template adds for an answer, and
the end of that turn, is what the model is to write: labels follow from the difference of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deepsynth.errors import UserError

#: Stands for the answer while its frame is looked for; no template changes it.
_PROBE = "x7Ansq3"


@dataclass(frozen=True)
class AnswerFrame:
    """What a template writes around an answer.

    Attributes:
        before: text between the prompt and the answer: nothing, or a space that tokenizers join with the first word.
        end: ids behind it, up to the first that ends a text; white space before these is left out.
    """

    before: str
    end: tuple[int, ...]


def turn(prompt: str, pages: int) -> list[dict[str, Any]]:
    """Return a user's turn: all pages where the prompt has ``<image>`` once, else each page at its own.

    Args:
        prompt: with ``<image>``.
        pages: how many there are.
    """
    texts = prompt.split("<image>")
    counts = [pages] if len(texts) == 2 else [1] * (len(texts) - 1)
    content: list[dict[str, Any]] = []
    for text, count in zip(texts, [*counts, 0], strict=True):
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
        content += [{"type": "image"}] * count
    return [{"role": "user", "content": content}]


def render(hf_processor: Any, messages: Sequence[Mapping[str, Any]], template: str | None, *, asks: bool) -> str:
    """Return the text of a conversation.

    Args:
        hf_processor: Hugging Face's, with a chat template.
        messages: of the conversation.
        template: in place of the processor's own, where that has none.
        asks: whether the text ends where the model is to go on.

    Raises:
        UserError: when there is no template, or it does not take such messages.
    """
    from jinja2 import TemplateError

    own = getattr(hf_processor, "chat_template", None) or getattr(hf_processor.tokenizer, "chat_template", None)
    name = getattr(hf_processor.tokenizer, "name_or_path", "") or type(hf_processor).__name__
    if not own and not template:
        raise UserError(
            f"{name}: its processor has no chat template, by which prompts of a {type(hf_processor).__name__} are "
            "made; put a chat_template.jinja into the model's folder"
        )
    try:
        text = hf_processor.apply_chat_template(
            list(messages), chat_template=own or template, add_generation_prompt=asks, tokenize=False
        )
    except TemplateError as error:
        raise UserError(f"{name}: its chat template does not take a page with a prompt: {error}") from error
    return str(text)


def model_inputs(
    hf_processor: Any, text: str, images: Sequence[Any], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a processor makes of a prompt with its pages, as tensors; image tokens are written out.

    Args:
        hf_processor: Hugging Face's.
        text: as :func:`render` wrote it.
        images: RGB images.
        options: for its image processor.
    """
    bos = hf_processor.tokenizer.bos_token
    inputs = hf_processor(
        text=[text],
        images=list(images),
        return_tensors="pt",
        add_special_tokens=bos is None or not text.startswith(bos),  # most templates write it themselves
        **(options or {}),
    )
    return dict(inputs)


@lru_cache(maxsize=8)
def answer_frame(hf_processor: Any, template: str | None = None) -> AnswerFrame:
    """Return what the template writes around an answer, which is found out once.

    Raises:
        UserError: when an answer does not simply follow its prompt, or nothing would end a text.
    """
    messages = turn("<image>\nRead.", 1)
    answer = {"role": "assistant", "content": [{"type": "text", "text": _PROBE}]}
    prompt = render(hf_processor, messages, template, asks=True)
    whole = render(hf_processor, [*messages, answer], template, asks=False)
    tokenizer = hf_processor.tokenizer
    before, found, after = whole.removeprefix(prompt).partition(_PROBE)
    if not whole.startswith(prompt) or not found:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template does not write an answer behind the generation prompt "
            f"({prompt[-60:]!r}), so labels cannot be told from the prompt; fix its chat_template.jinja"
        )
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    end: list[int] = []
    for index in tokenizer.encode(after.lstrip(), add_special_tokens=False):
        end.append(int(index))
        if index in special:
            return AnswerFrame(before, tuple(end))
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path}: neither its chat template nor its eos_token ends a text; set eos_token in its "
            "tokenizer_config.json"
        )
    return AnswerFrame(before, (int(tokenizer.eos_token_id),))


def count_image_tokens(hf_processor: Any, template: str | None, width: int, height: int) -> int:
    """Return how many image tokens a processor writes for an image of ``width`` x ``height`` pixels."""
    from PIL import Image

    text = render(hf_processor, turn("<image>", 1), template, asks=True)
    ids = model_inputs(hf_processor, text, [Image.new("RGB", (width, height))])["input_ids"]
    return int((ids == image_token_id(hf_processor)).sum())


def image_token_id(hf_processor: Any) -> int:
    """Return the id that stands for one feature of an image.

    Raises:
        UserError: when the processor does not say it.
    """
    found = getattr(hf_processor, "image_token_id", None)
    if found is None:
        raise UserError(
            f"{type(hf_processor).__name__} does not say which token stands for an image; it cannot be used"
        )
    return int(found)
