"""Presets and overrides of the augmenter: same text, every word on the page, the same pixels everywhere."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image
from rapidfuzz.distance import Levenshtein

from deepsynth.data.augmentation.augmenter import Augmenter, PageAugmenter
from deepsynth.data.augmentation.device import Grayscale, InverseVideo, Jpeg
from deepsynth.data.augmentation.geometric import Perspective, Rotation, Skew
from deepsynth.data.augmentation.optics import SensorNoise
from deepsynth.data.augmentation.presets import PRESETS
from deepsynth.types import Box, Page
from tests.helpers.degradation_pages import box_page, text_page

ROOT = Path(__file__).parents[3]
DEGRADING = [name for name in PRESETS if name != "none"]


def fingerprint(page: Page) -> str:
    boxes = repr([(line.box, [word.box for word in line.words]) for line in page.lines])
    return hashlib.sha256(page.image.tobytes() + boxes.encode()).hexdigest()


def test_a_page_is_gray_when_its_channels_are_equal_and_else_keeps_its_colors() -> None:
    page = text_page(128, 14, margin=10)
    levels = np.asarray(page.image.convert("L"))
    augmenter = PageAugmenter("none", sensor_noise=SensorNoise(sigma=(5.0, 5.0)))
    for channel in (None, 0, 1, 2):
        pixels = np.stack([levels] * 3, axis=-1)
        if channel is not None:
            pixels[..., channel] ^= 1  # by one level
        found = augmenter(replace(page, image=Image.fromarray(pixels)), np.random.default_rng(0)).image
        gray = augmenter(replace(page, image=Image.fromarray(levels)), np.random.default_rng(0)).image
        assert (found.tobytes() == gray.convert("RGB").tobytes()) == (channel is None)


def test_none_returns_the_page_itself() -> None:
    page = text_page(256, 14, margin=20)
    assert PageAugmenter("none")(page, np.random.default_rng(0)) is page


@pytest.mark.parametrize("preset", DEGRADING)
def test_presets_change_pixels_and_keep_size_text_and_words(preset: Any) -> None:
    page = text_page(512, 14)
    augmenter = PageAugmenter(preset)
    changed = 0
    for seed in range(12):
        degraded = augmenter(page, np.random.default_rng(seed))
        changed += degraded.image.tobytes() != page.image.tobytes()
        assert degraded.image.mode == "RGB"
        assert degraded.image.size == page.image.size
        assert degraded.text == page.text
        assert [line.text for line in degraded.lines] == [line.text for line in page.lines]
        for line, before in zip(degraded.lines, page.lines, strict=True):
            assert [word.text for word in line.words] == [word.text for word in before.words]
            assert (line.font, line.font_size_px) == (before.font, before.font_size_px)
    assert changed >= 10


def test_the_page_given_is_not_changed() -> None:
    page = text_page(256, 12, margin=20)
    before = fingerprint(page)
    for seed in range(8):
        PageAugmenter("hard")(page, np.random.default_rng(seed))
    assert fingerprint(page) == before


def boxes_in(width: int, height: int) -> st.SearchStrategy[list[Box]]:
    corner = st.tuples(st.integers(0, width - 9), st.integers(0, height - 9))
    size = st.tuples(st.integers(8, width // 2), st.integers(8, height // 8))

    def box(place: tuple[tuple[int, int], tuple[int, int]]) -> Box:
        (left, top), (wide, high) = place
        return float(left), float(top), float(min(left + wide, width)), float(min(top + high, height))

    return st.lists(st.tuples(corner, size).map(box), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), preset=st.sampled_from(["photo", "hard"]))
def test_every_word_stays_inside(data: st.DataObject, seed: int, preset: Any) -> None:
    width, height = data.draw(st.sampled_from([(160, 160), (120, 200), (257, 96)]))
    page = box_page(data.draw(boxes_in(width, height)), width, height)
    degraded = PageAugmenter(preset)(page, np.random.default_rng(seed))
    assert len(degraded.lines) == len(page.lines)
    for line in degraded.lines:
        for left, top, right, bottom in (line.box, line.words[0].box):
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_a_page_without_boxes_stays_on_the_page_as_a_whole() -> None:
    image = Image.new("RGB", (200, 120), (0, 0, 255))
    image.paste((255, 255, 255), (4, 4, 196, 116))
    for corner in ((0, 0), (199, 0), (0, 119), (199, 119)):
        image.putpixel(corner, (255, 0, 0))
    augmenter = PageAugmenter("none", rotation=Rotation(degrees=(5.0, 9.0)), perspective=Perspective(desk=(0.0, 0.0)))
    for seed in range(20):
        degraded = np.asarray(augmenter(Page(image, ""), np.random.default_rng(seed)).image).astype(int)
        blue = (degraded[..., 2] > 90) & (degraded[..., 0] < 120)
        rows, columns = np.nonzero(blue)
        # All four sides of the frame are seen, away from the edge where the desk begins.
        assert rows.min() > 0
        assert rows.max() < 119
        assert columns.min() > 0
        assert columns.max() < 199
        assert blue.sum() > 0.6 * (4 * (200 + 120) * 0.8)


def test_same_generator_same_page_in_any_order() -> None:
    page = text_page(256, 12, margin=20)
    augmenter = PageAugmenter("hard")
    there = {seed: fingerprint(augmenter(page, np.random.default_rng(seed))) for seed in range(12)}
    back = {seed: fingerprint(augmenter(page, np.random.default_rng(seed))) for seed in reversed(range(12))}
    assert there == back
    assert len(set(there.values())) == 12


def test_same_pixels_in_another_process_and_with_other_threads() -> None:
    program = (
        "import cv2, numpy as np\n"
        "cv2.setNumThreads(3)\n"
        "from tests.data.augmentation.test_augmenter import fingerprint, text_page, PageAugmenter\n"
        "for seed in (7, 3):\n"
        "    print(fingerprint(PageAugmenter('hard')(text_page(512, 12), np.random.default_rng(seed))))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, cwd=ROOT
    )
    page = text_page(512, 12)
    here = [fingerprint(PageAugmenter("hard")(page, np.random.default_rng(seed))) for seed in (7, 3)]
    assert run.stdout.split() == here


def test_opencv_threads_are_switched_off() -> None:
    cv2.setNumThreads(2)
    PageAugmenter("none", inverse_video=InverseVideo())(text_page(64, 12, margin=4), np.random.default_rng(0))
    assert cv2.getNumThreads() == 1


def test_changing_one_degradation_changes_no_other() -> None:
    page = text_page(256, 12, margin=20)
    turned = PageAugmenter("none", rotation=Rotation(degrees=(1.0, 3.0)))
    both = PageAugmenter("none", rotation=Rotation(degrees=(1.0, 3.0)), jpeg=Jpeg(quality=(50.0, 90.0)))
    for seed in range(3):
        one = turned(page, np.random.default_rng(seed))
        two = both(page, np.random.default_rng(seed))
        assert one.lines == two.lines
        assert one.image.tobytes() != two.image.tobytes()


def test_an_override_replaces_the_presets_own() -> None:
    page = text_page(128, 12, margin=10)
    quiet = {degradation.key: type(degradation)(probability=0.0) for degradation in PRESETS["scan"]}
    for seed in range(10):
        assert PageAugmenter("scan", **quiet)(page, np.random.default_rng(seed)) is page
    inverted = PageAugmenter("scan", **quiet, inverse_video=InverseVideo())(page, np.random.default_rng(0))
    assert np.array_equal(np.asarray(inverted.image), 255 - np.asarray(page.image))


def test_a_probability_is_a_share_of_the_pages() -> None:
    page = text_page(64, 12, margin=4)
    augmenter = PageAugmenter("none", sensor_noise=SensorNoise(probability=0.3))
    changed = sum(augmenter(page, np.random.default_rng(seed)) is not page for seed in range(400))
    assert 80 < changed < 160


def test_every_field_takes_the_degradation_of_its_name() -> None:
    augmenter = PageAugmenter("hard")
    names = [field.name for field in fields(augmenter)][1:]
    for preset in PRESETS.values():
        keys = [degradation.key for degradation in preset]
        assert len(keys) == len(set(keys))
        assert keys == sorted(keys, key=names.index), "presets list degradations in the order in which they happen"


def test_an_augmenter_is_pickled_compared_and_configured() -> None:
    augmenter = PageAugmenter("photo", rotation=Rotation(probability=0.5, degrees=(0.0, 1.0)))
    assert pickle.loads(pickle.dumps(augmenter)) == augmenter
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augmenter", type=Augmenter)
    config = parser.parse_object(
        {
            "augmenter": {
                "class_path": "deepsynth.data.augmentation.augmenter.PageAugmenter",
                "init_args": {"preset": "photo", "rotation": {"probability": 0.5, "degrees": [0.0, 1.0]}},
            }
        }
    )
    assert parser.instantiate_classes(config).augmenter == augmenter


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match=r"preset is 'scam'; it must be one of none, scan, photo, fax, hard"):
        PageAugmenter("scam")


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs tesseract (Debian package tesseract-ocr)")
def test_an_ocr_program_reads_scanned_pages(tmp_path: Path) -> None:
    page = text_page(1024, 24)
    errors = length = 0
    for seed in range(4):
        PageAugmenter("scan")(page, np.random.default_rng(seed)).image.save(tmp_path / "page.png")
        run = subprocess.run(
            ["tesseract", str(tmp_path / "page.png"), "-", "--psm", "6"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        errors += Levenshtein.distance(" ".join(run.stdout.split()), page.text)
        length += len(page.text)
    assert errors / length <= 0.02


def test_all_moves_of_a_page_happen_before_what_comes_after_them() -> None:
    page = box_page([(40.0, 60.0, 90.0, 75.0), (120.0, 160.0, 200.0, 175.0)], 256, 256)
    moves = {
        "skew": Skew(degrees=(2.0, 4.0)),
        "rotation": Rotation(degrees=(2.0, 4.0)),
        "perspective": Perspective(shift=(0.01, 0.03)),
    }
    for seed in range(3):
        moved = PageAugmenter("none", **moves)(page, np.random.default_rng(seed))  # type: ignore[arg-type]
        more = PageAugmenter("none", **moves, grayscale=Grayscale())  # type: ignore[arg-type]
        gray = more(page, np.random.default_rng(seed))  # of a page that is gray anyway
        assert gray.lines == moved.lines
        assert gray.image.tobytes() == moved.image.tobytes()
        for left_out in moves:
            fewer = PageAugmenter("none", **{**moves, left_out: None})(page, np.random.default_rng(seed))
            assert fewer.lines != moved.lines
