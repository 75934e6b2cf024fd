"""From documents to batches, one file a stage in the order of the flow."""

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
