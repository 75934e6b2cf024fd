"""Conversations about images, as chat models are tuned on: every answer of the assistant is a sample.

Spellings: ``messages`` with ``role`` and ``content`` (OpenAI, TRL, Unsloth, ms-swift), ``conversations`` with ``from``
and ``value`` (ShareGPT, LLaMA-Factory, LLaVA), and ``query``, ``response``, ``history`` and ``system`` (ms-swift).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepsynth.data.sources.columns import listed
from deepsynth.errors import UserError

PLACE = "<image>"
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
}
MESSAGE_FIELDS = ("messages", "conversations", "conversation")
IMAGE_FIELDS = ("images", "image")


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        text: with ``<image>`` where images stand.
        images: those that the message itself holds.
        learned: whether an answer is to be learned.
    """

    role: str
    text: str
    images: tuple[Any, ...] = ()
    learned: bool = True


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt with its images and the answer to it.

    Attributes:
        prompt: all that was said before the answer.
        images: images in the order of their places in the prompt.
        answer: text of the assistant; ``None`` where it has not answered.
    """

    prompt: str
    images: tuple[Any, ...]
    answer: str | None


def exchanges_of(row: Mapping[str, Any], *, last: bool) -> Iterator[Exchange]:
    """Yield the exchanges of a conversation, or its last one.

    The prompt is the text of the user as it is. Where more was said before (a system text, earlier turns), all of it
    comes before, with an empty line between: the models' own format has no roles.

    Raises:
        UserError: for a row that is no conversation, or whose images are not as many as their places.
    """
    messages = list(_messages(row))
    images = _all_images(row, messages)
    places = sum(message.text.count(PLACE) for message in messages if message.role != "assistant")
    if places not in (0, len(images)):
        raise UserError(f"{places} {PLACE} places and {len(images)} images; there must be as many")
    found: list[Exchange] = []
    said: list[str] = []
    for message in messages:
        if message.role == "assistant" and message.learned:
            found.append(_exchange(said, images, places, message.text))
        said.append(message.text)
    if not any(message.role == "assistant" for message in messages):
        found = [_exchange(said, images, places, None)]
    if not found:
        raise UserError("no answer of the assistant that is to be learned; remove the row")
    yield from found[-1:] if last else found


def _exchange(said: Sequence[str], images: tuple[Any, ...], places: int, answer: str | None) -> Exchange:
    prompt = "\n\n".join(text for text in said if text)
    shown = images[: prompt.count(PLACE)] if places else images
    if not shown:
        raise UserError("an answer before any image; give every conversation its image first")
    return Exchange(prompt, shown, answer)


def _all_images(row: Mapping[str, Any], messages: Iterable[Message]) -> tuple[Any, ...]:
    """Return the images of a row: of its own column, or those that its messages hold."""
    inside = tuple(image for message in messages for image in message.images)
    column: Any = next((row[name] for name in IMAGE_FIELDS if row.get(name) is not None), [])
    outside = tuple(column) if isinstance(column, list | tuple) else (column,)
    if inside and outside:
        raise UserError("images in the messages and in a column of their own; keep one of them")
    if not inside and not outside:
        raise UserError(f"no image; the fields found are {listed(row)}; a conversation needs at least one")
    return inside or outside


def _messages(row: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the messages of a row."""
    if isinstance(row.get("system"), str) and row["system"].strip():
        yield Message("system", row["system"].strip())
    name = next((name for name in MESSAGE_FIELDS if row.get(name) is not None), None)
    if name is not None:
        messages = row[name]
        if isinstance(messages, Mapping):  # older data sets keep a list of structs as a struct of lists
            messages = [dict(zip(messages, values, strict=True)) for values in zip(*messages.values(), strict=True)]
        if not isinstance(messages, list) or not messages:
            raise UserError(f"{name} is {'empty' if messages == [] else 'no list'}; it must be a list of messages")
        for number, message in enumerate(messages, 1):
            if not isinstance(message, Mapping):
                raise UserError(f"{name}, message {number}: a {type(message).__name__}; it must be an object")
            yield _message(f"{name}, message {number}", message)
        return
    if not isinstance(row.get("query"), str):
        raise UserError(
            f"no conversation; the fields found are {listed(row)}; it must have one of {listed(MESSAGE_FIELDS)}, or "
            "'query' and 'response'"
        )
    for question, answer in row.get("history") or ():
        yield Message("user", str(question))
        yield Message("assistant", str(answer))
    yield Message("user", row["query"])
    if isinstance(row.get("response"), str):
        yield Message("assistant", row["response"])


def _message(where: str, message: Mapping[str, Any]) -> Message:
    role = message.get("role") or message.get("from")
    if role not in _ROLES:
        raise UserError(f"{where}: the role is {role!r}; it must be one of {', '.join(_ROLES)}")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    learned = message.get("loss") is not False and message.get("weight") != 0
    if isinstance(content, str):
        return Message(_ROLES[role], content if _ROLES[role] == "assistant" else content.strip(), learned=learned)
    if not isinstance(content, list):
        raise UserError(f"{where}: the content is a {type(content).__name__}; it must be a text or a list of parts")
    texts: list[str] = []
    images: list[Any] = []
    for part in content:
        text, image = _part(where, part)
        # Parts have no text between them; prompts of the models have a line break after an image.
        texts.append(f"{text}\n" if text == PLACE else text)
        if image is not None:
            images.append(image)
    return Message(_ROLES[role], "".join(texts).strip(), tuple(images), learned)


def _part(where: str, part: Any) -> tuple[str, Any]:
    """Return the text of a part and its image; for an image its place, and ``None`` where a column holds it."""
    if isinstance(part, str):
        return part, None
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return part["text"], None
    if kind in ("image", "image_url", "input_image"):
        image = next((part[name] for name in ("image", "image_url", "path", "url") if part.get(name) is not None), None)
        return PLACE, image.get("url", image) if isinstance(image, Mapping) else image
    raise UserError(f"{where}: a part of type {kind!r}; it must be 'text', 'image' or 'image_url', with its content")
