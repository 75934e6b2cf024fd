"""Pages as PAGE XML (2019) and ALTO (version 4), with the boxes of lines and words, and their reading order.

Sources: https://github.com/PRImA-Research-Lab/PAGE-XML and https://www.loc.gov/standards/alto/. What is written here
was validated against the schema files of PAGE 2019-07-15 and of ALTO 4.2, 4.3 and 4.4 on November 28, 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepsynth._version import __version__
from deepsynth.data.formats.layout import LayoutPage, Region
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.metrics.visible_text import remove_invisible
from deepsynth.types import Box, Line, Page, Word

_PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
_ALTO = "http://www.loc.gov/standards/alto/ns-v4#"
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def layout_of(page: Page, image_name: str) -> LayoutPage:
    """Return a page with its regions: the lines between two empty ones; a scan is one region without a box.

    Args:
        page: its boxes are rounded to whole pixels when they are written.
        image_name: name of the image's file.
    """
    width, height = page.image.size
    regions = (Region(lines=tuple(lines), box=_around([line.box for line in lines])) for lines in _blocks(page.lines))
    if not page.lines:
        regions = (Region(text=text) for text in [page.text] if text.strip())
    return LayoutPage(tuple(regions), image_name, width, height)


def write_page_xml(page: LayoutPage, path: Path) -> None:
    """Write a page as PAGE XML; a text without a box stands in a region of the whole page.

    A region without a text is one of an image.

    Raises:
        UserError: when it cannot be written.
    """
    root, add = _document(_PAGE, "PcGts")
    metadata = add(root, "Metadata")
    add(metadata, "Creator").text = f"deepsynth {__version__}"
    for name in ("Created", "LastChange"):
        add(metadata, name).text = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    size = {"imageWidth": f"{page.width:.0f}", "imageHeight": f"{page.height:.0f}"}
    element = add(root, "Page", imageFilename=_xml(page.image or ""), **size)
    if page.regions:
        group = add(add(element, "ReadingOrder"), "OrderedGroup", id="order")
        for number in range(len(page.regions)):
            add(group, "RegionRefIndexed", index=str(number), regionRef=f"r{number}")
    for number, found in enumerate(page.regions):
        region = add(element, "TextRegion" if str(found) else "ImageRegion", id=f"r{number}")
        add(region, "Coords", points=_points(found.box or (0, 0, page.width, page.height)))
        for place, line in enumerate(found.lines):
            own = add(region, "TextLine", id=f"r{number}l{place}")
            add(own, "Coords", points=_points(line.box))
            for count, word in enumerate(line.words):
                one = add(own, "Word", id=f"r{number}l{place}w{count}")
                add(one, "Coords", points=_points(word.box))
                hyphen = _hyphen(line) if count == len(line.words) - 1 else ""
                add(add(one, "TextEquiv"), "Unicode").text = _xml(word.text + hyphen)
            add(add(own, "TextEquiv"), "Unicode").text = _xml(line.text + _hyphen(line))
        if str(found):
            text = "\n".join(line.text + _hyphen(line) for line in found.lines) or found.text
            add(add(region, "TextEquiv"), "Unicode").text = _xml(text)
    _write(root, path)


def write_alto(page: LayoutPage, path: Path) -> None:
    """Write a page as ALTO; a region without a text is an illustration, and lines without boxes stay without.

    Raises:
        UserError: when no text has a box, or the file cannot be written.
    """
    if page.regions and all(region.box is None for region in page.regions):
        raise UserError(
            f"{path}: the page has a text without lines and boxes, as scans have, and ALTO needs them; use the format "
            "page, jsonl or parquet"
        )
    root, add = _document(_ALTO, "alto")
    description = add(root, "Description")
    add(description, "MeasurementUnit").text = "pixel"
    add(add(description, "sourceImageInformation"), "fileName").text = _xml(page.image or "")
    size = {"WIDTH": f"{page.width:.0f}", "HEIGHT": f"{page.height:.0f}"}
    element = add(add(root, "Layout"), "Page", ID="page", PHYSICAL_IMG_NR="1", **size)
    space = add(element, "PrintSpace", HPOS="0", VPOS="0", **size)
    for number, region in enumerate(page.regions):
        name = "TextBlock" if str(region) else "Illustration"
        block = add(space, name, ID=f"b{number}", **_place(region.box))
        for place, line in enumerate(region.lines):
            own = add(block, "TextLine", ID=f"b{number}l{place}", **_place(line.box))
            _add_strings(add, own, line.words or [(text, None) for text in line.text.split()])
            if _hyphen(line):
                add(own, "HYP", CONTENT=_hyphen(line))
        texts = () if region.lines else filter(str.strip, region.text.split("\n"))
        for place, text in enumerate(texts):
            _add_strings(add, add(block, "TextLine", ID=f"b{number}l{place}"), [(word, None) for word in text.split()])
    _write(root, path)


def _add_strings(add: Any, line: Any, words: Iterable[Word | tuple[str, None]]) -> None:
    for count, word in enumerate(words):
        text, box = (word.text, word.box) if isinstance(word, Word) else word
        if count:
            add(line, "SP")
        add(line, "String", ID=f"{line.get('ID')}s{count}", CONTENT=_xml(text), **_place(box))


def _document(namespace: str, name: str) -> tuple[Any, Any]:
    from lxml import etree

    def add(parent: Any, name: str, **attributes: str) -> Any:
        return etree.SubElement(parent, f"{{{namespace}}}{name}", attributes)

    return etree.Element(f"{{{namespace}}}{name}", nsmap={None: namespace}), add


def _write(root: Any, path: Path) -> None:
    from lxml import etree

    with explain_write_errors(path, "the page"), atomic_file(path) as temporary:
        temporary.write_bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True))


def _blocks(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Yield the lines between two empty ones; those that a tab ends are cells of one row."""
    block: list[Line] = []
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


def _text_line(row: Sequence[Line]) -> Line:
    """Return a line as files have it: words apart by spaces, the cells of a row together."""
    words = tuple(word for line in row for word in _words(line))
    text = "".join(line.text + (line.ending if line is not row[-1] else "") for line in row)
    box = _around([line.box for line in row])
    return Line(_visible(text).strip(), box, words, ending=row[-1].ending)


def _hyphen(line: Line) -> str:
    """Return the hyphen that is drawn at the end of a line and is not in its text."""
    return line.ending.rstrip("\n\t ")


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
    return _xml(remove_invisible(text)[0])


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


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


def _place(box: Box | None) -> dict[str, str]:
    if box is None:
        return {}
    left, top, right, bottom = _rounded(box)
    return {"HPOS": str(left), "VPOS": str(top), "WIDTH": str(right - left), "HEIGHT": str(bottom - top)}
