"""Documents to batches, one folder a stage: sources, rendering, augmentation, processing, loading.

Classes are imported on first use: a process that renders does not need Lightning, whose imports take longer than all
others together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.lazy_imports import importing

if TYPE_CHECKING:
    from deepsynth.data.augmentation.augmenter import Augmenter, PageAugmenter
    from deepsynth.data.datamodule import TextImageDataModule
    from deepsynth.data.processing.collator import Collator
    from deepsynth.data.processing.processor import OcrProcessor, Processor
    from deepsynth.data.rendering.renderer import Renderer, TextRenderer
    from deepsynth.data.sources.base import Source
    from deepsynth.data.sources.benchmarks import FoxSource, OmniDocBenchSource
    from deepsynth.data.sources.conversation_source import ConversationSource
    from deepsynth.data.sources.documents.source import DocumentSource, ImageSource
    from deepsynth.data.sources.hub import HubSource
    from deepsynth.data.sources.mixed import MixedSource
    from deepsynth.data.sources.python_docs import PythonDocsSource
    from deepsynth.data.sources.text_files import CsvSource, JsonlSource, ParquetSource, TextFolderSource

__all__ = [
    "Augmenter",
    "Collator",
    "ConversationSource",
    "CsvSource",
    "DocumentSource",
    "FoxSource",
    "HubSource",
    "ImageSource",
    "JsonlSource",
    "MixedSource",
    "OcrProcessor",
    "OmniDocBenchSource",
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
    "Augmenter": "deepsynth.data.augmentation.augmenter",
    "Collator": "deepsynth.data.processing.collator",
    "ConversationSource": "deepsynth.data.sources.conversation_source",
    "CsvSource": "deepsynth.data.sources.text_files",
    "DocumentSource": "deepsynth.data.sources.documents.source",
    "FoxSource": "deepsynth.data.sources.benchmarks",
    "HubSource": "deepsynth.data.sources.hub",
    "ImageSource": "deepsynth.data.sources.documents.source",
    "JsonlSource": "deepsynth.data.sources.text_files",
    "MixedSource": "deepsynth.data.sources.mixed",
    "OcrProcessor": "deepsynth.data.processing.processor",
    "OmniDocBenchSource": "deepsynth.data.sources.benchmarks",
    "PageAugmenter": "deepsynth.data.augmentation.augmenter",
    "ParquetSource": "deepsynth.data.sources.text_files",
    "Processor": "deepsynth.data.processing.processor",
    "PythonDocsSource": "deepsynth.data.sources.python_docs",
    "Renderer": "deepsynth.data.rendering.renderer",
    "Source": "deepsynth.data.sources.base",
    "TextFolderSource": "deepsynth.data.sources.text_files",
    "TextImageDataModule": "deepsynth.data.datamodule",
    "TextRenderer": "deepsynth.data.rendering.renderer",
}

__getattr__ = importing(__name__, _HOMES)
