"""What degradations do to a page: direction, sign and range of the change, and where it is."""

from __future__ import annotations

import numpy as np
import pytest

from deepsynth.data.augmentation.base import Degradation, ImageArray
from deepsynth.data.augmentation.device import PhotocopyLines, ScannerEdges
from deepsynth.data.augmentation.geometric import PageCurl, Rotation, Skew
from deepsynth.data.augmentation.ink import BrokenStrokes, InkBleed
from deepsynth.data.augmentation.light import ColorCast, Shadow, UnevenLight
from deepsynth.data.augmentation.optics import DefocusBlur, GaussianBlur, MotionBlur, ResolutionLoss
from deepsynth.data.augmentation.paper import Stains

SEEDS = range(30)
SIDE = 200


def degraded(degradation: Degradation, seed: int, level: int = 255) -> ImageArray:
    """Return a blank page of one gray level, with a word in its middle, after the degradation."""
    image = np.full((SIDE, SIDE), level, np.uint8)
    result, _ = degradation(image, np.array([[80.0, 80.0, 120.0, 120.0]]), np.random.default_rng(seed))
    return result


def test_a_curl_lifts_the_lines_and_narrows_the_letters_at_the_spine_alone() -> None:
    sides, signs = set(), set()
    for seed in SEEDS:
        curl = PageCurl(height=(0.05, 0.05), reach=(0.1, 0.1))
        mapping = curl.mapping(SIDE, SIDE, np.random.default_rng(seed))
        left, right = (np.array([[x, 100.0], [x + 10, 100.0]]) for x in (0.0, SIDE - 10.0))
        moves = [mapping.forward(points) - points for points in (left, right)]
        is_left = abs(moves[0][0, 1]) > abs(moves[1][1, 1])
        spine, far = (moves[0], moves[1]) if is_left else (moves[1][::-1], moves[0])
        assert abs(far).max() < 0.05
        assert 5 < abs(spine[0, 1]) <= 10.5  # of 200 pixels, 0.05 are 10
        assert abs(spine[0, 1]) > 1.3 * abs(spine[1, 1])
        stretch = moves[0 if is_left else 1][1, 0] - moves[0 if is_left else 1][0, 0]
        assert stretch < -1, "ten pixels become fewer"
        sides.add(is_left)
        signs.add(np.sign(spine[0, 1]))
    assert sides == {True, False}
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("kind", [Rotation, Skew])
def test_a_page_turns_either_way_by_the_asked_angle(kind: type[Rotation] | type[Skew]) -> None:
    page = np.array([[0.0, 100.0], [200.0, 100.0], [100.0, 0.0], [100.0, 200.0]])
    angles = set()
    for seed in SEEDS:
        left, right, top, bottom = (
            kind(degrees=(3.0, 3.0)).mapping(SIDE, SIDE, np.random.default_rng(seed)).forward(page)
        )
        horizontal = np.rad2deg(np.arctan2(*(right - left)[::-1]))
        vertical = np.rad2deg(np.arctan2(*(bottom - top)))
        angles.add((round(float(horizontal), 3) + 0.0, round(float(vertical), 3) + 0.0))
    if kind is Rotation:
        assert angles == {(3.0, -3.0), (-3.0, 3.0)}
    else:
        assert angles == {(3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.0, -3.0)}


def test_a_shadow_darkens_a_part_of_the_page_by_its_depth() -> None:
    for seed in SEEDS:
        page = degraded(Shadow(depth=(0.4, 0.4), softness=(0.05, 0.05)), seed)
        assert page.max() == 255
        assert page.min() == pytest.approx(0.6 * 255, abs=1)
        assert ((page > 155) & (page < 253)).mean() < 0.25, "its edge is narrow"
        soft = degraded(Shadow(depth=(0.4, 0.4), softness=(0.5, 0.5)), seed)
        assert ((soft > 155) & (soft < 253)).mean() > 0.25


def test_uneven_light_darkens_smoothly_by_no_more_than_its_depth() -> None:
    for seed in SEEDS:
        page = degraded(UnevenLight(depth=(0.4, 0.4)), seed).astype(int)
        assert page.min() >= round(0.6 * 255) - 1
        assert page.max() - page.min() > 40
        assert page.max() > 240
        assert max(abs(np.diff(page, axis=axis)).max() for axis in (0, 1)) <= 4


def test_light_of_a_color_is_yellowish_or_bluish_and_never_green_or_red() -> None:
    """The green lies between: what is lost most is blue or red, and the other of them keeps all."""
    casts = []
    for seed in range(40):
        red, green, blue = degraded(ColorCast(strength=(0.2, 0.2)), seed, level=200)[0, 0].tolist()
        assert {red, blue} == {200, 160}
        assert 175 <= green <= 193, "a fifth to three fifths of the largest loss"
        casts.append("warm" if red > blue else "cool")
    assert 18 <= casts.count("warm") <= 32, "six tenths"


def test_photocopy_lines_are_upright_translucent_and_as_many_as_asked_for() -> None:
    levels, widths, most = set(), set(), 0
    for seed in SEEDS:
        page = degraded(PhotocopyLines(count=(1, 1), strength=(0.5, 0.5), width_px=3), seed, level=200)
        assert (page == page[0]).all()
        (columns,) = np.nonzero(page[0] != 200)
        assert len(columns) >= 1
        assert columns[-1] - columns[0] == len(columns) - 1
        widths.add(len(columns))
        levels |= set(page[0, columns].tolist())
        page = degraded(PhotocopyLines(count=(4, 4), strength=(0.5, 0.5), width_px=1), seed, level=200)
        lines = int((page[0] != 200).sum())
        assert 1 <= lines <= 4
        most = max(most, lines)
    assert levels == {100, 228}  # half way from 200 to 0 and to 255
    assert widths == {1, 2, 3}
    assert most == 4


