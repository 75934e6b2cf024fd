"""What any kind of image file looks like as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.images import open_image, to_rgb


def loaded(image: Image.Image, path: Path, **options: Any) -> Image.Image:
    """Return an image saved and read back."""
    image.save(path, **options)
    result = to_rgb(open_image(path))
    assert result.mode == "RGB"
    return result


def test_turned_by_exif(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left side is the top
    result = loaded(image, tmp_path / "turned.jpg", exif=exif, quality=95)
    assert result.size == (10, 20)
    assert max(result.getpixel((5, 2))) < 10
    assert min(result.getpixel((5, 17))) > 245


def test_cmyk(tmp_path: Path) -> None:
    result = loaded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), tmp_path / "cmyk.jpg")
    assert min(result.getpixel((4, 4))) > 250


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        result = loaded(Image.fromarray(values), tmp_path / f"deep.{suffix}")
        assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 128, 255]
    dark = loaded(Image.fromarray(np.array([[0, 40000]], dtype=np.uint16)), tmp_path / "dark.png")
    assert np.asarray(dark)[0, :, 0].tolist() == [0, 156]


@pytest.mark.parametrize("white", [256, 1023, 4095, 16383])
def test_fewer_bits_in_sixteen_are_scaled_by_the_range_that_they_use(white: int, tmp_path: Path) -> None:
    values = np.array([[0, white // 2, white]], dtype=np.uint16)
    assert np.asarray(loaded(Image.fromarray(values), tmp_path / "scan.tif"))[0, :, 0].tolist() in (
        [0, 127, 255],
        [0, 128, 255],
    )


def test_bytes_in_sixteen_bits_keep_their_levels(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200]], dtype=np.uint16)
    assert np.asarray(loaded(Image.fromarray(values), tmp_path / "byte.png"))[0, :, 0].tolist() == [0, 100, 200]


def test_thirty_two_bits(tmp_path: Path) -> None:
    for values, expected in (
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[np.nan, -1.0, np.inf, 0.2, 1.0]], dtype=np.float32), [0, 0, 255, 51, 255]),
        (np.array([[0, 128, 255]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
        (np.array([[-5, 0, 1_000_000]], dtype=np.int32), [0, 0, 255]),
    ):
        assert np.asarray(loaded(Image.fromarray(values), tmp_path / "deep.tif"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        palette = Image.new("P", (2, 1), 0)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.putpixel((1, 0), 1)
        result = loaded(palette, tmp_path / "p.png", transparency=0)
    else:
        result = loaded(image.convert(mode), tmp_path / f"{mode}.png")
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((1, 0)) == (0, 0, 0)


def test_bilevel(tmp_path: Path) -> None:
    assert loaded(Image.new("1", (4, 4), 1), tmp_path / "fax.tif").getpixel((0, 0)) == (255, 255, 255)


def test_frames_are_chosen(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    path = tmp_path / "pages.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert [to_rgb(open_image(path), number).getpixel((0, 0)) for number in range(2)] == [(40, 40, 40), (200, 200, 200)]
    with pytest.raises(UserError, match=r"pages.tif: has 2 frames; give each page"):
        to_rgb(open_image(path))
    with pytest.raises(UserError, match=r"pages.tif: cannot be decoded"):
        to_rgb(open_image(path), 2)


def test_previews_in_a_cameras_file_are_no_pages(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), value) for value in ("white", "black")]
    frames[0].save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert to_rgb(open_image(tmp_path / "camera.jpg")).getpixel((0, 0)) == (255, 255, 255)


def test_drawn_pages_are_not_copied() -> None:
    page = Image.new("RGB", (4, 4))
    assert to_rgb(page) is page


def test_what_is_not_a_page_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match=r"dot.png: 1 x 1 pixels are not a page"):
        to_rgb(open_image(tmp_path / "dot.png"))
    with pytest.raises(UserError, match="0 x 5 pixels are not a page"):
        to_rgb(Image.new("RGB", (0, 5)))
