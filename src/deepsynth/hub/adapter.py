"""An adapter as the Hub gets it: exactly the files that a reader of the repository needs, with a model card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.hub.privacy import clean_json_files, clean_text, is_local_path, without_local_paths
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

#: The files that may be pushed. Anything else in an adapter's folder stays on this machine.
ADAPTER_FILES = (
    "README.md",
    "metrics.json",
    "deepsynth.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    # the processor
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
OPTIMIZER_FILE = "optimizer.pt"

#: Licenses by the identifiers that the Hub knows; any other is written as ``other`` with its name.
#: https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = (
    *("apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0", "agpl-3.0"),
    *("lgpl-3.0", "mpl-2.0", "isc", "unlicense", "odbl", "unknown", "other"),
)
#: Prefix of the models that are part of DeepSynth and not on the Hub.
_BUILT_IN = "deepsynth/"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")

_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

A LoRA adapter that reads page images, trained with DeepSynth {{ version }} for {{ step }} optimizer steps.

- **Base model**: {{ base }}
- **Data**: {{ data }}
- **License**: {{ license or "that of the base model" }}

## Use

```python
import deepsynth.models
from peft import PeftModel
from transformers import AutoModelForImageTextToText

deepsynth.models.register()  # for DeepSeek-OCR, whose classes transformers does not have
base_model = AutoModelForImageTextToText.from_pretrained("{{ base_name }}")
model = PeftModel.from_pretrained(base_model, "{{ repo_id }}")
```

or `deepsynth predict --ckpt_path hf://{{ repo_id }} ...`

## Metrics

{{ metrics_table or "Nothing was measured before this state was pushed." }}
{%- if how_table %}

How they were measured:

{{ how_table }}
{%- endif %}
{%- if recipe_table %}

## Recipe

{{ recipe_table }}
{%- endif %}
"""


@dataclass(frozen=True, slots=True)
class Card:
    """The contents of a model card (README.md).

    Attributes:
        repo_id: repository of the adapter.
        base_model: name on the Hub; a local path is never shown.
        version: version of DeepSynth.
        license: an identifier of the Hub, or a name; ``None`` means the license of the base model.
        datasets: names of the training data; those that are on the Hub are linked.
        languages: ISO 639 codes.
        recipe: training settings by name.
        metrics: newest measurements by log key.
        metric_settings: settings of the measurements.
        step: optimizer steps so far.
    """

    repo_id: str
    base_model: str
    version: str
    license: str | None = None
    datasets: Sequence[str] = ()
    languages: Sequence[str] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric_settings: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0

    def text(self) -> str:
        """Return the card as Markdown with metadata that the Hub accepts, without local paths and tokens."""
        from huggingface_hub import ModelCard

        card = ModelCard.from_template(
            self._metadata(),
            template_str=_TEMPLATE,
            name=self.repo_id.split("/")[-1],
            repo_id=self.repo_id,
            version=self.version,
            step=self.step,
            base=self._base_link(),
            base_name=self._base_on_hub or "PATH OF THE BASE MODEL",
            data=", ".join(without_local_paths(list(self.datasets))) or "not named",
            license=self.license,
            metrics_table=_table("metric", self.metrics),
            how_table=_table("setting", self.metric_settings),
            recipe_table=_table("setting", self.recipe),
        )
        return clean_text(str(card)) + "\n"

    @property
    def _base_on_hub(self) -> str | None:
        if self.base_model.startswith(_BUILT_IN) or is_local_path(self.base_model):
            return None
        return self.base_model if _HUB_NAME.fullmatch(self.base_model) else None

    def _base_link(self) -> str:
        if self._base_on_hub:
            return f"[{self._base_on_hub}](https://huggingface.co/{self._base_on_hub})"
        if self.base_model.startswith(_BUILT_IN):
            return f"{self.base_model}, a small model that is part of DeepSynth"
        return "a model that is not on the Hub"

    def _metadata(self) -> ModelCardData:
        from huggingface_hub import ModelCardData

        license_id = self.license.lower() if self.license is not None else None
        license_name = None
        if license_id is not None and license_id not in _LICENSES:
            license_id, license_name = "other", re.sub(r"[^a-z0-9.]+", "-", license_id).strip("-")
        codes = sorted({code.split("-")[0].lower() for code in self.languages})
        measured = {key.split("/")[-1] for key in self.metrics}
        return ModelCardData(
            base_model=self._base_on_hub,
            base_model_relation="adapter" if self._base_on_hub else None,
            library_name="peft",
            pipeline_tag="image-text-to-text",
            tags=["ocr", "lora", "deepsynth"],
            license=license_id,
            license_name=license_name,
            language=[code for code in codes if _LANGUAGE.fullmatch(code)] or None,
            datasets=[name for name in self.datasets if _HUB_NAME.fullmatch(name) and not is_local_path(name)] or None,
            metrics=[m for m in ("cer", "wer", "rouge", "bleu") if any(key.startswith(m) for key in measured)] or None,
        )


def snapshot_adapter(
    spool: Spool,
    target: Target,
    save_adapter: Callable[[Path], None],
    card: Card,
    message: str,
    *,
    tag: str | None = None,
    save_optimizer: Callable[[Path], None] | None = None,
) -> Snapshot:
    """Write the adapter with its card and metrics into the spool, complete or not at all.

    Args:
        spool: queue of the snapshots that wait to be pushed.
        target: repository and branch to push to.
        save_adapter: writes adapter and processor into a folder that it makes.
        card: written as README.md and metrics.json.
        message: title of the commit.
        tag: tag to set on the commit.
        save_optimizer: writes the optimizer state to a file; ``None`` pushes no optimizer state.

    Raises:
        OSError: when the disk is full or read-only.
    """
    staged = spool.stage()
    try:
        folder = staged / "files"
        save_adapter(folder)
        measured = {
            "step": card.step,
            "metrics": dict(card.metrics),
            "settings": without_local_paths(dict(card.metric_settings)),
            "deepsynth": card.version,
        }
        (folder / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card.text(), encoding="utf-8")
        clean_json_files(folder, card.base_model)
        allowed = list(ADAPTER_FILES)
        if save_optimizer is not None:
            save_optimizer(folder / OPTIMIZER_FILE)
            allowed.append(OPTIMIZER_FILE)
        return spool.seal(folder, target, message, allow=allowed, tag=tag)
    finally:
        spool.discard(staged)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    """Return a Markdown table, or an empty string without rows."""
    lines = [f"| {title} | value |", "| --- | --- |"]
    for key, value in without_local_paths(_flat(rows)).items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"| {key} | {' '.join(shown.split()).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) if rows else ""


def _flat(rows: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by keys such as ``a.b.c``, without those that are not set."""
    flat: dict[str, Any] = {}
    for key, value in rows.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
