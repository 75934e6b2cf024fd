"""What a row may hold for an image, as what :class:`deepsynth.types.Document` takes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

from deepsynth.data.formats.pdf import PdfPages, Raster
from deepsynth.errors import UserError
from deepsynth.io.images import highest_max_pixels, open_image
from deepsynth.io.paged_file import PagedFile
from deepsynth.io.paths import file_below
from deepsynth.io.text import shortened

Image = Path | bytes | PagedFile
_DATA_URL = re.compile(r"data:(?P<type>[\w/.+-]*)(?P<options>(;[\w=.+-]+)*),", re.IGNORECASE)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True)
class ImagePlace:
    """Where the images lie that rows name.

    Attributes:
        folder: what relative paths start from; ``None`` where rows lie in no folder.
        roots: more folders whose files may be named.
        outside: whether files anywhere may be named.
        raster: how pages of PDFs become images.
    """

    folder: Path | None
    roots: tuple[Path, ...] = ()
    outside: bool = False
    raster: Raster | None = None

    def read(self, value: Any) -> tuple[Path | bytes | PagedFile | tuple[Path | bytes, ...], str]:
        """Return an image, or several, and a name for it: its path as the row has it, or a hash of its content.

        Content that says which file it comes from is named by that file, whose name others may have too.

        Args:
            value: bytes, ``{bytes, path}``, a path, a data URL, or a list of these.

        Raises:
            UserError: for anything else, a remote URL, a file that is not there or must not be read, content that is
                no image.
        """
        if isinstance(value, (str, bytes, Mapping)):
            image, name = self._one(value)
            return image, _file_name(value) if isinstance(image, bytes) and _file_name(value) else name
        if isinstance(value, PagedFile):
            return value, ""
        if isinstance(value, Path):
            return value, str(value)
        if not isinstance(value, Sequence):
            raise UserError(f"an image of type {type(value).__name__}; it must be a path, bytes or a data URL")
        if not value:
            raise UserError("an empty list of images; remove the row")
        images = [self._one(item) for item in value]
        if len(images) == 1:
            return self.read(value[0])
        paged = next((image for image, _ in images if isinstance(image, PagedFile)), None)
        if paged is not None:
            raise UserError("a PDF in a list of images; name it alone")
        name = hashlib.sha256("\n".join(name for _, name in images).encode()).hexdigest()[:16]
        return tuple(image for image, _ in images if not isinstance(image, PagedFile)), name

    def _one(self, value: Any) -> tuple[Image, str]:
        if isinstance(value, Mapping):
            content = value.get("bytes")
            value = value.get("path") if content is None else content
        if isinstance(value, bytes):
            return _checked(value), hashlib.sha256(value).hexdigest()[:16]
        if not isinstance(value, str) or not value.strip():
            found = "empty" if value is None or value == "" else f"of type {type(value).__name__}"
            raise UserError(f"an image that is {found}; it must be a path, bytes or a data URL")
        if value[:5].lower() == "data:":
            content = _data_url(value)
            return _checked(content), hashlib.sha256(content).hexdigest()[:16]
        return self._file(value), value

    def _file(self, name: str) -> Path | PagedFile:
        if name.startswith("file://"):
            name = unquote(urlsplit(name).path)
        elif _SCHEME.match(name):
            raise UserError(
                f"{shortened(name)} is a remote image; images are not fetched while a model trains, since they change, "
                "vanish and tell their host what is read: download them and name the files"
            )
        for root in self.roots:
            if Path(name).resolve().is_relative_to(root.resolve()):
                path = Path(name)
                break
        else:
            if self.folder is None:
                raise UserError(f"{shortened(name)} names a file, and the data set has no folder here")
            path = file_below(self.folder, name, outside=self.outside)
        return PdfPages.of(path, self.raster) if path.suffix.lower() == ".pdf" else path


def _file_name(value: Any) -> str:
    """Return the name of the file that an encoded image was in; "" where it is not known."""
    path = value.get("path") if isinstance(value, Mapping) else None
    return PurePath(path.replace("\\", "/")).name if isinstance(path, str) else ""


def _data_url(url: str) -> bytes:
    """Return the content of a data URL (RFC 2397)."""
    found = _DATA_URL.match(url)
    if found is None or ";base64" not in found["options"].lower():
        raise UserError(f"the image {shortened(url, 40)} is not a base64 data URL; it is truncated or damaged")
    try:
        return base64.b64decode("".join(url[found.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"the image {shortened(url, 40)} is truncated or damaged: {error}") from None


def _checked(content: bytes) -> bytes:
    """Return encoded content that is an image by its first bytes; the pipeline has the limit of pixels that was set."""
    open_image(content, highest_max_pixels())
    return content
