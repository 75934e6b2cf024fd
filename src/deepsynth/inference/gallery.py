"""Pages side by side in a notebook, with texts below them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from deepsynth.io.notebook import png
from deepsynth.types import Page


@dataclass(frozen=True)
class Gallery:
    """Pages or images that a notebook shows in a grid when a cell ends with the object.

    Attributes:
        images: pages or images.
        texts: a text below each, such as its prediction; by default the text of a page.
        width_px: width of each.
    """

    images: Sequence[Page | Image.Image]
    texts: Sequence[str] | None = None
    width_px: int = 256

    def _repr_html_(self) -> str:
        """Return the grid; texts are escaped."""
        from markupsafe import Markup

        shown = [one.image if isinstance(one, Page) else one for one in self.images]
        texts = self.texts or [one.text if isinstance(one, Page) else "" for one in self.images]
        figures = [
            Markup(
                '<figure style="margin:0;width:{}px"><img style="width:100%" src="data:image/png;base64,{}">'
                '<figcaption dir="auto" style="white-space:pre-wrap">{}</figcaption></figure>'
            ).format(self.width_px, base64.b64encode(png(image)).decode(), text)
            for image, text in zip(shown, texts, strict=True)
        ]
        return str(Markup('<div style="display:flex;flex-wrap:wrap;gap:12px">{}</div>').format(Markup().join(figures)))
