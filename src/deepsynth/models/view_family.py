"""Families whose images are square views and tiles, and whose decoder has routed experts: DeepSeek-OCR's lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deepsynth.models.family import Family, Scope, decoder_scopes
from deepsynth.models.prompts import DEEPSEEK_PROMPTS, OWN_PROMPTS
from deepsynth.models.tokens import ImageLayout, image_layout

_LAYER = r"model\.language_model\.layers\.\d+"


@dataclass(frozen=True, eq=False)
class ViewFamily(Family):
    """DeepSeek-OCR's lineage: one prompt format, one markup, one way to cut a page into views.

    What the published models write as markup is the name of a block and its boxes, and the cells and rows of HTML
    tables; the published tokenizers have it as special tokens (128816 to 128824). Cells may be empty for as long as a
    table likes; DeepSeek's own recipes exempt the same two from what counts as repetition.
    """

    inputs: Literal["views", "chat"] = "views"
    prompts: Mapping[str, str] = field(default_factory=lambda: DEEPSEEK_PROMPTS)
    own_prompts: Mapping[str, str] = field(default_factory=lambda: {**OWN_PROMPTS, **DEEPSEEK_PROMPTS})
    markup: tuple[str, ...] = (
        *("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>"),
        *("<td>", "</td>", "<tr>", "</tr>"),
    )
    repeatable: tuple[str, ...] = ("<td>", "</td>")
    lora: Mapping[Scope, str] = field(
        default_factory=lambda: {
            **decoder_scopes(_LAYER),
            "experts=shared": rf"{_LAYER}\.mlp\.shared_experts\.(gate_proj|up_proj|down_proj)",
        }
    )
    file_prefix: str = "language_model."

    def layout(self, hf_processor: Any, mode: str | None = None) -> ImageLayout:
        """Return how images become views and tokens.

        Raises:
            UserError: for a mode that the family does not have.
            ValueError: for a processor of another family.
        """
        return image_layout(hf_processor, mode)
