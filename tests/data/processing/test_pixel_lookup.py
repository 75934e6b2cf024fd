"""Views as bytes against what the Hugging Face processors compute."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.pixel_lookup import ViewTable, patch_table, view_table
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.models.tokens import MODES, ImageLayout
from deepsynth.types import Document, Page, Sample
from tests.helpers.tiny_models import skip_without_image_processors

#: DeepSeek-OCR and DeepSeek-OCR-2, at their own resolutions and at all that are published.
PROCESSORS = [
    (name, mode)
    for name, family in (("deepsynth/tiny", "deepseek_ocr"), ("deepsynth/full-size-ocr-2", "deepseek_ocr2"))
    for mode in (None, *MODES[family])
]
RNG = np.random.default_rng(5)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def gray_noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width), dtype=np.uint8)).convert("RGB")


@cache
def processor_of(name: str, mode: str | None) -> OcrProcessor:
    return OcrProcessor(name, mode, max_tokens=10**6)


def sample_of(processor: OcrProcessor, *images: Image.Image) -> Sample:
    pages = [Page(image, "words", number=number) for number, image in enumerate(images)]
    sample = processor(Document("d", "words", target="w"), pages)
    assert sample is not None
    return sample


def expected_of(processor: OcrProcessor, *images: Image.Image) -> dict[str, torch.Tensor]:
    kwargs = processor.layout.processor_kwargs()
    return dict(processor.hf_processor.image_processor(images=list(images), return_tensors="pt", **kwargs))


def check(processor: OcrProcessor, *images: Image.Image) -> Sample:
    """Compare what the model gets with what the processor computes, bit for bit, and return the sample."""
    sample = sample_of(processor, *images)
    assert sample.images["pixel_values"].dtype == torch.uint8
    found = Collator()([sample]).with_pixel_values()
    assert found.pixel_table is None
    expected = expected_of(processor, *images)
    assert found.images.keys() == expected.keys()
    for key, value in expected.items():
        assert found.images[key].dtype == value.dtype
        assert torch.equal(found.images[key], value), key
        assert torch.equal(found.inputs[key], value), key
    return sample


@pytest.mark.parametrize(("name", "mode"), PROCESSORS)
def test_the_model_gets_what_the_processor_computes(name: str, mode: str | None) -> None:
    processor = processor_of(name, mode)
    side = processor.layout.base_size
    check(processor, noise(side, side), noise(side, side))  # pages of the mode's size
    long = (processor.layout.tile_size or side // 2) + 10
    sample = check(processor, noise(long, long // 3), noise(side, side), noise(31, 47))  # resized, padded, tiles
    assert ("pixel_values_local" in sample.images) == (processor.layout.tile_size is not None)


@pytest.mark.parametrize(("name", "mode"), PROCESSORS)
def test_gray_pages_have_one_channel(name: str, mode: str | None) -> None:
    processor = processor_of(name, mode)
    side = processor.layout.base_size
    sample = check(processor, gray_noise(side, side))
    assert sample.images["pixel_values"].shape == (1, 1, side, side)
    sample = check(processor, gray_noise(side + 400, side))
    # Padding may bring color in: the mean of the normalization.
    assert sample.images.get("pixel_values_local", torch.empty(0, 1)).shape[1] == 1


def test_gray_and_color_are_joined() -> None:
    processor = processor_of("deepsynth/full-size-ocr-2", "gundam")
    pages = [gray_noise(1000, 700), noise(1000, 700), gray_noise(300, 200)]
    samples = [sample_of(processor, page) for page in pages]
    assert [sample.images["pixel_values"].shape[1] for sample in samples] == [1, 3, 1]
    batch = Collator()(samples)
    assert batch.images["pixel_values"].shape == (3, 3, 1024, 1024)
    expected = [expected_of(processor, page) for page in pages]
    inputs = batch.inputs
    for name in ("pixel_values", "pixel_values_local"):
        assert torch.equal(inputs[name], torch.cat([own[name] for own in expected if name in own]))


def test_pages_of_gray_stay_small_in_a_batch() -> None:
    processor = processor_of("deepsynth/full-size-ocr-2", "base")
    batch = Collator()([sample_of(processor, gray_noise(1024, 1024)) for _ in range(2)])
    assert batch.images["pixel_values"].nbytes == 2 * 1024 * 1024
    moved = batch.map_tensors(lambda tensor: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor)
    # The table in the model's dtype gives the values in that dtype.
    assert torch.equal(moved.inputs["pixel_values"], batch.inputs["pixel_values"].to(torch.bfloat16))


def layout() -> ImageLayout:
    return processor_of("deepsynth/full-size-ocr-2", "base").layout


def test_pages_that_need_the_processor_are_left_to_it() -> None:
    processor = processor_of("deepsynth/full-size-ocr-2", "base")
    turned = noise(1024, 1024)
    turned.info["exif"] = b"Exif\x00\x00"
    for page in (noise(1024, 1024).convert("L"), turned, noise(1000, 1024)):
        check(processor, page)


def test_a_page_of_the_modes_size_does_not_take_the_processor() -> None:
    processor = processor_of("deepsynth/full-size-ocr-2", "base")
    table = view_table(processor.hf_processor.image_processor, layout())
    assert isinstance(table, ViewTable)
    page = noise(1024, 1024)
    found = table([page, page], None)
    assert torch.equal(found["pixel_values"][1].permute(1, 2, 0), torch.from_numpy(np.array(page)))
    with pytest.raises(TypeError, match="NoneType"):
        table([page.resize((512, 512))], None)


def test_a_processor_that_does_more_than_look_at_bytes_has_no_table() -> None:
    def blurring(images: Any, do_normalize: bool = True, **_: Any) -> dict[str, torch.Tensor]:
        array = np.asarray(images[0]).transpose(2, 0, 1)[None].copy()
        if not do_normalize:
            return {"pixel_values": torch.from_numpy(array)}
        values = array.astype(np.float32) / 255
        values[..., 1:] = (values[..., 1:] + values[..., :-1]) / 2
        return {"pixel_values": torch.from_numpy(values)}

    assert view_table(blurring, layout()) is None


def test_a_processor_that_takes_no_bytes_has_no_table() -> None:
    def computing(images: Any, **_: Any) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.from_numpy(np.asarray(images[0], np.float32).transpose(2, 0, 1)[None].copy())}

    assert view_table(computing, layout()) is None


def test_samples_of_a_processor_without_a_table_have_values(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = OcrProcessor("deepsynth/full-size-ocr-2", "base", max_tokens=10**6)
    image_processor = processor.hf_processor.image_processor

    class Computing(type(image_processor)):  # type: ignore[misc]
        def __call__(self, *args: Any, **options: Any) -> Any:
            return super().__call__(*args, **{**options, "do_rescale": True, "do_normalize": True})

    monkeypatch.setattr(processor.hf_processor, "image_processor", Computing.from_dict(image_processor.to_dict()))
    page = noise(1024, 1024)
    batch = Collator()([sample_of(processor, page)])
    assert batch.pixel_table is None
    assert batch.images["pixel_values"].dtype == torch.float32
    assert torch.equal(batch.images["pixel_values"], expected_of(processor, page)["pixel_values"])


@pytest.mark.parametrize("name", ["paddleocr-vl", "glm-ocr", "qwen2.5-vl"])
def test_patches_travel_as_bytes_and_become_the_processors_own_values(name: str) -> None:
    """Bit for bit: of whole blocks and resized, in color and gray, alone and in one batch."""
    if name == "paddleocr-vl":
        skip_without_image_processors()
    processor = OcrProcessor(f"deepsynth/full-size-{name}")
    own = processor.hf_processor.image_processor
    pictures = [noise(336, 364), gray_noise(364, 336), noise(431, 377), gray_noise(57, 399)]
    samples = []
    for number, picture in enumerate(pictures):
        sample = processor(Document(str(number), "a"), [Page(picture, "a")])
        assert sample is not None
        values = own(images=[picture], return_tensors="pt")["pixel_values"]
        channels = 1 if number % 2 else 3
        assert sample.images["pixel_values"].dtype == torch.uint8
        assert sample.images["pixel_values"].shape == (len(values), channels, 14, 14)
        samples.append(sample)
        found = Collator()([sample]).with_pixel_values().images
        assert torch.equal(found["pixel_values"], values)
    together = Collator()(samples).inputs
    assert torch.equal(together["pixel_values"], own(images=pictures, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("size", [(56 * 56, 112 * 112), (28 * 28, 28 * 28)], ids=str)
def test_every_byte_has_its_value_whatever_the_budget(size: tuple[int, int]) -> None:
    """A processor with a small budget makes pages smaller, and noise on them gray: not every byte is left."""
    images = OcrProcessor("deepsynth/full-size-qwen2.5-vl").hf_processor.image_processor
    images.size = dict(zip(("shortest_edge", "longest_edge"), size, strict=True))
    table = patch_table(images)
    assert table is not None
    for value in range(0, 256, 15):
        page = Image.new("RGB", (112, 112), (value, 0, 255))
        expected = images(images=[page], return_tensors="pt")["pixel_values"].view(-1, 3, 2, 14, 14)
        assert torch.equal(table.values[:, :, [value, 0, 255]].diagonal(dim1=0, dim2=2), expected[0, :, :, 0, 0].T)


def test_patches_that_do_not_follow_from_bytes_stay_values() -> None:
    own = OcrProcessor("deepsynth/full-size-glm-ocr").hf_processor.image_processor

    class Dithered:
        """An image processor whose values depend on where a byte stands."""

        patch_size, merge_size = own.patch_size, own.merge_size

        def __call__(self, **kwargs: Any) -> Any:
            found = own(**kwargs)
            if kwargs.get("do_rescale", True):
                found["pixel_values"] += torch.arange(found["pixel_values"].shape[1]) / 1000
            return found

    assert patch_table(own) is not None
    assert patch_table(Dithered()) is None
