"""Any other image-text-to-text model of transformers that has a processor and a chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepsynth.errors import UserError
from deepsynth.models.family import FEATURES, Family, Feature, Scope

if TYPE_CHECKING:
    from torch import nn

_REASON = "transformers' own classes compute them"


class GenericFamily(Family):
    """A model of which transformers' interfaces are all that is known: where its decoder is, and how it is prompted."""

    def matches(self, config: Any) -> bool:
        """Return whether transformers has the configuration's class for images and text."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        if getattr(config, "is_encoder_decoder", False):
            return False  # its labels are no continuation of a prompt
        name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(getattr(config, "model_type", None))
        listed = getattr(config, "architectures", None) or [name]
        return name is not None and name in listed

    def decoder_path(self, model: nn.Module) -> str:
        """Return the module path of the decoder of a model, which transformers' ``get_decoder`` finds.

        Raises:
            UserError: when there is none with layers.
        """
        from transformers import PreTrainedModel

        if isinstance(model, PreTrainedModel):
            decoder = model.get_decoder()
            for name, module in model.named_modules():
                if module is decoder and hasattr(module, "layers"):
                    return str(name)
        raise UserError(f"{type(model).__name__} has no decoder with layers that transformers could name")

    def vision_paths(self, model: nn.Module) -> tuple[str, ...]:
        """Return the module paths of what is neither the decoder nor the head."""
        decoder = self.decoder_path(model)
        inner, _, own = decoder.rpartition(".")
        parts = [name for name, _ in model.get_submodule(inner).named_children()]
        return tuple(f"{inner}.{name}" if inner else name for name in parts if name not in (own, "lm_head"))

    def scopes(self, model: nn.Module) -> Mapping[Scope, str]:
        """Return the linear layers of the decoder's layers: those of attention by their names, and the others."""
        from torch import nn

        layers = f"{self.decoder_path(model)}.layers."
        found: dict[Scope, set[str]] = {"attention": set(), "mlp": set()}
        for name, module in model.named_modules():
            if name.startswith(layers) and isinstance(module, nn.Linear):
                kind: Scope = "attention" if "attn" in name or "attention" in name else "mlp"
                found[kind].add(re.sub(r"(?<=\.)\d+(?=\.)", "#", name))
        return {
            kind: "|".join(re.escape(path).replace(r"\#", r"\d+") for path in sorted(paths))
            for kind, paths in found.items()
            if paths
        }

    def note(self) -> str:
        """Return one line on the generic way."""
        return (
            "a model that DeepSynth does not know; prompts and labels follow its chat template, loss and generate are "
            f"transformers' own, LoRA is on the decoder's linear layers; not available: {self.without()}"
        )


#: What the generic way does without, for families that have nothing of their own either.
GENERIC: dict[Feature, str] = {feature: _REASON for feature in FEATURES if feature not in ("layers", "unsloth")}

FAMILY = GenericFamily(
    name="generic",
    title="models that DeepSynth does not know",
    model_types=(),
    architectures=(),
    projector=(),
    unsupported=GENERIC,
    has_sdpa=False,
)
