"""Pages as PAGE XML (2019) and ALTO (version 4), with the boxes of lines and words, and their reading order.

Sources: https://github.com/PRImA-Research-Lab/PAGE-XML and https://www.loc.gov/standards/alto/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepsynth._version import __version__
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.metrics.visible_text import remove_invisible
from deepsynth.types import Box, Line, Page, Word

_PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
_ALTO = "http://www.loc.gov/standards/alto/ns-v4#"
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class _TextLine:
    """A line as files have it: words apart by spaces, the drawn hyphen by itself, the cells of a row together."""

    text: str
    box: Box
    words: tuple[Word, ...]
    hyphen: str


def write_page_xml(page: Page, image_name: str, path: Path) -> None:
    """Write a page as PAGE XML; one without lines (a scan) has its text in one region of the whole page.

    Args:
        page: its boxes are rounded to whole pixels.
        image_name: name of the image's file.
        path: file to write.

    Raises:
        UserError: when it cannot be written.
    """
    width, height = page.image.size
    root, add = _document(_PAGE, "PcGts")
    metadata = add(root, "Metadata")
    add(metadata, "Creator").text = f"deepsynth {__version__}"
    for name in ("Created", "LastChange"):
        add(metadata, name).text = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    size = {"imageWidth": str(width), "imageHeight": str(height)}
    element = add(root, "Page", imageFilename=image_name, **size)
    blocks = list(_blocks(page.lines)) if page.lines else [[]]
    group = add(add(element, "ReadingOrder"), "OrderedGroup", id="order")
    for number in range(len(blocks)):
        add(group, "RegionRefIndexed", index=str(number), regionRef=f"r{number}")
    for number, lines in enumerate(blocks):
        region = add(element, "TextRegion", id=f"r{number}")
        add(region, "Coords", points=_points(_around([line.box for line in lines]) if lines else (0, 0, width, height)))
        for place, line in enumerate(lines):
            own = add(region, "TextLine", id=f"r{number}l{place}")
            add(own, "Coords", points=_points(line.box))
            for count, word in enumerate(line.words):
                one = add(own, "Word", id=f"r{number}l{place}w{count}")
                add(one, "Coords", points=_points(word.box))
                hyphen = line.hyphen if count == len(line.words) - 1 else ""
                add(add(one, "TextEquiv"), "Unicode").text = word.text + hyphen
            add(add(own, "TextEquiv"), "Unicode").text = line.text + line.hyphen
        text = "\n".join(line.text + line.hyphen for line in lines) if lines else _NO_XML.sub("\ufffd", page.text)
        add(add(region, "TextEquiv"), "Unicode").text = text
    _write(root, path)


def write_alto(page: Page, image_name: str, path: Path) -> None:
    """Write a page as ALTO; arguments as of :func:`write_page_xml`.

    Raises:
        UserError: when the page has no lines with boxes, or the file cannot be written.
    """
    if not page.lines and page.text.strip():
        raise UserError(
            f"{path}: the page has a text without lines and boxes, as scans have, and ALTO needs them; take the format "
            "page, jsonl or parquet"
        )
    width, height = page.image.size
    root, add = _document(_ALTO, "alto")
    description = add(root, "Description")
    add(description, "MeasurementUnit").text = "pixel"
    add(add(description, "sourceImageInformation"), "fileName").text = image_name
    size = {"WIDTH": str(width), "HEIGHT": str(height)}
    element = add(add(root, "Layout"), "Page", ID="page", PHYSICAL_IMG_NR="1", **size)
    space = add(element, "PrintSpace", HPOS="0", VPOS="0", **size)
    for number, lines in enumerate(_blocks(page.lines)):
        block = add(space, "TextBlock", ID=f"b{number}", **_place(_around([line.box for line in lines])))
        for place, line in enumerate(lines):
            own = add(block, "TextLine", ID=f"b{number}l{place}", **_place(line.box))
            for count, word in enumerate(line.words):
                if count:
                    add(own, "SP")
                add(own, "String", ID=f"b{number}l{place}s{count}", CONTENT=word.text, **_place(word.box))
            if line.hyphen:
                add(own, "HYP", CONTENT=line.hyphen)
    _write(root, path)


def _document(namespace: str, name: str) -> tuple[Any, Any]:
    from lxml import etree

    def add(parent: Any, name: str, **attributes: str) -> Any:
        return etree.SubElement(parent, f"{{{namespace}}}{name}", attributes)

    return etree.Element(f"{{{namespace}}}{name}", nsmap={None: namespace}), add


def _write(root: Any, path: Path) -> None:
    from lxml import etree

    with explain_write_errors(path, "the page"), atomic_file(path) as temporary:
        temporary.write_bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))


def _blocks(lines: Sequence[Line]) -> Iterator[list[_TextLine]]:
    """Yield the lines between two empty ones; those that a tab ends are cells of one row."""
    block: list[_TextLine] = []
    row: list[Line] = []
    for line in lines:
        row.append(line)
        if "\n" not in line.ending and line is not lines[-1]:
            continue
        found = _text_line(row)
        row = []
        if found.words:
            block.append(found)
        if line.ending.count("\n") > 1 and block:
            yield block
            block = []
    if block:
        yield block


def _text_line(row: Sequence[Line]) -> _TextLine:
    words = tuple(word for line in row for word in _words(line))
    text = "".join(line.text + (line.ending if line is not row[-1] else "") for line in row)
    hyphen = row[-1].ending.rstrip("\n\t ")
    return _TextLine(_visible(text).strip(), _around([line.box for line in row]), words, hyphen)


def _words(line: Line) -> Iterator[Word]:
    """Yield what white space parts in a line; the renderer's words are what a line break may part."""
    text, boxes, at = "", list[Box](), 0
    for word in line.words:
        start = max(line.text.find(word.text, at), at)
        if start > at and boxes:
            if _visible(text):
                yield Word(_visible(text), _around(boxes))
            text, boxes = "", []
        text, at = text + word.text, start + len(word.text)
        boxes.append(word.box)
    if _visible(text):
        yield Word(_visible(text), _around(boxes))


def _visible(text: str) -> str:
    return _NO_XML.sub("\ufffd", remove_invisible(text)[0])


def _around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around others."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _rounded(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = (max(0, round(edge)) for edge in box)
    return left, top, right, bottom


def _points(box: Box) -> str:
    left, top, right, bottom = _rounded(box)
    return f"{left},{top} {right},{top} {right},{bottom} {left},{bottom}"


def _place(box: Box) -> dict[str, str]:
    left, top, right, bottom = _rounded(box)
    return {"HPOS": str(left), "VPOS": str(top), "WIDTH": str(right - left), "HEIGHT": str(bottom - top)}
