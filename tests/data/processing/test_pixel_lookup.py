"""Looked-up pixels against what the Hugging Face processors compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepsynth.data.processing.pixel_lookup import view_table
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.models.tokens import ImageLayout
from deepsynth.types import Document, Page

PROCESSORS = [("deepsynth/tiny", None), ("deepsynth/tiny-random", None), ("deepsynth/tiny-random", "base")]


def pages_of(side: int, count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize(("name", "mode"), PROCESSORS)
def test_looked_up_views_are_what_the_processor_computes(name: str, mode: str | None) -> None:
    processor = OcrProcessor(name, mode)
    layout = processor.layout
    table = view_table(processor.hf_processor.image_processor, layout)
    if layout.tile_grid(layout.base_size, layout.base_size) != (1, 1):
        assert table is None
        return
    pages = pages_of(layout.base_size)
    assert table.serves(pages)
    expected = processor.hf_processor.image_processor(images=pages, return_tensors="pt", **layout.processor_kwargs())
    found = table(pages)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_other_pages_are_left_to_the_processor() -> None:
    table = view_table(OcrProcessor("deepsynth/tiny-random", "base").hf_processor.image_processor, base_layout())
    (page,) = pages_of(1024, 1)
    assert table.serves([page])
    assert not table.serves([page, page.resize((1000, 1024))])
    assert not table.serves([page.convert("L")])
    turned = page.copy()
    turned.info["exif"] = b"Exif\x00\x00"
    assert not table.serves([turned])


def base_layout() -> ImageLayout:
    return OcrProcessor("deepsynth/tiny-random", "base").layout


def test_a_processor_that_does_more_than_look_at_bytes_has_no_table() -> None:
    def blurring(images: Any, return_tensors: str, **_: Any) -> dict[str, torch.Tensor]:
        array = np.asarray(images[0], np.float32) / 255
        array[1:] = (array[1:] + array[:-1]) / 2
        return {"pixel_values": torch.from_numpy(array.transpose(2, 0, 1)[None].copy())}

    assert view_table(blurring, base_layout()) is None


@pytest.mark.parametrize(("name", "mode"), PROCESSORS)
def test_samples_are_the_same_either_way(name: str, mode: str | None) -> None:
    processor = OcrProcessor(name, mode, max_tokens=10**6)
    side = processor.layout.base_size
    pages = [Page(image, "words", number=number) for number, image in enumerate(pages_of(side))]
    fast = processor(Document("d", "words", target="w"), pages)
    object.__setattr__(processor, "_view_table", None)
    slow = processor(Document("d", "words", target="w"), pages)
    assert fast.images.keys() == slow.images.keys()
    assert all(torch.equal(fast.images[key], slow.images[key]) for key in slow.images)
    assert torch.equal(fast.input_ids, slow.input_ids)
