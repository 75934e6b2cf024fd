"""What degradations do to a page: direction, sign and range of the change, and where it is."""

from __future__ import annotations

import numpy as np
import pytest

from deepsynth.data.augmentation.base import Degradation, ImageArray
from deepsynth.data.augmentation.device import PhotocopyLines, ScannerEdges
from deepsynth.data.augmentation.geometric import PageCurl, Rotation, Skew
from deepsynth.data.augmentation.light import Shadow, UnevenLight

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
