"""Export: an adapter merged into its base model, written and verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.lazy_imports import importing

if TYPE_CHECKING:
    from deepsynth.export.merge import ExportReport, export_model
    from deepsynth.export.vllm_lora import VllmAdapter

__all__ = [
    "ExportReport",
    "VllmAdapter",
    "export_model",
]

_HOMES = {
    "ExportReport": "deepsynth.export.merge",
    "VllmAdapter": "deepsynth.export.vllm_lora",
    "export_model": "deepsynth.export.merge",
}

#: ``deepsynth --help`` stays fast.
__getattr__ = importing(__name__, _HOMES)
