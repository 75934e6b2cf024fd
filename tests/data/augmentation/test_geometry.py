"""Pixels and boxes go through the same mappings, in the same order."""

from __future__ import annotations

import numpy as np
import pytest

from deepsynth.data.augmentation.geometry import Displacement, Homography, Mapping, Points, warp

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
