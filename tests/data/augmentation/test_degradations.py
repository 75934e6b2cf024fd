"""Each degradation: its limits, its effect, and boxes that move with the pixels."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsynth.data.augmentation import (
    books,
    borders,
    device,
    geometric,
    ink,
    light,
    optics,
    paper,
)
from deepsynth.data.augmentation.augmenter import PageAugmenter
from deepsynth.data.augmentation.base import BoxArray, Degradation, ImageArray, fade_to
from deepsynth.data.augmentation.device import Fax, ScannerEdges
from deepsynth.data.augmentation.geometric import GeometricDegradation, PageCurl, Perspective, Ripple, Rotation, Skew
from deepsynth.data.augmentation.geometry import Displacement, Homography, fit, outline
from deepsynth.data.augmentation.ink import InkFade, SaltAndPepper
from deepsynth.data.augmentation.light import ColorCast
from deepsynth.data.augmentation.optics import SensorNoise
from deepsynth.data.augmentation.paper import BleedThrough
from deepsynth.types import Page
from tests.helpers.degradation_pages import box_page, text_page

MODULES = (
    books,
    borders,
    device,
    geometric,
    ink,
    light,
    optics,
    paper,
)
ALL = [
    found
    for module in MODULES
    for _, found in inspect.getmembers(module, inspect.isclass)
    if found.__module__ == module.__name__ and dataclasses.is_dataclass(found)
]
WORDS = [(20.0, 20.0, 90.0, 34.0), (110.0, 22.0, 180.0, 40.0), (24.0, 100.0, 60.0, 112.0), (100.0, 150.0, 186.0, 170.0)]


def arrays(gray: bool, page: Page | None = None) -> tuple[ImageArray, BoxArray]:
    page = page or text_page(200, 14, margin=20)
    image = np.asarray(page.image.convert("L" if gray else "RGB"))
    boxes = np.array([word.box for line in page.lines for word in line.words])
    return image, boxes


def test_every_degradation_is_an_option_of_the_augmenter() -> None:
    names = {field.name for field in dataclasses.fields(PageAugmenter)} - {"preset"}
    assert {degradation.key for degradation in ALL} == names
    assert len(ALL) == len(names)


@pytest.mark.parametrize("degradation", ALL, ids=lambda degradation: degradation.__name__)
@pytest.mark.parametrize("gray", [True, False], ids=["gray", "rgb"])
def test_each_gives_an_image_of_the_same_size_and_leaves_its_input(degradation: Any, gray: bool) -> None:
    image, boxes = arrays(gray)
    kept_image, kept_boxes = image.copy(), boxes.copy()
    image.setflags(write=False)
    boxes.setflags(write=False)
    changed = False
    for seed in range(5):
        result, moved = degradation()(image, boxes, np.random.default_rng(seed))
        again, _ = degradation()(image, boxes, np.random.default_rng(seed))
        assert result.dtype == np.uint8
        assert result.shape[:2] == image.shape[:2]
        assert result.ndim == 2 or result.shape[2] == 3
        assert moved.shape == boxes.shape
        assert np.array_equal(result, again)
        changed |= result.shape != image.shape or not np.array_equal(result, image)
        if not issubclass(degradation, (GeometricDegradation, books.LetterJitter)):
            assert np.array_equal(moved, boxes)
    assert changed != (gray and degradation.key == "grayscale")
    assert np.array_equal(image, kept_image)
    assert np.array_equal(boxes, kept_boxes)


@pytest.mark.parametrize(
    "degradation",
    [degradation for degradation in ALL if degradation is not SensorNoise],  # each channel has noise of its own
    ids=lambda degradation: degradation.__name__,
)
def test_a_gray_page_is_degraded_alike_whether_it_has_one_channel_or_three(degradation: Any) -> None:
    image, boxes = arrays(gray=True)
    for seed in range(2):
        one, moved = degradation()(image, boxes, np.random.default_rng(seed))
        three, also = degradation()(np.stack([image] * 3, axis=-1), boxes, np.random.default_rng(seed))
        expected = one if one.ndim == three.ndim else np.stack([one] * 3, axis=-1)
        assert np.abs(three.astype(int) - expected).max() <= 1  # of JPEG
        assert np.array_equal(moved, also)


@pytest.mark.parametrize("degradation", ALL, ids=lambda degradation: degradation.__name__)
def test_a_probability_beyond_0_to_1_is_refused(degradation: Any) -> None:
    for value in (-0.1, 1.5, float("nan"), "often", True, None):
        message = rf"^augmenter\.{degradation.key}\.probability is {re.escape(repr(value))}; it must be 0 to 1\Z"
        with pytest.raises(ValueError, match=message):
            degradation(probability=value)


OPTIONS = [
    (degradation, field.name)
    for degradation in ALL
    for field in dataclasses.fields(degradation)
    if field.name != "probability"
]


@pytest.mark.parametrize(("degradation", "name"), OPTIONS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_range_is_refused_and_named(degradation: Any, name: str) -> None:
    default = getattr(degradation(), name)
    pair = isinstance(default, tuple) or default is None
    wrong = [(2.0, 1.0), (-1.0, 0.5), (0.1, 1e6), (0.1,), 0.5, "ab", (0.5, float("nan"))] if pair else [-1.0, 1e6, "a"]
    for value in wrong:
        with pytest.raises(ValueError, match=rf"^augmenter\.{degradation.key}\.{name} is .*; it must be [^\n]*$"):
            degradation(**{name: value})


@pytest.mark.parametrize(("degradation", "name"), OPTIONS, ids=lambda value: getattr(value, "__name__", value))
def test_an_option_goes_from_end_to_end_of_its_documented_range(degradation: Any, name: str) -> None:
    default = getattr(degradation(), name)
    text = re.split(r"\n *\w+: ", (inspect.getdoc(degradation) or "").partition(f" {name}: ")[2])[0]
    low, high = map(float, re.findall(r"([\d.]+) to ([\d.]+)[.;]", " ".join(text.split()))[-1])
    is_pair = not isinstance(default, (int, float))
    kind = type(default[0] if isinstance(default, tuple) else default) if default is not None else float
    beyond = [low - 0.01, high + 0.01]
    for value in [(beyond[0], high), (low, beyond[1])] if is_pair else beyond:
        with pytest.raises(ValueError, match=rf"{low:g} to {high:g}$"):
            degradation(**{name: value})
    image, boxes = arrays(gray=False)
    for end in (kind(low), kind(high)):
        option = {name: (end, end) if is_pair else end}
        result, moved = degradation(**option)(image, boxes, np.random.default_rng(0))
        assert result.shape == image.shape or result.shape == image.shape[:2]
        assert moved.min() >= 0
        assert moved.max() <= 200


@settings(max_examples=60, deadline=None)
@given(
    degradation=st.sampled_from(
        [
            Rotation(degrees=(0.0, 15.0)),
            Skew(degrees=(0.0, 10.0)),
            Perspective(shift=(0.0, 0.2)),
            PageCurl(height=(0.0, 0.06), reach=(0.1, 0.5)),
            Ripple(amplitude=(0.0, 0.01), wavelength=(0.5, 2.0)),
        ]
    ),
    seed=st.integers(0, 2**32),
)
def test_boxes_move_with_the_pixels(degradation: Any, seed: int) -> None:
    page = box_page(WORDS, 200, 200)
    image, boxes = arrays(gray=True, page=page)
    moved_image, moved = degradation(image, boxes, np.random.default_rng(seed))
    ink = moved_image < 128
    outside = ink.copy()
    for left, top, right, bottom in moved:
        window = ink[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        # Each word's ink reaches all four sides of its box, to a pixel and a half.
        rows, columns = np.nonzero(window)
        assert rows.min() <= 1.5
        assert columns.min() <= 1.5
        assert rows.max() >= window.shape[0] - 2.5
        assert columns.max() >= window.shape[1] - 2.5
        low_y, low_x = max(int(top) - 1, 0), max(int(left) - 1, 0)
        outside[low_y : int(np.ceil(bottom)) + 1, low_x : int(np.ceil(right)) + 1] = False
    assert not outside.any(), "no ink lies outside the boxes"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-500, 800)] * 4), min_size=1, max_size=8))
def test_fit_brings_all_points_inside_and_moves_nothing_that_is(
    corners: list[tuple[float, float, float, float]],
) -> None:
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
    points = outline(boxes, 2)
    fitted = fit(points, 300, 200).forward(points)
    assert fitted.min() >= 1 - 1e-6
    assert (fitted <= np.array([299, 199]) + 1e-6).all()
    again = fit(fitted, 300, 200)
    assert np.allclose(again.forward(fitted), fitted, atol=1e-6)


def test_mappings_are_inverted() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 300, size=(50, 2))
    mappings = [kind().mapping(300, 300, rng) for kind in (Rotation, Skew, Perspective, PageCurl, Ripple)]
    assert {type(mapping) for mapping in mappings} == {Homography, Displacement}
    for mapping in mappings:
        there = mapping.forward(points)
        assert np.abs(there - points).max() > 0.05
        assert np.allclose(mapping.backward(there), points, atol=0.02)


def test_scanner_edges_never_reach_a_word() -> None:
    image, boxes = arrays(gray=True, page=box_page([(3.0, 2.0, 150.0, 198.0), (60.0, 60.0, 180.0, 80.0)], 200, 200))
    for seed in range(30):
        result, _ = ScannerEdges(size=(0.1, 0.1))(image, boxes, np.random.default_rng(seed))
        for left, top, right, bottom in boxes.astype(int):
            assert np.array_equal(result[top:bottom, left:right], image[top:bottom, left:right])


def test_fax_gives_black_and_white_and_keeps_a_blank_page_blank() -> None:
    image, boxes = arrays(gray=False)
    result, _ = Fax()(image, boxes, np.random.default_rng(0))
    assert set(np.unique(result)) == {0, 255}
    noisy, _ = SensorNoise(sigma=(6.0, 6.0))(np.full((200, 200), 240, np.uint8), boxes, np.random.default_rng(0))
    assert np.unique(Fax(bad_lines=(0, 0))(noisy, boxes, np.random.default_rng(0))[0]).tolist() == [255]


@pytest.mark.parametrize("dark", [False, True])
def test_a_fax_decides_between_the_paper_and_the_ink_and_not_a_few_specks(dark: bool) -> None:
    """Ink is 120 on a fifth of the page, specks of 0 on 3 of 1,000 pixels: half way to the paper is 187."""
    image = np.full((200, 200), 255, np.uint8)
    image[20:70, 20:180] = 120
    image[100:110, 20:32] = 0
    image[120:140, 20:40], image[120:140, 60:80] = 180, 195
    fax = Fax(scale=(1.0, 1.0), threshold=(0.5, 0.5), bad_lines=(0, 0))
    result, _ = fax(255 - image if dark else image, np.zeros((1, 4)), np.random.default_rng(0))
    assert np.array_equal(result, np.where((image < 187) != dark, 0, 255))


def test_fax_keeps_light_text_on_dark_paper() -> None:
    image, boxes = arrays(gray=True)
    result, _ = Fax(bad_lines=(0, 0))(255 - image, boxes, np.random.default_rng(0))
    assert 0.01 < (result == 255).mean() < 0.4


def test_noise_has_the_asked_sigma() -> None:
    flat = np.full((400, 400, 3), 128, np.uint8)
    noisy, _ = SensorNoise(sigma=(10.0, 10.0))(flat, np.zeros((1, 4)), np.random.default_rng(0))
    assert noisy.std() == pytest.approx(10.0, rel=0.01)
    assert noisy.mean() == pytest.approx(128.0, abs=0.5)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.05


def test_a_page_larger_than_the_noise_is_covered() -> None:
    noisy, _ = SensorNoise(sigma=(10.0, 10.0))(
        np.full((1700, 1500, 3), 128, np.uint8), np.zeros((1, 4)), np.random.default_rng(0)
    )
    assert noisy[-50:, -50:].std() == pytest.approx(10.0, rel=0.05)


def test_salt_and_pepper_specks_the_asked_share() -> None:
    flat = np.full((400, 400), 128, np.uint8)
    specked, _ = SaltAndPepper(share=(0.02, 0.02))(flat, np.zeros((1, 4)), np.random.default_rng(0))
    assert (specked == 0).mean() == pytest.approx(0.01, rel=0.1)
    assert (specked == 255).mean() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("dark", [False, True])
def test_ink_fades_towards_the_paper_whichever_is_darker(dark: bool) -> None:
    image, boxes = arrays(gray=True)
    image = 255 - image if dark else image
    paper = 0 if dark else 255
    faded, _ = InkFade(amount=(0.5, 0.5))(image, boxes, np.random.default_rng(0))
    distance = np.abs(image.astype(int) - paper)
    assert np.abs(np.abs(faded.astype(int) - paper) - distance / 2).max() <= 2


def test_fade_to_reaches_the_color_from_both_sides() -> None:
    image = np.array([[[0, 100, 255]]], np.uint8)
    assert fade_to(image, (100, 100, 100), np.array([[255]], np.uint8)).tolist() == [[[100, 100, 100]]]
    assert fade_to(image, (100, 100, 100), np.array([[0]], np.uint8)).tolist() == image.tolist()


def test_bleed_through_leaves_ink_and_shows_on_paper() -> None:
    image, boxes = arrays(gray=True)
    result, _ = BleedThrough(strength=(0.1, 0.1))(image, boxes, np.random.default_rng(1))
    assert (result <= image).all()
    assert 0 < (image.astype(int) - result).max() <= 0.1 * 255 + 1


def test_color_cast_keeps_one_channel() -> None:
    flat = np.full((50, 50), 200, np.uint8)
    tinted, _ = ColorCast(strength=(0.2, 0.2))(flat, np.zeros((1, 4)), np.random.default_rng(0))
    assert sorted(tinted[0, 0])[0] == 160
    assert sorted(tinted[0, 0])[2] == 200


def test_the_base_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Degradation()
