"""ALTO (versions 2 to 4), as ABBYY, kraken, Tesseract and others write it.

Source: https://www.loc.gov/standards/alto/. Order: ``ReadingOrder`` where a file has one, then chains of ``IDNEXT``,
then that of the file, with the margins around the print space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepsynth.data.formats.layout import (
    LayoutPage,
    Region,
    children,
    descendants,
    local_name,
    number_of,
    parse_xml,
)
from deepsynth.errors import UserError
from deepsynth.types import Box, Line, Word

#: Parts of a page in the order in which they are read; the schema has the margins first.
_PARTS = ("TopMargin", "LeftMargin", "PrintSpace", "RightMargin", "BottomMargin")
_HYPHENS = ("-", "\u2010", "\u00ac", "\u2e17", "=")
_SOFT_HYPHEN = "\u00ad"


def read_alto(path: Path) -> tuple[LayoutPage, ...]:
    """Return the pages that an ALTO file describes, one as a rule.

    Raises:
        UserError: when the file cannot be read or is no ALTO.
    """
    root = parse_xml(path)
    pages = descendants(root, "Page") if local_name(root).lower() == "alto" else []
    if not pages:
        raise UserError(f"{path}: not ALTO: no Page element; the root element is {local_name(root)}")
    names = [name.text.strip() for name in descendants(root, "fileName") if name.text and name.text.strip()]
    order = [
        ref.get("REF", "") for group in descendants(root, "ReadingOrder") for ref in descendants(group, "ElementRef")
    ]
    return tuple(_page(page, order, names[0] if names else None) for page in pages)


def _page(page: Any, order: Sequence[str], image: str | None) -> LayoutPage:
    parts = sorted(children(page, *_PARTS), key=lambda part: _PARTS.index(local_name(part)))
    blocks = [block for part in parts or [page] for block in descendants(part, "TextBlock")]
    regions = [_region(block) for block in _in_order(blocks, order)]
    return LayoutPage(
        tuple(region for region in regions if str(region)),
        image=image,
        width=number_of(page, "WIDTH") or 0.0,
        height=number_of(page, "HEIGHT") or 0.0,
    )


def _in_order(blocks: Sequence[Any], order: Sequence[str]) -> list[Any]:
    """Return blocks in reading order."""
    by_id = {block.get("ID"): block for block in blocks if block.get("ID")}
    place = {name: number for number, name in reversed(list(enumerate(order)))}

    def number(block: Any) -> int:
        """Return the place of a block, of the block that holds it or of a line in it."""
        ids = [element.get("ID") for element in (block, *block.iterancestors(), *children(block, "TextLine"))]
        return min((place[name] for name in ids if name in place), default=len(place))

    blocks = sorted(blocks, key=number)
    followers = {block.get("IDNEXT") for block in blocks} & set(by_id)
    ordered: dict[int, Any] = {}
    starts = [block for block in blocks if block.get("ID") not in followers]
    for block in (*starts, *blocks):  # a circle has no start
        following: Any | None = block
        while following is not None and id(following) not in ordered:
            ordered[id(following)] = following
            following = by_id.get(following.get("IDNEXT"))
    return list(ordered.values())


def _region(block: Any) -> Region:
    lines = tuple(line for line in map(_line, children(block, "TextLine")) if line.text)
    return Region(lines, box=_box(block))


def _line(element: Any) -> Line:
    """Return a line as the page shows it: words in two parts stay apart, with their hyphen."""
    words: list[Word] = []
    text = ""
    spaced = any(local_name(part) == "SP" for part in element)
    for part in element:
        kind = local_name(part)
        content = part.get("CONTENT", "")
        if kind == "String":
            text += content if spaced or not text else f" {content}"
            words.append(Word(content, _box(part) or (0.0, 0.0, 0.0, 0.0)))
        elif kind == "SP":
            text += " "
        elif kind == "HYP" and not text.endswith(_HYPHENS):
            text = text.rstrip(_SOFT_HYPHEN) + (content.replace(_SOFT_HYPHEN, "-") or "-")
    return Line(text.strip(), _box(element) or (0.0, 0.0, 0.0, 0.0), tuple(words))


def _box(element: Any) -> Box | None:
    left, top, width, height = (number_of(element, name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
    if left is None or top is None:
        return None
    return left, top, left + (width or 0.0), top + (height or 0.0)
