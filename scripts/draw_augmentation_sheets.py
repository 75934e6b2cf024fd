"""Draw the pictures of docs/guides/augmentation.md: python scripts/draw_augmentation_sheets.py docs/images."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepsynth.data.augmentation.augmenter import PageAugmenter
from deepsynth.data.augmentation.presets import PRESETS
from deepsynth.data.fonts.files import bundled_faces
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.measurement.pages import Excerpts
from deepsynth.types import Page

TILE = (330, 170)
SEED = 14  # of those tried, the one whose stains and edges fall into the part that is shown
COLUMNS = 4
#: What the pages of these presets are set in; the others are in sans serif.
FONTS = {"book": "DejaVu Serif", "typescript": "DejaVu Sans Mono"}


def page(side: int, characters: int, font: str = "DejaVu Sans", margin: int = 48) -> Page:
    """Return a page of the standard library's documentation."""
    document = list(Excerpts(characters, 40))[20]
    renderer = TextRenderer(
        page_width_px=side,
        page_height_px=side,
        margin_px=margin,
        fonts=(font,),
        font_size_px=18.0,
        system_fonts=False,
    )
    return renderer(document, np.random.default_rng(0))[0]


def part_that_shows(before: Image.Image, after: Image.Image) -> Image.Image:
    """Return the upper left of a degraded page, or where another part has four times the difference, that."""
    change = np.abs(np.asarray(before.convert("L"), dtype=float) - np.asarray(after.convert("L")))
    width, height = TILE
    places = [
        (left, top)
        for top in range(0, before.height - height + 1, 19)
        for left in range(0, before.width - width + 1, 13)
    ]
    means = {(x, y): change[y : y + height, x : x + width].mean() for x, y in places}
    best = max(places, key=means.__getitem__)
    left, top = best if means[best] > 4 * means[0, 0] else (0, 0)
    return after.crop((left, top, left + width, top + height))


def labeled(picture: Image.Image, label: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return the picture under its name."""
    tile = Image.new("RGB", (picture.width + 8, picture.height + 30), "white")
    tile.paste(picture, (4, 26))
    ImageDraw.Draw(tile).text((6, 4), label, fill="black", font=font)
    return tile


def sheet(tiles: list[Image.Image]) -> Image.Image:
    """Return the tiles in rows."""
    width, height = tiles[0].size
    whole = Image.new("RGB", (COLUMNS * width, -(-len(tiles) // COLUMNS) * height), "white")
    for place, tile in enumerate(tiles):
        whole.paste(tile, (place % COLUMNS * width, place // COLUMNS * height))
    return whole


def main(folder: Path) -> None:
    """Draw both sheets into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    font = ImageFont.truetype(bundled_faces()[0].path, 16)
    small = page(512, 500)
    tiles = [labeled(small.image.crop((0, 0, *TILE)), "the page as rendered", font)]
    hints = get_type_hints(PageAugmenter)
    for field in fields(PageAugmenter):
        if field.name != "preset":
            degradation = get_args(hints[field.name])[0]
            degraded = PageAugmenter("none", **{field.name: degradation()})(small, np.random.default_rng(SEED))
            tiles.append(labeled(part_that_shows(small.image, degraded.image), field.name, font))
    sheet(tiles).save(folder / "augmentation-degradations.webp", quality=40, method=6)

    tiles = []
    for number, preset in enumerate(PRESETS):
        whole = page(1024, 3000, FONTS.get(preset, "DejaVu Sans"), margin=80)
        for seed in range(COLUMNS if preset != "none" else 0):
            degraded = PageAugmenter(preset)(whole, np.random.default_rng([number, seed]))  # type: ignore[arg-type]
            tiles.append(labeled(degraded.image.resize((350, 350), Image.Resampling.LANCZOS), preset, font))
    sheet(tiles).save(folder / "augmentation-presets.webp", quality=35, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
