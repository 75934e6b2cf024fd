"""Unlimited-OCR: DeepSeek-OCR's layers, and a decoder that sees the prompt and a window over what it has written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepsynth.models.family import PublishedModel
from deepsynth.models.tokens import MODES
from deepsynth.models.view_family import ViewFamily


@dataclass(frozen=True, eq=False)
class UnlimitedOcrFamily(ViewFamily):
    """transformers' own classes; the published files have DeepSeek-OCR's names, and so have adapters.

    One prompt for a page is published (https://github.com/baidu/Unlimited-OCR); other kinds are asked for as
    DeepSeek-OCR is, which it comes from.
    """

    prompts: Mapping[str, str] = field(default_factory=lambda: {"transcribe": "<image>document parsing."})

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs with the counts and grids of tiles as lists, by which transformers' class splits."""
        return {
            name: value.tolist() if name in ("num_local_patches", "patches_grid") else value
            for name, value in inputs.items()
        }

    def window(self, config: Any) -> int | None:
        """Return the number of written tokens that each sees, itself included."""
        window: int = config.get_text_config().sliding_window
        return window


FAMILY = UnlimitedOcrFamily(
    name="unlimited_ocr",
    title="Unlimited-OCR",
    model_types=("unlimited_ocr",),
    architectures=("UnlimitedOcrForConditionalGeneration", "UnlimitedOCRForCausalLM"),
    published=(PublishedModel("baidu/Unlimited-OCR", "3.3 B", "MIT"),),
    modes=MODES["unlimited_ocr"],
    unsupported={
        "unsloth": "whether its attention keeps to the window was not tried",
        "published": "transformers' own format has the published names",
        "vllm_lora": "its names in vLLM are not known here",
    },
)
