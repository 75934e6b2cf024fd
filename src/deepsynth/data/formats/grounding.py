"""Predicted texts with boxes as pages of regions, which can be written as PAGE XML and ALTO."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepsynth.data.formats.layout import LayoutPage, Region
from deepsynth.metrics.structure.blocks import Block, parse_blocks, plain_text
from deepsynth.types import Box, Line

#: Blocks that show no text, by the names that DeepSeek-OCR gives them.
_PICTURES = frozenset({"image", "figure", "picture", "chart"})
_LARGEST = 999
_FIRST_BLOCK = "<|ref|>"
_HEADING = re.compile(r"#{1,6}\s+")
_KIND = re.compile(r"[a-z]+(_[a-z]+)*")
_ROWS = re.compile(r"</t[dh]>\s*</tr>\s*<tr\b[^>]*>\s*<t[dh]\b[^>]*>", re.IGNORECASE)
_CELLS = re.compile(r"</t[dh]>\s*<t[dh]\b[^>]*>", re.IGNORECASE)


def grounded_layout(text: str, image_name: str, size: tuple[int, int]) -> LayoutPage | None:
    """Return the page that a predicted text describes; ``None`` for a text without a box.

    ``<|ref|>title<|/ref|><|det|>[[72, 518, 923, 737]]<|/det|>`` and the text behind it are a region. Where no text
    stands behind any block (the prompt ``<|grounding|>OCR this image.``), each is a line and its name the line's text.

    Args:
        text: a prediction.
        image_name: name of the page's image.
        size: width and height of the page, pixels: boxes are in thousandths of them.
    """
    blocks, _ = parse_blocks(text)
    if not blocks:
        return LayoutPage((), image_name, *size) if not text.strip() else None
    if any(block.text for block in blocks):
        before = plain_text(text[: text.index(_FIRST_BLOCK)])
        regions = [Region(text=before)] if before else []
        regions += [Region(text=_text_of(block), box=_box(block, size)) for block in blocks]
    else:
        lines = [Line(block.label, _box(block, size)) for block in blocks if block.label not in _PICTURES]
        regions = [Region(tuple(lines), box=_around([line.box for line in lines]))] if lines else []
        regions += [Region(box=_box(block, size)) for block in blocks if block.label in _PICTURES]
    return LayoutPage(tuple(regions), image_name, *size)


def _text_of(block: Block) -> str:
    """Return the text of a block without the marks of headings and tables; the cells of a row are apart by tabs."""
    text = plain_text(_CELLS.sub("\t", _ROWS.sub("\n", block.text)))
    text = _HEADING.sub("", text, count=1) if _HEADING.match(text) else text
    return text if _KIND.fullmatch(block.label) else f"{block.label}\n{text}".strip()


def _box(block: Block, size: tuple[int, int]) -> Box:
    """Return the smallest box around those of a block, pixels."""
    left, top, right, bottom = _around(block.boxes)
    width, height = size
    return left * width / _LARGEST, top * height / _LARGEST, right * width / _LARGEST, bottom * height / _LARGEST


def _around(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
