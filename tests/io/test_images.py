"""What any kind of image file looks like as a page."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from deepsynth.errors import UserError
from deepsynth.io.images import FORMATS, highest_max_pixels, open_image, page_count, to_rgb


def loaded(image: Image.Image, path: Path, **options: Any) -> Image.Image:
    """Return an image saved and read back."""
    image.save(path, **options)
    result = to_rgb(open_image(path))
    assert result.mode == "RGB"
    return result


@pytest.mark.parametrize("orientation", range(1, 10))
def test_pages_are_turned_as_pillow_turns_them(orientation: int, tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = loaded(image, tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as stored:
        assert np.array_equal(np.asarray(found), np.asarray(ImageOps.exif_transpose(stored)))


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
    assert page_count(open_image(path)) == 2


def test_previews_in_a_cameras_file_are_no_pages(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), value) for value in ("white", "black")]
    frames[0].save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert page_count(open_image(tmp_path / "camera.jpg")) == 1
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


# ---------------------------------------------------------------------- what strangers send


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "bmp", "gif", "ppm", "pgm", "pbm", "jp2", "avif"])
def test_formats_of_pages_are_read(kind: str, tmp_path: Path) -> None:
    mode = {"pgm": "L", "pbm": "1"}.get(kind, "RGB")
    result = loaded(Image.new("RGB", (32, 24), "white").convert(mode), tmp_path / f"page.{kind}")
    assert result.size == (32, 24)
    assert min(result.getpixel((5, 5))) > 250


def test_heic_is_read_where_pillow_heif_is_there(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 0, 0))).save(tmp_path / "phone.HEIC")
    result = to_rgb(open_image(tmp_path / "phone.HEIC"))
    assert result.size == (64, 48)
    assert result.getpixel((9, 9))[0] > 180


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "SGI", "ICO", "IM", "DDS", "QOI"])
def test_other_formats_are_refused_whatever_their_name(kind: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, kind)
    path = tmp_path / "page.png"
    path.write_bytes(content.getvalue())
    for file in (path, content.getvalue()):
        with pytest.raises(UserError, match=r"no image that can be decoded; it must be one of PNG, JPEG"):
            open_image(file)


def test_the_names_of_the_formats_are_pillows() -> None:
    Image.init()
    assert set(FORMATS) <= Image.OPEN.keys()


def tiny_webp(width: int, height: int) -> bytes:
    """Return a file of 34 bytes that says that it has so many pixels."""
    stream = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(8)
    chunk = b"VP8L" + struct.pack("<I", len(stream)) + stream + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def test_pixels_are_limited_before_anything_is_decoded(tmp_path: Path) -> None:
    bomb = tiny_webp(12_000, 12_000)
    assert len(bomb) == 34
    with pytest.raises(UserError, match=r"image: 12,000 x 12,000 pixels, more than 75,000,000; .*max_image_pixels"):
        open_image(bomb)
    path = tmp_path / "large.png"
    Image.new("1", (300, 200)).save(path)
    with pytest.raises(UserError, match=r"large.png: 300 x 200 pixels, more than 59,999"):
        open_image(path, 59_999)
    assert to_rgb(open_image(path, 60_000), max_pixels=60_000).size == (300, 200)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 10}, {"lossless": True, "icc_profile": b"icc"}])
def test_the_size_of_a_webp_is_read_from_its_header(options: dict[str, Any]) -> None:
    content = io.BytesIO()
    Image.new("RGB", (300, 200)).save(content, "WEBP", **options)
    with pytest.raises(UserError, match=r"image: 300 x 200 pixels, more than 59,999"):
        open_image(content.getvalue(), 59_999)
    assert to_rgb(open_image(content.getvalue(), 60_000)).size == (300, 200)


def extended(width: int, height: int) -> bytes:
    return (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )


def lossy(width: int, height: int) -> bytes:
    return b"VP8 " + struct.pack("<I", 10) + b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height)


@pytest.mark.parametrize("chunk", [extended, lossy])
@pytest.mark.parametrize("size", [(16_383, 5_000), (5_000, 16_383), (9_900, 9_901)])
def test_a_webp_that_says_that_it_is_large_is_not_decoded(chunk: Any, size: tuple[int, int]) -> None:
    """Nothing follows its header, so that the size is read there or nowhere."""
    content = b"RIFF" + struct.pack("<I", 100) + b"WEBP" + chunk(*size)
    with pytest.raises(UserError, match=rf"image: {size[0]:,} x {size[1]:,} pixels, more than 75,000,000"):
        open_image(content)


@pytest.mark.parametrize("length", [12, 15, 20, 29])
def test_a_webp_that_is_cut_in_its_header_is_no_image(length: int) -> None:
    with pytest.raises(UserError, match=r"^image: (no image|cannot be decoded)"):
        open_image(tiny_webp(300, 200)[:length])


def test_every_page_of_a_file_has_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    Image.new("1", (8, 8)).save(path, save_all=True, append_images=[Image.new("1", (300, 200)), Image.new("1", (1, 1))])
    image = open_image(path, 59_999)
    with pytest.raises(UserError, match=r"pages.tif: 300 x 200 pixels, more than 59,999"):
        to_rgb(image, 1, 59_999)
    with pytest.raises(UserError, match=r"pages.tif: 1 x 1 pixels are not a page"):
        to_rgb(image, 2)


def test_a_tile_has_the_limit_too(tmp_path: Path) -> None:
    path = tmp_path / "tiles.tif"
    # width, length, bits, compression, photometric, samples, then the tiles' width, length, offset and bytes
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 200, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes((b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + zlib.compress(b""))
    with pytest.raises(UserError, match=r"tiles.tif: a tile: 60,000 x 60,000 pixels, more than"):
        to_rgb(open_image(path))


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_a_file_that_is_read_whole_has_a_limit_of_its_length(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"padded.{kind}"
    Image.new("RGB", (8, 8)).save(path)
    os.truncate(path, 5_000)  # a hole, not data
    with pytest.raises(UserError, match=rf"padded.{kind}: 5,000 bytes, more than 4 for each of 1,000 pixels"):
        open_image(path, 1_000)


def test_pillows_own_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    assert highest_max_pixels() == 60_000
    with pytest.raises(UserError, match=r"bomb.png: more than 60,000 pixels, twice PIL.Image.MAX_IMAGE_PIXELS"):
        open_image(tmp_path / "bomb.png", 90_000)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_converted_in_strips(dtype: Any, tmp_path: Path) -> None:
    values = np.zeros((2500, 4000), dtype)
    values[7, 9], values[2400, 3999] = 20_000, 40_000
    Image.fromarray(values).save(tmp_path / "deep.tif", compression="tiff_adobe_deflate")
    image = open_image(tmp_path / "deep.tif")
    tracemalloc.start()
    page = to_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000, "a float64 array of the image has 80 million bytes"
    assert [page.getpixel(at)[0] for at in ((9, 7), (3999, 2400), (0, 0))] == [78, 156, 0]


MEASURE = """
import resource, sys
from pathlib import Path
from deepsynth.io.images import open_image, to_rgb

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

to_rgb(open_image(Path(sys.argv[1])))
before = peak()
page = to_rgb(open_image(Path(sys.argv[2])))
print((peak() - before) / (page.width * page.height))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_conversion_takes_little_beside_the_pixels(tmp_path: Path) -> None:
    """Transparent pages took 30 bytes a pixel, turned ones 20."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (8, 8)).save(tmp_path / "small.png")
    Image.new("RGBA", (4000, 3000)).save(tmp_path / "clear.png", compress_level=1)
    Image.new("RGB", (4000, 3000)).save(tmp_path / "turned.jpg", exif=exif)
    for name in ("clear.png", "turned.jpg"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "small.png"), str(tmp_path / name)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert float(done.stdout) < 14, name


def test_a_second_conversion_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    page = loaded(Image.new("RGB", (20, 10)), tmp_path / "turned.jpg", exif=exif)
    assert to_rgb(page) is page


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.png")
    for path in (tmp_path / "page.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=r"not a regular file"):
            open_image(path)
    with pytest.raises(UserError, match=r"gone.png: cannot be read: No such file"):
        open_image(tmp_path / "gone.png")