def test_scanner_edges_darken_one_to_three_sides_and_nothing_within() -> None:
    seen = set()
    for seed in SEEDS:
        page = degraded(ScannerEdges(size=(0.1, 0.1), darkness=(0.5, 0.5)), seed)
        assert set(np.unique(page).tolist()) == {128, 255}
        assert (page[20:-20, 20:-20] == 255).all(), "a tenth of 200 pixels"
        middle = slice(40, -40)
        sides = {"left": page[middle, 0], "top": page[0, middle], "right": page[middle, -1], "bottom": page[-1, middle]}
        dark = {side for side, edge in sides.items() if (edge == 128).all()}
        assert all((edge == 255).all() for side, edge in sides.items() if side not in dark)
        assert 1 <= len(dark) <= 3
        seen |= dark
    assert seen == {"left", "top", "right", "bottom"}


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255)])
def test_ink_bleeds_by_a_pixel_whichever_is_darker(paper: int, ink: int) -> None:
    image = np.full((SIDE, SIDE), paper, np.uint8)
    image[100, 100] = ink
    for amount in (0.5, 1.0):
        result, _ = InkBleed(amount=(amount, amount))(image, np.zeros((1, 4)), np.random.default_rng(0))
        around = np.full((3, 3), paper + amount * (ink - paper))
        around[1, 1] = ink
        assert np.abs(result[99:102, 99:102] - around).max() <= 1
        assert (result != paper).sum() == 9


def test_strokes_are_broken_on_the_asked_share_and_paper_stays() -> None:
    image = np.full((SIDE, SIDE), 255, np.uint8)
    image[20:-20, 20:-20] = 0
    for seed in range(5):
        broken, _ = BrokenStrokes(share=(0.1, 0.1), amount=0.6)(image, np.zeros((1, 4)), np.random.default_rng(seed))
        assert (broken[image == 255] == 255).all()
        within = broken[image == 0]
        assert set(np.unique(within).tolist()) == {0, 153}  # six tenths of the way from ink to paper
        assert (within == 153).mean() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(
    ("degradation", "variance"),
    [
        (GaussianBlur(sigma_px=(2.0, 2.0)), 2 * 2.0**2),
        (DefocusBlur(radius_px=(4.0, 4.0)), 2 * 4.0**2 / 4),
        (MotionBlur(length_px=(12.0, 12.0)), 12.0**2 / 12),
        (MotionBlur(length_px=(5.0, 5.0)), 5.0**2 / 12),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_a_blur_spreads_an_edge_as_far_as_asked(degradation: Degradation, variance: float) -> None:
    """The variances across and down add up to that of a normal distribution, a disk or a line."""
    for seed in range(5):
        found = 0.0
        for axis in (0, 1):
            image = np.zeros((SIDE, SIDE), np.uint8)
            image[(slice(None),) * axis + (slice(100, None),)] = 255
            blurred, _ = degradation(image, np.zeros((1, 4)), np.random.default_rng(seed))
            spread = np.diff(np.take(blurred, 50, axis=1 - axis).astype(float)) / 255
            assert spread.sum() == pytest.approx(1)
            places = np.arange(len(spread))
            middle = (spread * places).sum()
            assert middle == pytest.approx(99, abs=0.1), "nothing is shifted"
            found += (spread * (places - middle) ** 2).sum()
        assert found == pytest.approx(variance, rel=0.12)  # kernels are of whole pixels and 256ths


def test_coffee_takes_most_of_the_blue_and_least_of_the_red() -> None:
    for seed in range(5):
        page = degraded(Stains(count=(2, 2), size=(0.2, 0.2), depth=(0.3, 0.3)), seed)
        red, green, blue = page.reshape(-1, 3).astype(float).T
        assert (red >= green).all()
        assert (green >= blue).all()
        assert (red > green + 2).any()
        assert (green > blue + 2).any()
        assert (page == 255).all(axis=2).mean() > 0.3, "paper beside the stains stays"
        assert blue.min() >= 255 * (1 - 0.3) ** 2 - 2, "two stains, one over the other"


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.9])
def test_a_coarser_page_keeps_its_mean_and_loses_its_detail(scale: float) -> None:
    """Stripes of a pixel become gray where a pixel of the lower resolution holds both."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[::2] = 255
    coarse, _ = ResolutionLoss(scale=(scale, scale))(image, np.zeros((1, 4)), np.random.default_rng(0))
    assert coarse.mean() == pytest.approx(127.5, abs=2)
    assert coarse.std() < (25 if scale < 0.5 else 110) < image.std()


@pytest.mark.parametrize("side", range(4), ids=["left", "top", "right", "bottom"])
def test_scanner_edges_reach_no_word_however_near_it_is_to_the_edge(side: int) -> None:
    image = np.full((200, 160), 255, np.uint8)
    box = [80.0, 100.0, 90.0, 110.0]
    box[side] = (4.0, 5.0, 156.0, 195.0)[side]
    boxes = np.array([box])
    left, top, right, bottom = map(int, box)
    dark = 0
    for seed in range(20):
        found, _ = ScannerEdges(size=(0.1, 0.1), darkness=(1.0, 1.0))(image, boxes, np.random.default_rng(seed))
        assert (found[top:bottom, left:right] == 255).all()
        dark += int((found < 128).sum())
    assert dark > 20 * 160
