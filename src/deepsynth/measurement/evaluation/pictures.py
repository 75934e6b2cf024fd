"""Pictures of pages with the boxes of a target and of a prediction."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from deepsynth.metrics.structure import parse_blocks

#: Colors of the boxes of targets and of predictions.
TARGET, PREDICTION = "#1a8f3c", "#d3322b"
_LARGEST = 999
_SIDE_PX = 720


def with_boxes(image: Image.Image, prediction: str, target: str) -> Image.Image:
    """Return a page at a size for the screen, with the boxes that two texts name, those of the prediction on top.

    Args:
        image: the page.
        prediction: with ``<|det|>`` boxes, or none.
        target: the same.
    """
    page = image.convert("RGB")
    page.thumbnail((_SIDE_PX, _SIDE_PX))
    draw = ImageDraw.Draw(page)
    for text, color in ((target, TARGET), (prediction, PREDICTION)):
        for block in parse_blocks(text)[0]:
            for left, top, right, bottom in block.boxes:
                x, y = page.width / _LARGEST, page.height / _LARGEST
                draw.rectangle((left * x, top * y, right * x, bottom * y), outline=color)
    return page


def encoded(images: Sequence[Image.Image]) -> list[str]:
    """Return pictures as data URLs."""
    urls = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=80)
        urls.append(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")
    return urls
