"""Image files as upright RGB pages of 8 bits a channel, whoever sent them.

Files are strangers' input: only formats of pages are opened, by their content and not by their name, and the number of
pixels is checked before any is decoded. Decoding takes 5 to 20 bytes a pixel, by format; nothing here takes more.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepsynth.errors import UserError

#: Formats that are opened, by Pillow's names. Others reach decoders that are seldom fuzzed, or other programs: EPS is
#: run by Ghostscript.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
#: Name that pillow-heif gives to its format.
_HEIF = "HEIF"
#: Brands in the first box of HEIC files; AVIF has its own.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})

#: Most pixels of an image by default: A3 at 600 dpi has 70 million.
MAX_PIXELS = 75_000_000

#: Pixels that are converted at a time where a conversion needs more memory than its result.
_STRIP_PIXELS = 1_000_000

#: TIFF's tags of the size of a tile, which decides what is decoded at a time.
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What Pillow's decoders raise for broken files.
_BROKEN_IMAGE = (OSError, RuntimeError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class ImageTooLarge(UserError):
    """An image of more pixels than are allowed."""


def highest_max_pixels() -> int:
    """Return the highest limit of pixels that can be set: beyond it Pillow itself refuses."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 2**62)


def open_image(file: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        file: the image's path, or its encoded content.
        max_pixels: largest number of pixels of its first page; :func:`to_rgb` checks that of every page.

    Raises:
        UserError: when the file cannot be read, is no regular file, is not an image of one of :data:`FORMATS` (or HEIC,
            with pillow-heif), or has more pixels.
    """
    name = f"image {file}" if isinstance(file, Path) else "image"
    with _decoding(name):
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"{name}: not a regular file; a source needs files that can be read again")
        prefix, length = _start_of(file)
        formats = _formats_of(name, prefix)
        if size := _webp_size(prefix):
            # Pillow makes the canvas when it opens the file.
            _check_size(name, size, max_pixels)
        if prefix[:4] == b"RIFF" or prefix[4:8] == b"ftyp":
            # These are read into memory whole.
            _check_length(name, length, max_pixels)
        image = Image.open(file if isinstance(file, Path) else io.BytesIO(file), formats=formats)
        _check_size(name, image.size, max_pixels)
    return image


def page_count(image: Image.Image) -> int:
    """Return the number of pages in a file: frames of a TIFF or GIF. Further frames of a camera's JPEG are previews."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def to_rgb(image: Image.Image, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image as the model sees it: one upright RGB page on white.

    The camera's rotation (EXIF) is applied; transparent parts become white; palette, gray and CMYK become RGB. Values
    of more than 8 bits are scaled by the range that they use: a file of 16 bits whose largest value is below 32,768
    holds fewer bits (often 12), and its largest value becomes white.

    Args:
        image: decoded or not. One that is RGB already and has no file behind it is returned as it is.
        frame: which page of a file to take, from 0; by default a file of several pages is an error. The further frames
            of a camera's JPEG (MPO) are previews and do not count.
        max_pixels: largest number of pixels of the page.

    Raises:
        UserError: for an image of a single pixel or none, of more than ``max_pixels``, of several frames when ``frame``
            is not given, or that cannot be decoded; with the name of its file.
    """
    name = f"image {getattr(image, 'filename', '') or ''}".strip()
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        _check_size(name, image.size, max_pixels)
        return image
    with _decoding(name):
        pages = page_count(image)
        if frame is None and pages > 1:
            raise UserError(f"{name}: has {pages} frames; give each page as a separate image")
        if pages > 1:
            image.seek(frame or 0)
        _check_size(name, image.size, max_pixels)
        tags = getattr(image, "tag_v2", {})
        if _TILE_WIDTH in tags:
            _check_size(f"{name}: a tile", (int(tags[_TILE_WIDTH]), int(tags.get(_TILE_LENGTH, 1))), max_pixels)
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    rgb = _converted(image)
    rgb.info = {}  # a second conversion must neither turn nor blend again
    return rgb.transpose(turn) if turn is not None else rgb


def _converted(image: Image.Image) -> Image.Image:
    """Return the RGB image of a decoded one; beyond the result it takes the memory of a strip."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        white = _white_of(image)
        page = Image.new("RGB", image.size)
        for top, strip in _strips(image):
            values = np.asarray(strip).astype(np.float32)
            values = np.nan_to_num(values, nan=0.0, posinf=white, neginf=0.0) * np.float32(255.0 / white)
            page.paste(Image.fromarray(np.clip(values, 0.0, 255.0).round().astype(np.uint8)), (0, top))
        return page
    if image.has_transparency_data:
        page = Image.new("RGB", image.size)
        for top, strip in _strips(image):
            layer = strip.convert("RGBA")
            page.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
        return page
    return image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield ``(top, strip)``: an image in strips of few pixels."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _white_of(image: Image.Image) -> float:
    """Return the value of white in gray values of 16 or 32 bits. Files do not say what it is; their values do."""
    largest = 0.0
    for _, strip in _strips(image):
        values = np.asarray(strip)
        largest = max(largest, float(values.max(initial=0, where=np.isfinite(values))))
    if largest > 255.0:
        return 65535.0 if 32768.0 <= largest <= 65535.0 else largest
    return 1.0 if largest <= 1.0 else 255.0


def _start_of(file: Path | bytes) -> tuple[bytes, int]:
    """Return the first bytes of a file and its length."""
    if isinstance(file, bytes):
        return file[:64], len(file)
    with file.open("rb") as stream:
        return stream.read(64), file.stat().st_size


def _formats_of(name: str, prefix: bytes) -> tuple[str, ...]:
    """Return the formats to try, HEIC among them when the file says that it is one."""
    brands = {prefix[at : at + 4] for at in (8, *range(16, len(prefix), 4))}
    if prefix[4:8] != b"ftyp" or not brands & _HEIF_BRANDS or b"avif" in brands:
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise UserError(f"{name}: HEIC, which Pillow alone does not read; pip install pillow-heif") from None
    register_heif_opener()
    return (*FORMATS, _HEIF)


def _webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Return width and height from the first bytes of a WebP file; ``None`` for other files and broken ones.

    Source: https://developers.google.com/speed/webp/docs/riff_container
    """
    if prefix[:4] != b"RIFF" or prefix[8:12] != b"WEBP" or len(prefix) < 30:
        return None
    if prefix[12:16] == b"VP8X":
        return 1 + int.from_bytes(prefix[24:27], "little"), 1 + int.from_bytes(prefix[27:30], "little")
    if prefix[12:16] == b"VP8L":
        bits = int.from_bytes(prefix[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", prefix, 26)
    return width & 0x3FFF, height & 0x3FFF


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height < 2:
        raise UserError(f"{name}: {width} x {height} pixels are not a page; remove it")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name}: {width:,} x {height:,} pixels, more than {max_pixels:,}; scale it down, or raise "
            f"data.max_image_pixels (up to {highest_max_pixels():,}) if you trust the file"
        )


def _check_length(name: str, length: int, max_pixels: int) -> None:
    if length > 4 * max_pixels:
        raise UserError(
            f"{name}: {length:,} bytes, more than 4 for each of {max_pixels:,} pixels; save it again, or raise "
            "data.max_image_pixels if you trust the file"
        )


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Name the file in what Pillow raises."""
    try:
        # Pillow warns of large scans, which are legitimate, and of broken tags, which the pixels do not depend on.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: no image that can be decoded; it must be one of {', '.join(FORMATS)} or HEIC: convert, replace "
            "or remove it"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: more than {highest_max_pixels():,} pixels, twice PIL.Image.MAX_IMAGE_PIXELS; scale it down"
        ) from None
    except (MemoryError, *_BROKEN_IMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from None
