"""Pages of a seed stay as they were: a data set can be drawn again, on another machine and with a later version.

The fixture has the means of small cells of a page after each degradation. What changes them changes the pages of all
users' seeds. Where that is meant, say so in the changelog and record again:
``python -m tests.data.augmentation.test_recorded``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from deepsynth.data.augmentation.augmenter import PageAugmenter
from deepsynth.data.augmentation.base import BoxArray, Degradation, ImageArray

FILE = Path(__file__).parents[2] / "fixtures" / "degraded_pages.json"
CELL = 24
#: Of 255: versions of OpenCV draw the letters of a stamp differently, by up to 1.6 here.
TOLERANCE = 2.0
#: Paper and ink of the pages; a number is a gray page.
COLORS: dict[str, tuple[Any, Any]] = {
    "gray": (245, 30),
    "color": ((250, 240, 225), (20, 30, 80)),
    "dark": (25, 220),
    "white": (255, 0),
}
KINDS: dict[str, type[Degradation]] = {
    name: kind
    for name, hint in get_type_hints(PageAugmenter).items()
    if name in {field.name for field in fields(PageAugmenter)}
    for kind in get_args(hint)
    if isinstance(kind, type) and issubclass(kind, Degradation)
}


def page(paper: Any, ink: Any) -> tuple[ImageArray, BoxArray]:
    """Return a page (96, 144) of two lines of letters, and a box for each word of three letters."""
    image = np.full((96, 144) if isinstance(paper, int) else (96, 144, 3), paper, np.uint8)
    boxes = []
    for top in (22, 50):
        for left in (20, 52, 84):
            for x in range(left, left + 24, 8):
                image[top : top + 10, x : x + 6] = ink
                image[top + 3 : top + 6, x + 2 : x + 4] = paper
            boxes.append((left, top, left + 22, top + 10))
    return image, np.array(boxes, dtype=np.float64)


def seen(name: str, seed: int, color: str) -> dict[str, Any]:
    """Return the means of the cells and of the channels, and the boxes of a page with one degradation."""
    image, boxes = KINDS[name]()(*page(*COLORS[color]), np.random.default_rng(seed))
    gray = image if image.ndim == 2 else image.mean(axis=2)
    cells = gray.reshape(96 // CELL, CELL, 144 // CELL, CELL).mean(axis=(1, 3))
    channels = [] if image.ndim == 2 else image.mean(axis=(0, 1)).round(1).tolist()
    return {"cells": cells.round(1).tolist(), "channels": channels, "boxes": boxes[::5].round(1).tolist()}


@pytest.mark.parametrize("name", KINDS)
def test_a_degraded_page_is_the_one_that_was_recorded(name: str) -> None:
    recorded = json.loads(FILE.read_text())[name]
    for seed, color in enumerate(COLORS):
        found = seen(name, seed, color)
        for part, expected in recorded[color].items():
            assert np.shape(found[part]) == np.shape(expected)
            assert np.abs(np.subtract(found[part], expected)).max(initial=0.0) <= TOLERANCE, (color, part)


if __name__ == "__main__":
    pages = {name: {color: seen(name, seed, color) for seed, color in enumerate(COLORS)} for name in KINDS}
    FILE.write_text(
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(own)}" for name, own in pages.items()) + "\n}\n"
    )
