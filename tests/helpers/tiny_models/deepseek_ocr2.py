"""DeepSeek-OCR-2's kind: the built-in model of random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from deepsynth.models.registry import resolve_model_name

PAGES = ((384, 384), (500, 300))
SLOW = True


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    return Path(shutil.copytree(resolve_model_name("deepsynth/tiny-random"), folder))
