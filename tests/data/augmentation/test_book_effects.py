"""What old books, typescripts and their scans do to a page: sign and range of the change, and where it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deepsynth.data.augmentation.augmenter import PageAugmenter
from deepsynth.data.augmentation.base import BoxArray, Degradation, ImageArray
from deepsynth.data.augmentation.books import LetterJitter, PenStrokes, PrintedFrame, Stamp
from deepsynth.data.augmentation.borders import Bitonal, BorderSpecks, NeighborPage, ScannerBackground
from deepsynth.data.augmentation.ink import InkBleed
from tests.helpers.degradation_pages import text_page

SIDE = 300
WORD = np.array([[100.0, 100.0, 200.0, 200.0]])
SEEDS = range(12)


def degraded(degradation: Degradation, seed: int, image: ImageArray | None = None) -> ImageArray:
    page = np.full((SIDE, SIDE), 255, np.uint8) if image is None else image
    return degradation(page, WORD, np.random.default_rng(seed))[0]


def letters() -> tuple[ImageArray, BoxArray]:
    """Return a page of filled letters, 10 pixels high, with a rule between two lines of them."""
    image = np.full((120, 400), 255, np.uint8)
    places = [(x, y) for y in (20, 80) for x in range(20, 380, 12)]
    for x, y in places:
        image[y : y + 10, x : x + 7] = 0
    image[55:57, 20:380] = 0
    return image, np.array([(x, y, x + 7, y + 10) for x, y in places], dtype=np.float64)


def test_letters_move_up_and_down_and_fade_each_for_itself_and_rules_do_not() -> None:
    image, boxes = letters()
    jitter = LetterJitter(shift=(0.1, 0.1), fade=(0.5, 0.5))
    result, moved = jitter(image, boxes, np.random.default_rng(0))
    count, labels, stats, _ = cv2.connectedComponentsWithStats((result < 250).astype(np.uint8))
    assert count == 1 + len(boxes) + 1
    small = [number for number in range(1, count) if stats[number, cv2.CC_STAT_WIDTH] == 7]
    assert {int(stats[number, cv2.CC_STAT_TOP]) for number in small} == {19, 20, 21, 79, 80, 81}
    levels = {int(result[labels == number].mean()) for number in small}
    assert min(levels) < 20
    assert 90 < max(levels) <= 128
    assert (result[55:57, 20:380] == 0).all()
    assert (moved - boxes == [0, -1, 0, 1]).all()


def test_parts_of_a_letter_move_together() -> None:
    image = np.full((60, 300), 255, np.uint8)
    for x in range(10, 290, 14):
        image[20:23, x : x + 3] = 0  # a dot
        image[25:36, x : x + 3] = 0
        image[25:36, x + 3 : x + 9] = 0
    result, _ = LetterJitter(shift=(0.15, 0.15), fade=(0.0, 0.0))(image, WORD, np.random.default_rng(1))
    for x in range(10, 290, 14):
        rows = np.flatnonzero(result[:, x] == 0)
        assert rows[-1] - rows[0] == 15
        assert len(rows) == 14


def test_a_blank_page_has_no_letters_to_move() -> None:
    assert (degraded(LetterJitter(), 0) == 255).all()


def test_a_frame_is_printed_around_the_words_and_never_through_them() -> None:
    sides = set()
    for seed in SEEDS:
        ink = degraded(PrintedFrame(gap=(0.5, 0.5)), seed) == 0
        assert not ink[95:205, 95:205].any()
        found = ink[:100, 150].any(), ink[200:, 150].any(), ink[150, :100].any(), ink[150, 200:].any()
        assert any(found)
        assert not ink[:45].any()
        assert not ink[:, 255:].any()
        sides.add(found)
    assert (True, True, True, True) in sides
    assert len(sides) > 2


@pytest.mark.parametrize("kind", [Stamp, PenStrokes])
def test_colored_ink_lies_over_the_text_and_leaves_it_darker(kind: type[Stamp] | type[PenStrokes]) -> None:
    page = text_page(SIDE, 14, margin=10)
    image = np.asarray(page.image)
    boxes = np.array([line.box for line in page.lines])
    colored = covered = 0
    for seed in SEEDS:
        result, _ = kind(opacity=(0.5, 0.5))(image, boxes, np.random.default_rng(seed))
        assert (result <= image).all()
        assert (result.astype(int) >= image * 0.49 - 1).all(), "the ink takes half of the light at most"
        changed = (result != image).any(axis=2)
        colored += int((np.ptp(result.astype(int), axis=2) > 20).sum())
        covered += int((changed & (image[..., 0] < 200)).sum())
        assert 0 < changed.mean() < 0.2
    assert colored > 100
    assert covered > 20


def test_a_stamp_is_a_ring_or_a_flat_box_of_the_asked_width() -> None:
    """Turned by 25 degrees at most, and as far as it is not worn or cut by the edge."""
    shapes = set()
    for seed in range(24):
        image = np.full((600, 600), 255, np.uint8)
        result, _ = Stamp(opacity=(0.7, 0.7), size=(0.3, 0.3))(image, WORD, np.random.default_rng(seed))
        rows, columns = np.nonzero((result < 250).any(axis=2))
        assert columns.max() - columns.min() <= 180
        assert rows.max() - rows.min() <= 180
        if columns.min() > 0 and columns.max() < 599:
            sides = cv2.minAreaRect(np.stack([columns, rows], axis=1).astype(np.float32))[1]
            assert 120 < max(sides) < 175, "three tenths of 600 pixels, drawn at nine tenths"
            shapes.add("ring" if min(sides) > 0.8 * max(sides) else "box" if min(sides) < 0.45 * max(sides) else "?")
    assert shapes == {"ring", "box"}


def test_the_page_lies_smaller_on_the_black_glass() -> None:
    for seed in SEEDS:
        background = ScannerBackground(scale=(0.8, 0.8), level=(10.0, 10.0))
        page = np.full((SIDE, SIDE), 255, np.uint8)
        page[100:200, 100:200] = 128
        result, boxes = background(page, WORD, np.random.default_rng(seed))
        assert (result == 10).mean() == pytest.approx(1 - 0.8**2, abs=0.02)
        assert boxes[0, 2] - boxes[0, 0] == pytest.approx(80)
        left, top, right, bottom = boxes[0].round().astype(int)
        assert (result[top + 1 : bottom - 1, left + 1 : right - 1] == 128).all()


def test_the_neighboring_page_is_a_strip_behind_a_dark_fold_at_one_side() -> None:
    page = np.full((SIDE, SIDE), 250, np.uint8)
    page[40:260:12, 60:240] = 20
    sides = set()
    for seed in SEEDS:
        result, _ = NeighborPage(size=(0.9, 0.9), fold=(0.8, 0.8))(
            page, np.array([[60.0, 40.0, 240.0, 260.0]]), np.random.default_rng(seed)
        )
        at_left = bool((result[:, :60] != 250).any())
        sides.add(at_left)
        strip, other = (result[:, :60], result[:, 60:]) if at_left else (result[:, 240:][:, ::-1], result[:, :240])
        assert (other == (page[:, 60:] if at_left else page[:, :240])).all()
        assert (strip[:, :20] < 100).any(), "lines of the other page"
        assert strip[0].argmin() in range(38, 50)
        assert strip[0].min() < 70
    assert sides == {True, False}


def test_specks_are_dense_at_the_border_and_spare_the_words() -> None:
    near = far = 0.0
    for seed in SEEDS:
        specks = degraded(BorderSpecks(depth=(0.1, 0.1), share=(0.8, 0.8)), seed) == 0
        assert not specks[98:202, 98:202].any()
        assert not specks[35:265, 35:265].any()
        edges = [specks[:4].mean(), specks[-4:].mean(), specks[:, :4].mean(), specks[:, -4:].mean()]
        assert max(edges) > 0.4
        near += max(edges)
        far += max(specks[20:24].mean(), specks[-24:-20].mean(), specks[:, 20:24].mean(), specks[:, -24:-20].mean())
        assert specks.mean() < 0.3
    assert near > 2 * far
    words = np.array([[0.0, 0.0, SIDE, SIDE]])
    whole = BorderSpecks()(np.full((SIDE, SIDE), 255, np.uint8), words, np.random.default_rng(0))[0]
    assert (whole == 255).all()


def test_one_bit_a_pixel_by_a_threshold_with_rough_edges() -> None:
    ramp = np.full((SIDE, SIDE), 255, np.uint8)
    ramp[:, :150] = np.linspace(0, 255, 150)
    sharp = degraded(Bitonal(threshold=(0.5, 0.5), roughness=(0.0, 0.0)), 0, ramp)
    assert (sharp == np.where(ramp < 127.5, 0, 255)).all()
    rough = degraded(Bitonal(threshold=(0.5, 0.5), roughness=(20.0, 20.0)), 0, ramp)
    assert set(np.unique(rough)) == {0, 255}
    differs = (rough != sharp).any(axis=0)
    assert differs[60:90].any()
    assert not differs[:20].any()
    assert not differs[130:].any()
    assert (degraded(Bitonal(), 3) == 255).all()


def test_options_that_came_later_leave_the_draws_of_the_others_alone() -> None:
    page = text_page(200, 14, margin=20)
    bleed = InkBleed(probability=0.5, amount=(0.0, 1.0))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chance = rng.random(26)[0]
        own = np.random.default_rng(rng.integers(2**63, size=26)[0])
        boxes = np.array([line.box for line in page.lines])
        expected = np.asarray(page.image.convert("L"))
        if chance < 0.5:
            expected = bleed(expected, boxes, own)[0]
        found = PageAugmenter("none", ink_bleed=bleed)(page, np.random.default_rng(seed))
        assert (np.asarray(found.image.convert("L")) == expected).all()
