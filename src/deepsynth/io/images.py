"""Image files of any kind as upright RGB pages of 8 bits a channel."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from deepsynth.errors import UserError

#: What Pillow's decoders raise for broken files.
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def open_image(file: Path | bytes) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        file: the image's path, or its encoded content.

    Raises:
        UserError: when the file cannot be read, is not an image, or has more than twice ``PIL.Image.MAX_IMAGE_PIXELS``
            pixels (179 million: more than A3 at 900 dpi).
    """
    with _decoding(f"image {file}" if isinstance(file, Path) else "image"):
        return Image.open(file if isinstance(file, Path) else io.BytesIO(file))


def to_rgb(image: Image.Image, frame: int | None = None) -> Image.Image:
    """Return an image as the model sees it: one upright RGB page on white.

    The camera's rotation (EXIF) is applied; transparent parts become white; palette, gray and CMYK become RGB. Values
    of more than 8 bits are scaled by the range that they use: a file of 16 bits whose largest value is below 32,768
    holds fewer bits (often 12), and its largest value becomes white.

    Args:
        image: decoded or not. One that is RGB already and has no file behind it is returned as it is.
        frame: which page of a file to take, from 0; by default a file of several pages is an error. The further frames
            of a camera's JPEG (MPO) are previews and do not count.

    Raises:
        UserError: for an image of a single pixel or none, of several frames when ``frame`` is not given, or that cannot
            be decoded; with the name of its file.
    """
    name = f"image {getattr(image, 'filename', '') or ''}".strip()
    width, height = image.size
    if width * height < 2:
        raise UserError(f"{name}: {width} x {height} pixels are not a page; remove it")
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image
    with _decoding(name):
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frame is None and frames > 1:
            raise UserError(f"{name}: has {frames} frames; give each page as an image of its own")
        if frames > 1:
            image.seek(frame or 0)
        upright = ImageOps.exif_transpose(image)
        upright.load()
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return gray values of 16 or 32 bits as bytes. Files do not say what white is; their values do."""
    values = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=0.0)
    largest = float(values.max(initial=0.0, where=np.isfinite(values)))
    if largest > 255.0:
        white = 65535.0 if 32768.0 <= largest <= 65535.0 else largest
    else:
        white = 1.0 if largest <= 1.0 else 255.0
    return np.clip(values / white * 255.0, 0.0, 255.0).round().astype(np.uint8)


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
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, twice PIL.Image.MAX_IMAGE_PIXELS; scale "
            "it down, or raise that limit if you trust the file"
        ) from None
    except _BROKEN_IMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from None
