"""SmolVLM2's classes with Idefics3's processor, which gives the same: its own needs torchvision and num2words."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.tiny_models import idefics3

PAGES = idefics3.PAGES
SLOW = True


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    from transformers import SmolVLMConfig

    return idefics3.make(folder, SmolVLMConfig)
