"""From documents to batches, one file a stage in the order of the flow.

Classes are imported on first use: a process that renders has no use for Lightning, whose imports take longer than all
others together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.lazy_imports import importing

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
    "Augmenter": "deepsynth.data.augmenter",
    "CachedRenderer": "deepsynth.data.page_cache",
    "Collator": "deepsynth.data.collator",
    "CsvSource": "deepsynth.data.text_sources",
    "HubSource": "deepsynth.data.hub_source",
    "ImageSource": "deepsynth.data.image_source",
    "JsonlSource": "deepsynth.data.text_sources",
    "MixedSource": "deepsynth.data.mixing",
    "OcrProcessor": "deepsynth.data.processor",
    "PageAugmenter": "deepsynth.data.augmenter",
    "ParquetSource": "deepsynth.data.text_sources",
    "Processor": "deepsynth.data.processor",
    "PythonDocsSource": "deepsynth.data.python_docs",
    "Renderer": "deepsynth.data.renderer",
    "Source": "deepsynth.data.source",
    "TextFolderSource": "deepsynth.data.text_sources",
    "TextImageDataModule": "deepsynth.data.datamodule",
    "TextRenderer": "deepsynth.data.renderer",
}

__getattr__ = importing(__name__, _HOMES)
