"""DeepSeek-OCR's kind: SAM, CLIP and a decoder with experts."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.tiny_config import tiny_config
from tests.helpers.tiny_models import byte_tokenizer, write

PAGES = ((128, 128), (128, 64))
SLOW = False


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
    from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor

    tokenizer = byte_tokenizer(["<bos>", "<eos>", "<pad>", "<image>"], bos_token="<bos>", eos="<eos>", pad="<pad>")
    images = DeepseekOcrImageProcessor(size={"height": 128, "width": 128}, crop_to_patches=False)
    config = tiny_config(page_size=128, vocab_size=len(tokenizer), layers=2, experts=4)
    return write(folder, config, DeepseekOcrProcessor(images, tokenizer, patch_size=16))
