"""PAGE XML (PRImA, 2013 to 2019), as kraken, Transkribus, OCR-D and others write it.

Source: https://github.com/PRImA-Research-Lab/PAGE-XML. Order: the ``ReadingOrder`` of regions, nested groups included,
then Transkribus' ``custom="readingOrder {index:n;}"``, then that of the file. Of several ``TextEquiv`` the one of the
lowest index is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepsynth.data.formats.layout import LayoutPage, Region, child, children, local_name, number_of, parse_xml
from deepsynth.errors import UserError
from deepsynth.types import Box, Line, Word

_CUSTOM_ORDER = re.compile(r"readingOrder\s*\{\s*index\s*:\s*(\d+)")
_GROUPS = ("OrderedGroup", "UnorderedGroup", "OrderedGroupIndexed", "UnorderedGroupIndexed")
_LAST = float("inf")
_NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)


def read_page_xml(path: Path) -> LayoutPage:
    """Return the page that a PAGE XML file describes.

    Raises:
        UserError: when the file cannot be read or is no PAGE XML.
    """
    root = parse_xml(path)
    page = child(root, "Page") if local_name(root) == "PcGts" else None
    if page is None:
        raise UserError(f"{path}: not PAGE XML: no Page element in PcGts; the root element is {local_name(root)}")
    order: dict[str, int] = {}
    reading_order = child(page, "ReadingOrder")
    for group in () if reading_order is None else children(reading_order, *_GROUPS):
        _number_regions(group, order)
    regions = [region for element in _sorted_regions(page, order) for region in _regions_of(element, order)]
    return LayoutPage(
        tuple(region for region in regions if str(region)),
        image=page.get("imageFilename"),
        width=number_of(page, "imageWidth") or 0.0,
        height=number_of(page, "imageHeight") or 0.0,
    )


def _number_regions(group: Any, order: dict[str, int]) -> None:
    """Number the regions of a group and of the groups in it, in their reading order."""
    name = group.get("regionRef")
    if name:
        order.setdefault(name, len(order))
    members = [member for member in group if local_name(member).startswith(("RegionRef", *_GROUPS))]
    for member in sorted(members, key=lambda found: _or_last(number_of(found, "index"))):
        if local_name(member).startswith("RegionRef"):
            order.setdefault(member.get("regionRef", ""), len(order))
        else:
            _number_regions(member, order)


def _is_region(element: Any) -> bool:
    return local_name(element).endswith("Region")


def _sorted_regions(parent: Any, order: dict[str, int]) -> list[Any]:
    """Return the regions directly in an element, in reading order; the sort keeps the file's order of equals."""

    def place(region: Any) -> tuple[float, float]:
        own = [order[inner.get("id", "")] for inner in region.iter() if inner.get("id", "") in order]
        return min(own, default=_LAST), _custom_index(region)

    return sorted((element for element in parent if _is_region(element)), key=place)


def _regions_of(element: Any, order: dict[str, int]) -> list[Region]:
    """Return a region and those nested in it."""
    cells = children(element, "TableCell")
    if cells:
        return [Region(text=_table_text(cells), box=_box(element))]
    lines = tuple(line for line in map(_line, _sorted_lines(element)) if line.text)
    nested = [region for inner in _sorted_regions(element, order) for region in _regions_of(inner, order)]
    # The text of a region repeats that of its lines, or of the regions in it.
    text = "" if lines or any(map(str, nested)) else _text_of(element)
    return [Region(lines, text, _box(element)), *nested]


def _table_text(cells: Sequence[Any]) -> str:
    """Return the rows of a table as lines, its cells apart by tabs; cells are Transkribus' elements."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for cell in cells:
        text = " ".join(line.text for line in map(_line, _sorted_lines(cell)) if line.text) or _text_of(cell)
        rows.setdefault(number_of(cell, "row") or 0.0, []).append((number_of(cell, "col") or 0.0, text))
    texts = ("\t".join(text for _, text in sorted(row, key=lambda c: c[0])) for _, row in sorted(rows.items()))
    return "\n".join(texts) if any("".join(text for _, text in row) for row in rows.values()) else ""


def _sorted_lines(region: Any) -> list[Any]:
    return sorted(children(region, "TextLine"), key=_custom_index)


def _line(element: Any) -> Line:
    words = tuple(Word(_text_of(word), _box(word) or _NO_BOX) for word in children(element, "Word"))
    text = _text_of(element) or " ".join(word.text for word in words if word.text)
    return Line(" ".join(text.split("\n")), _box(element) or _NO_BOX, words)


def _text_of(element: Any) -> str:
    """Return the text of an element itself; of alternatives the one with the lowest index."""
    found = children(element, "TextEquiv")
    if not found:
        return ""
    best = min(found, key=lambda text: _or_last(number_of(text, "index")))
    unicode = child(best, "Unicode")
    return "" if unicode is None else "".join(unicode.itertext()).replace("\r\n", "\n").strip()


def _box(element: Any) -> Box | None:
    """Return the box around an element's outline: ``points`` since 2013, ``Point`` elements before."""
    coords = child(element, "Coords")
    if coords is None:
        return None
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", coords.get("points", ""))]
    if not numbers:
        points = children(coords, "Point")
        numbers = [
            number for point in points for number in (number_of(point, "x") or 0.0, number_of(point, "y") or 0.0)
        ]
    if len(numbers) < 4:
        return None
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _custom_index(element: Any) -> float:
    found = _CUSTOM_ORDER.search(element.get("custom", ""))
    return float(found[1]) if found else _LAST


def _or_last(number: float | None) -> float:
    return _LAST if number is None else number
