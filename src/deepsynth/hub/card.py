"""The model card (README.md) of a pushed adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepsynth.hub.privacy import clean_text, is_local_path, without_local_paths

#: Licences by the identifiers that the Hub knows; any other is written as ``other`` with its name.
#: https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = (
    *("apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0", "agpl-3.0"),
    *("lgpl-3.0", "mpl-2.0", "isc", "unlicense", "odbl", "unknown", "other"),
)
#: Names of models that DeepSynth carries and the Hub does not.
_BUILT_IN = "deepsynth/"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says.

    Attributes:
        repo_id: where the adapter goes.
        base_model: name on the Hub; a local path is never shown.
        version: of DeepSynth.
        license: an identifier of the Hub, or a name; ``None``: that of the base model.
        datasets: the data, by name; those that are on the Hub are linked.
        languages: ISO 639 codes.
        recipe: how it was trained, by setting.
        metrics: what was measured last, by log key.
        metric_settings: how it was measured.
        step: optimizer steps behind this state.
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
        """Return the card as Markdown with metadata that the Hub accepts, and without anything local."""
        import yaml

        front = yaml.safe_dump(self._metadata(), sort_keys=False, allow_unicode=True)
        return f"---\n{front}---\n\n" + clean_text(self._body())

    @property
    def _base_on_hub(self) -> str | None:
        if self.base_model.startswith(_BUILT_IN) or is_local_path(self.base_model):
            return None
        return self.base_model if _HUB_NAME.fullmatch(self.base_model) else None

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        if self._base_on_hub:
            metadata |= {"base_model": self._base_on_hub, "base_model_relation": "adapter"}
        metadata |= {"library_name": "peft", "pipeline_tag": "image-text-to-text", "tags": ["ocr", "lora", "deepsynth"]}
        if self.license is not None:
            known = self.license.lower() in _LICENSES
            metadata["license"] = self.license.lower() if known else "other"
            if not known:
                metadata["license_name"] = re.sub(r"[^a-z0-9.]+", "-", self.license.lower()).strip("-")
        languages = sorted({code.split("-")[0].lower() for code in self.languages})
        if codes := [code for code in languages if _LANGUAGE.fullmatch(code)]:
            metadata["language"] = codes
        if named := [name for name in self.datasets if _HUB_NAME.fullmatch(name) and not is_local_path(name)]:
            metadata["datasets"] = named
        measured = {key.split("/")[-1] for key in self.metrics}
        if metrics := [name for name in ("cer", "wer", "rouge", "bleu") if any(m.startswith(name) for m in measured)]:
            metadata["metrics"] = metrics
        return metadata

    def _body(self) -> str:
        base = "a model that is not on the Hub"
        if self._base_on_hub:
            base = f"[{self._base_on_hub}](https://huggingface.co/{self._base_on_hub})"
        elif self.base_model.startswith(_BUILT_IN):
            base = f"{self.base_model}, a small model that DeepSynth carries"
        data = ", ".join(without_local_paths(list(self.datasets))) or "not named"
        license_ = self.license or "that of the base model"
        parts = [
            f"# {self.repo_id.split('/')[-1]}",
            f"A LoRA adapter for reading page images, made with DeepSynth {self.version}; its state after {self.step} "
            "optimizer steps.",
            f"- **Base model**: {base}\n- **Data**: {data}\n- **License**: {license_}",
            "## Use",
            "```python\nfrom peft import PeftModel\n\n"
            f"model = PeftModel.from_pretrained(base_model, {self.repo_id!r})\n```\n\n"
            f"or `deepsynth predict --ckpt_path hf://{self.repo_id} ...`",
            "## Metrics",
            _table("metric", self.metrics) if self.metrics else "Nothing was measured before this state was pushed.",
        ]
        if self.metric_settings:
            parts += ["How they were measured:", _table("setting", self.metric_settings)]
        if self.recipe:
            parts += ["## Recipe", _table("setting", self.recipe)]
        return "\n\n".join(parts) + "\n"


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {title} | value |", "| --- | --- |"]
    for key, value in without_local_paths(_flat(rows)).items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"| {key} | {' '.join(shown.split()).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _flat(rows: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as ``a.b.c`` keys, without those that are not set."""
    flat: dict[str, Any] = {}
    for key, value in rows.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
