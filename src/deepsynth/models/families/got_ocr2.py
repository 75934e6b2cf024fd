"""GOT-OCR 2: SAM's encoder and a Qwen2, mostly by the generic way; its published folder has no chat template."""

from __future__ import annotations

from typing import Any

from deepsynth.models.families.generic import GENERIC
from deepsynth.models.family import Family, PublishedModel
from deepsynth.models.tokens import Layout

#: A feature covers so many pixels along a side: SAM's patches of 16, 4 by 4 of which are joined.
_PIXELS = 64

#: The conversation that transformers' processor writes for a page, with a prompt of one's own.
_TEMPLATE = (
    "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<img><imgpad></img>\n"
    "{% elif message['role'] == 'user' %} {{ part['text'] }} {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class SquareLayout(Layout):
    """One square view.

    Args:
        side: of the view, pixels.
    """

    def __init__(self, side: int) -> None:
        self._side = side

    def tokens(self, width: int, height: int) -> int:
        """Return the number of features of the view, whatever the size of the image."""
        return (self._side // _PIXELS) ** 2

    @property
    def longest_side(self) -> int:
        """Side of the view, pixels."""
        return self._side

    @property
    def page_side(self) -> int:
        """Side of the view, pixels."""
        return self._side

    def processor_kwargs(self) -> dict[str, Any]:
        """Return the size, and the number of tokens, which the processor takes for 256 otherwise."""
        size = {"height": self._side, "width": self._side}
        return {"size": size, "num_image_tokens": self.tokens(self._side, self._side)}


class GotFamily(Family):
    """GOT-OCR 2, whose processor does not say its template and the number of its tokens."""

    def layout(self, hf_processor: Any, mode: str | None = None) -> Layout:
        """Return the layout of one view.

        Raises:
            UserError: for another mode than ``base``.
        """
        self.check_mode(mode)
        if mode is not None:
            return self.modes[mode]
        size = hf_processor.image_processor.size
        return SquareLayout(int(size["height"]))


FAMILY = GotFamily(
    name="got_ocr2",
    title="GOT-OCR 2",
    model_types=("got_ocr2",),
    architectures=("GotOcr2ForConditionalGeneration",),
    published=(PublishedModel("stepfun-ai/GOT-OCR-2.0-hf", "0.6 B", "Apache-2.0"),),
    chat_template=_TEMPLATE,
    prompts={  # as transformers' processor writes them, with and without format
        "transcribe": "<image>\nOCR:",
        "markdown": "<image>\nOCR with format:",
        "markdown_pipes": "<image>\nOCR with format:",
    },
    unsupported={name: why for name, why in GENERIC.items() if name not in ("loss", "frozen_vision")},
    modes={"base": SquareLayout(1024)},
    has_sdpa=False,
)
