"""How objects show themselves in a notebook."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class ShownAsPng:
    """A base for what has an ``image``, which a notebook shows when a cell ends with the object."""

    __slots__ = ()
    if TYPE_CHECKING:
        image: Image.Image

    def _repr_png_(self) -> bytes:
        """Return the image as a PNG file: the protocol of IPython."""
        return png(self.image)
