"""Unlimited-OCR's kind: DeepSeek-OCR's layers, and a window over what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_config import tiny_config
from tests.helpers.tiny_models import byte_tokenizer, write

PAGES = ((128, 128), (128, 64))
SLOW = True


def make(folder: Path, window: int = 128) -> Path:
    """Write the model into a folder, and return it.

    Args:
        folder: to make.
        window: tokens of the text that each sees; the published model has 128.
    """
    pytest.importorskip("transformers.models.unlimited_ocr", reason="this transformers does not have the model")
    from transformers import UnlimitedOcrConfig, UnlimitedOcrProcessor

    from deepsynth.models.unlimited_ocr.image_processing import UnlimitedOcrImageProcessor

    special = ["<bos>", "<eos>", "<pad>", "<image>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<td>", "</td>"]
    tokenizer = byte_tokenizer(special, eos="<eos>", pad="<pad>", bos_token="<bos>")
    views = UnlimitedOcrImageProcessor(size={"height": 128, "width": 128}, tile_size=64, max_patches=4)
    processor = UnlimitedOcrProcessor(views, tokenizer, patch_size=8)
    first = tiny_config(page_size=128, patch_size=8, vocab_size=len(tokenizer), max_positions=2048)
    text, vision = first.text_config.to_dict(), first.vision_config.to_dict()
    config = UnlimitedOcrConfig(
        text_config={**_fields(text), "sliding_window": window, "layer_types": None},
        vision_config={name: _fields(vision[name]) for name in ("sam_config", "encoder_config")},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return write(folder, config, processor)


def _fields(config: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name not in ("model_type", "architectures", "dtype")}
