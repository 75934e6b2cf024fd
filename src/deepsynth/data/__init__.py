"""From documents to batches, one file a stage in the order of the flow.

Classes are imported on first use: a process that renders has no use for Lightning, whose imports take longer than all
others together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepsynth.data.augmenter import Augmenter, PageAugmenter
    from deepsynth.data.collator import Collator
    from deepsynth.data.datamodule import TextImageDataModule
    from deepsynth.data.hub_source import HubSource
    from deepsynth.data.image_source import ImageSource
    from deepsynth.data.mixing import MixedSource
    from deepsynth.data.page_cache import CachedRenderer
    from deepsynth.data.processor import OcrProcessor, Processor
    from deepsynth.data.python_docs import PythonDocsSource
    from deepsynth.data.renderer import Renderer, TextRenderer
    from deepsynth.data.source import Source
    from deepsynth.data.text_sources import CsvSource, JsonlSource, ParquetSource, TextFolderSource

__all__ = [
    "Augmenter",
    "CachedRenderer",
    "Collator",
    "CsvSource",
    "HubSource",
    "ImageSource",
    "JsonlSource",
    "MixedSource",
    "OcrProcessor",
    "PageAugmenter",
    "ParquetSource",
    "Processor",
    "PythonDocsSource",
    "Renderer",
    "Source",
    "TextFolderSource",
    "TextImageDataModule",
    "TextRenderer",
]

_HOMES = {
    "Augmenter": "augmenter",
    "CachedRenderer": "page_cache",
    "Collator": "collator",
    "CsvSource": "text_sources",
    "HubSource": "hub_source",
    "ImageSource": "image_source",
    "JsonlSource": "text_sources",
    "MixedSource": "mixing",
    "OcrProcessor": "processor",
    "PageAugmenter": "augmenter",
    "ParquetSource": "text_sources",
    "Processor": "processor",
    "PythonDocsSource": "python_docs",
    "Renderer": "renderer",
    "Source": "source",
    "TextFolderSource": "text_sources",
    "TextImageDataModule": "datamodule",
    "TextRenderer": "renderer",
}


def __getattr__(name: str) -> object:
    """Import a class from its file."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
