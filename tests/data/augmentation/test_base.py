"""The operations that degradations share, on numbers that were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deepsynth.data.augmentation.base import (
    add_share,
    background_color,
    draw_signed,
    enlarge,
    is_light,
    noise_window,
    random_window,
    shade,
    smooth,
    soft_field,
)


@pytest.mark.parametrize("light", range(4))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_background_is_the_median_of_the_four_edges_alone(light: int, channels: int) -> None:
    """Three edges of four are dark; a look at the light inside in place of one of them would leave two."""
    image = np.full((64, 64, 3), 200, np.uint8)
    edges = (image[0, 1:-1], image[-1, 1:-1], image[1:-1, 0], image[1:-1, -1])
    for side in {0, 1, 2, 3} - {light}:
        edges[side][:] = (0, 20, 40)
    assert background_color(image if channels == 3 else image[..., 1]) == ((0, 20, 40) if channels == 3 else (20,))


def test_a_background_is_light_from_the_middle_on() -> None:
    assert is_light((128,))
    assert not is_light((127,))
    assert is_light((255, 129, 0))
    assert not is_light((255, 128, 0))


def test_light_is_multiplied_and_a_share_added_in_256ths() -> None:
    image = np.array([[200, 0, 255]], np.uint8)
    light = np.array([[128, 128, 255]], np.uint8)
    assert shade(image, light).tolist() == [[100, 0, 255]]
    color = shade(np.stack([image, image, image // 2], axis=-1), light)
    assert color.tolist() == [[[100, 100, 50], [0, 0, 0], [255, 255, 127]]]
    other = np.array([[192, 64, 255]], np.uint8)
    assert add_share(image, other, 0.5, 128.0).tolist() == [[232, 0, 255]]
    # A tenth is 26/256: 200 + 192 * 26/256 = 219.5, and 64 * 26/256 = 6.5; halves go to the even number.
    assert add_share(image, other, 0.1).tolist() == [[220, 6, 255]]
    assert add_share(image, other, -0.25).tolist() == [[152, 0, 191]]


def test_a_smooth_field_meets_its_nodes_and_is_level_there() -> None:
    slope = [0.0, 5 / 32, 0.5, 27 / 32, 1.0]  # 3 s^2 - 2 s^3 at the quarters
    field = np.array([[0.0, 1.0, 0.5], [2.0, 3.0, 2.5], [2.0, 3.0, 2.5]])
    found = smooth(field, 9)
    assert found[0, :5] == pytest.approx(slope)
    assert found[0, 4:] == pytest.approx([1 - share / 2 for share in slope])
    assert found[:5, 0] == pytest.approx([2 * share for share in slope])
    assert found[4:, 8] == pytest.approx([2.5] * 5)
    assert found[3, 3] == pytest.approx(27 / 32 * 3)
    assert smooth(field).shape == (96, 96)


def test_fields_are_enlarged_to_bytes_within_their_bounds() -> None:
    assert enlarge(np.array([[0.0, 1.0]]), (3, 8)).tolist() == [[0, 0, 32, 96, 159, 223, 255, 255]] * 3
    field = soft_field(np.random.default_rng(0), (40, 60, 3), 3, (0.2, 0.6))
    assert field.shape == (40, 60)
    assert 51 <= field.min() < 90 < 120 < field.max() <= 153


def test_a_window_lies_anywhere_in_its_tile_which_repeats_where_it_is_too_small() -> None:
    tile = np.arange(20, dtype=np.uint8).reshape(4, 5)
    rng = np.random.default_rng(0)
    corners = {int(random_window(tile, (3, 3), rng)[0, 0]) for _ in range(80)}
    assert corners == {0, 1, 2, 5, 6, 7}
    for shape in ((4, 5), (9, 3), (3, 11), (8, 10)):
        window = random_window(tile, shape, rng)
        top, left = divmod(int(window[0, 0]), 5)
        whole = np.tile(tile, (4, 4))
        assert np.array_equal(window, whole[top : top + shape[0], left : left + shape[1]])


def test_noise_is_normal_and_its_tiles_differ() -> None:
    windows = [noise_window((1000, 1000), np.random.default_rng(seed)) for seed in range(6)]
    for window in windows:
        assert window.mean() == pytest.approx(128, abs=0.1)
        assert window.std() == pytest.approx(32, abs=0.1)
        assert (np.abs(window - 128.0) <= 32).mean() == pytest.approx(
            0.687, abs=0.005
        )  # 32.5 levels: the levels are whole
    assert len({window.tobytes() for window in windows}) == 6


def test_a_signed_draw_has_the_magnitudes_of_its_range_and_either_sign() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_signed(rng, (2.0, 4.0)) for _ in range(600)])
    assert 2 <= np.abs(drawn).min() < 2.1
    assert 3.9 < np.abs(drawn).max() <= 4
    assert (drawn > 0).mean() == pytest.approx(0.5, abs=0.06)
    assert np.abs(drawn).mean() == pytest.approx(3, abs=0.1)
