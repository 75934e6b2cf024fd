"""Images of patches are told apart by their grids, and encoded no more at a time than they should be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from deepsynth.models.engine import patch_vision
from deepsynth.models.engine.patch_vision import encode_patches, split_by_image

#: Patches of five images in time, height and width: 4, 6, 1, 20 and 3 of them.
GRIDS = [[1, 2, 2], [1, 2, 3], [1, 1, 1], [1, 4, 5], [1, 3, 1]]


class Counts:
    """An encoder whose features are known by hand: the patches of each image, doubled."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        sizes = images["image_grid_thw"].prod(1).tolist()
        self.seen.append(sizes)
        return [2 * part for part in torch.split(images["pixel_values"], sizes)]


def images_of(grids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    patches = sum(time * height * width for time, height, width in grids)
    return split_by_image(torch.arange(3.0 * patches).view(patches, 3), grids)


def test_patches_are_split_row_by_row() -> None:
    images = images_of([[1, 2, 3], [2, 1, 2]])
    assert [tuple(image.shape) for image in images] == [(2, 3, 3), (2, 2, 3)]
    assert images[0][1, 0].tolist() == [9.0, 10.0, 11.0]  # the fourth patch begins the second row
    assert images[1][1, 1].tolist() == [27.0, 28.0, 29.0]


@pytest.mark.parametrize(
    ("at_once", "seen"),
    [
        (None, [[4, 6], [1], [20], [3]]),  # ten patches fit, eleven do not; one image goes whatever it has
        (1, [[4], [6], [1], [20], [3]]),
        (2, [[4, 6], [1, 20], [3]]),
        (4, [[4, 6, 1, 20], [3]]),
        (9, [[4, 6, 1, 20, 3]]),
    ],
)
def test_as_many_images_are_encoded_together_as_may_be(
    at_once: int | None, seen: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_vision, "PATCHES_AT_ONCE", {"cpu": 10})
    images, encoder = images_of(GRIDS), Counts()
    found = encode_patches(encoder, images, torch.tensor(GRIDS), at_once=at_once)
    assert encoder.seen == seen
    assert all(torch.equal(one, 2 * image.flatten(0, 1)) for one, image in zip(found, images, strict=True))


def test_a_device_that_is_not_known_takes_what_a_cpu_does_and_no_images_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patch_vision, "PATCHES_AT_ONCE", {"cpu": 10, "cuda": 1000})
    encoder = Counts()
    encode_patches(encoder, [image.to("meta") for image in images_of(GRIDS)], torch.tensor(GRIDS))
    assert [sum(sizes) for sizes in encoder.seen] == [10, 1, 20, 3]
    assert encode_patches(encoder, [], torch.empty(0, 3, dtype=torch.long)) == []
