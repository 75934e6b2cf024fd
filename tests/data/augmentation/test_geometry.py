"""Pixels and boxes go through the same mappings, in the same order."""

from __future__ import annotations

import numpy as np
import pytest

from deepsynth.data.augmentation.geometry import (
    Displacement,
    Homography,
    Mapping,
    Points,
    about_center,
    fit,
    outline,
    warp,
)

SIZE = 256
BOX = np.array([[40.0, 120.0, 72.0, 136.0]])


def shift(x: float, y: float) -> Homography:
    return Homography(np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]]))


#: By 90 degrees about the middle: (x, y) goes to (256 - y, x).
TURN = Homography(np.array([[0.0, -1.0, SIZE], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
HALF_WIDTH = Homography(np.diag([0.5, 1.0, 1.0]))


class Bend:
    """The offset of a displacement: a wave along x that moves points up and down."""

    def __call__(self, points: Points) -> Points:
        return np.stack([np.zeros(len(points)), 6 * np.sin(points[:, 0] / 40)], axis=1)


def ink(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image < 128)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)


def page() -> np.ndarray:
    image = np.full((SIZE, SIZE), 255, dtype=np.uint8)
    left, top, right, bottom = BOX[0].astype(int)
    image[top:bottom, left:right] = 0
    return image


@pytest.mark.parametrize(
    ("mappings", "expected"),
    [
        # Each computed by hand: shifted to (60, 130, 92, 146), turned to (110, 60, 126, 92), halved in x.
        ([shift(20, 10), TURN, HALF_WIDTH], (55, 60, 63, 92)),
        # Halved to (20, 120, 36, 136), turned to (120, 20, 136, 36), shifted.
        ([HALF_WIDTH, TURN, shift(20, 10)], (140, 30, 156, 46)),
        # Turned to (120, 40, 136, 72), halved to (60, 40, 68, 72), shifted beyond the edge and brought back.
        ([TURN, HALF_WIDTH, shift(-90, 0)], (1, 40, 9, 72)),
    ],
)
def test_mappings_are_applied_first_to_last(mappings: list[Mapping], expected: tuple[int, ...]) -> None:
    image, boxes = warp(page(), BOX, mappings, (255,))
    assert boxes[0].tolist() == pytest.approx(expected)
    assert np.abs(ink(image) - expected).max() <= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_box_is_where_the_pixels_are(order: tuple[int, ...]) -> None:
    angle = np.deg2rad(8)
    turn = Homography(np.array([[np.cos(angle), -np.sin(angle), 30], [np.sin(angle), np.cos(angle), -20], [0, 0, 1.0]]))
    tilt = Homography(np.array([[1.0, 0.05, 0], [0.02, 0.9, 4], [0.0003, -0.0002, 1.0]]))
    mappings = (turn, Displacement(Bend()), tilt)
    image, boxes = warp(page(), BOX, [mappings[index] for index in order], (255,))
    assert np.abs(ink(image) - boxes[0]).max() <= 1.5
    assert np.abs(boxes - BOX).max() > 5


def test_a_linear_map_about_the_center_leaves_it_in_its_place() -> None:
    """(60, 20) from the center of a page of 100 x 80 becomes (2 * 60 + 3 * 20, 5 * 60 + 7 * 20) from there."""
    mapping = about_center([[2.0, 3.0], [5.0, 7.0]], 100, 80)
    points = np.array([[50.0, 40.0], [110.0, 60.0]])
    assert mapping.forward(points).tolist() == [[50.0, 40.0], [230.0, 480.0]]
    assert mapping.backward(mapping.forward(points)) == pytest.approx(points)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([[20, 30], [250, 150]], [[20, 30], [250, 150]]),
        ([[-20, 30], [250, 199.5]], [[1, 29.5], [271, 199]]),
        ([[280, -9], [310, 20]], [[269, 1], [299, 30]]),
        # 400 pixels wide: shrunk to 298 about the middle of the page, (150, 100).
        ([[-50, 50], [350, 150]], [[1, 62.75], [299, 137.25]]),
        ([[100, -200], [200, 196]], [[125, 1], [175, 199]]),
    ],
)
def test_points_are_brought_onto_a_page_with_a_pixel_to_its_edges(corners: Points, expected: Points) -> None:
    assert fit(np.array(corners, dtype=float), 300, 200).forward(np.array(corners, dtype=float)) == pytest.approx(
        np.array(expected, dtype=float)
    )


def test_the_tiniest_pages_keep_half_their_sides_for_points() -> None:
    corners = np.array([[-5.0, -5.0], [20.0, 20.0]])
    assert fit(corners, 2, 2).forward(corners) == pytest.approx(np.array([[0.5, 0.5], [1.5, 1.5]]))


def test_an_outline_goes_once_around_each_box() -> None:
    points = outline(np.array([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 2.0, 2.0]]), 3)
    assert points[::2].tolist() == [
        [10, 20], [20, 20], [30, 20], [30, 40], [30, 60], [20, 60], [10, 60], [10, 40]
    ]  # fmt: skip
    assert points[1::2].tolist() == [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize("fill", [(7,), (10, 20, 30)])
def test_what_was_not_on_the_page_has_the_fill_and_what_was_keeps_its_pixels(fill: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 130) if len(fill) == 1 else (90, 130, 3), dtype=np.uint8)
    moved, boxes = warp(image, np.array([[10.0, 10.0, 20.0, 20.0]]), [shift(40, 25)], fill)
    assert np.array_equal(moved[25:, 40:], image[:-25, :-40])
    assert (moved[:25] == fill).all()
    assert (moved[:, :40] == fill).all()
    assert boxes.tolist() == [[50, 35, 60, 45]]
