"""What DeepSynth supports: one table of models, their classes, their resolutions, and what LoRA makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepsynth.models.tokens import MODES, Family

#: Parts of the decoder that LoRA may adapt, by the names of ``deepsynth.models.lora``; vision stays as it is.
LORA_SCOPES: tuple[str, ...] = ("attention", "mlp", "experts=shared", "experts=routed")


@dataclass(frozen=True)
class SupportedModel:
    """One model.

    Attributes:
        name: what a user types: a Hub repository, or a name that the package carries.
        family: ``model_type`` of its configuration, and whose arrangement of image tokens it has.
        model_class: in transformers or in ``deepsynth.models.deepseek_ocr``.
        processor_class: of its processor.
        lora_parameters: trainable parameters at rank 16, by scope; empty for the models that the package carries, whose
            sizes follow its own needs (:func:`lora_parameters` counts them).
    """

    name: str
    family: Family
    model_class: str
    processor_class: str
    lora_parameters: Mapping[str, int]

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the names of its resolutions."""
        return tuple(MODES[self.family])


#: The published decoder, the same in both versions. Routed experts are adapted as peft's ``target_parameters`` does it
#: on the fused tensors.
_PUBLISHED_LORA = {"attention": 1_966_080, "mlp": 390_144, "experts=shared": 1_622_016, "experts=routed": 59_113_472}
_FIRST = ("DeepseekOcrForConditionalGeneration", "DeepseekOcrProcessor")
_SECOND = ("DeepseekOcr2ForConditionalGeneration", "DeepseekOcr2Processor")

SUPPORTED: tuple[SupportedModel, ...] = (
    SupportedModel("deepseek-ai/DeepSeek-OCR", "deepseek_ocr", *_FIRST, _PUBLISHED_LORA),
    SupportedModel("deepseek-community/DeepSeek-OCR-2", "deepseek_ocr2", *_SECOND, _PUBLISHED_LORA),
    SupportedModel("deepsynth/tiny", "deepseek_ocr", *_FIRST, {}),
    SupportedModel("deepsynth/tiny-random", "deepseek_ocr2", *_SECOND, {}),
)


def lora_parameters(config: Any, rank: int = 16) -> dict[str, int]:
    """Count what LoRA would train in a model's decoder, by scope.

    An adapter of a matrix (out, in) has ``rank * (in + out)`` parameters; fused experts have as many for each expert.

    Args:
        config: of the model, with ``text_config``.
        rank: of the adapter.
    """
    text = config.text_config
    hidden, heads = text.hidden_size, text.head_dim * (text.num_attention_heads + 2 * text.num_key_value_heads)
    inner = text.head_dim * text.num_attention_heads
    dense = list(text.mlp_layer_types).count("dense")
    sparse = len(text.mlp_layer_types) - dense
    expert, shared = text.moe_intermediate_size, text.moe_intermediate_size * text.n_shared_experts
    return {
        "attention": text.num_hidden_layers * rank * (3 * hidden + heads + inner + hidden),
        "mlp": dense * rank * 3 * (hidden + text.intermediate_size),
        "experts=shared": sparse * rank * 3 * (hidden + shared),
        "experts=routed": sparse * text.n_routed_experts * rank * (hidden + 2 * expert + expert + hidden),
    }


def family_of(config: Any) -> Family:
    """Return the family of a configuration.

    Args:
        config: what ``AutoConfig.from_pretrained`` returned.

    Raises:
        ValueError: for another model, listing those that are supported.
    """
    found = getattr(config, "model_type", None)
    for model in SUPPORTED:
        if model.family == found:
            return model.family
    listed = ", ".join(f"{model.name} ({model.family})" for model in SUPPORTED)
    raise ValueError(f"the model is of type {found!r}, which DeepSynth does not train; supported: {listed}")
