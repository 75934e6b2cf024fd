"""Pages as PAGE XML and ALTO describe them, and how their files are parsed: regions, lines, words, boxes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepsynth.errors import UserError
from deepsynth.types import Box, Line

LayoutFormat = Literal["page", "alto"]

_ROOT = re.compile(rb"<(?:[\w.-]+:)?(PcGts|alto)[\s>]", re.IGNORECASE)
#: Bytes at the start of a file in which its root element is looked for.
_START_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Region:
    """A block of text.

    Attributes:
        lines: its lines in reading order.
        text: its text where it has no lines; a table's rows as lines, their cells apart by tabs; "" for an image.
        box: of the region, where the file has one.
    """

    lines: tuple[Line, ...] = ()
    text: str = ""
    box: Box | None = None

    def __str__(self) -> str:
        """Return the text of the region, a line of it a line."""
        return "\n".join(line.text for line in self.lines) or self.text


@dataclass(frozen=True, slots=True)
class LayoutPage:
    """A page with its regions in reading order.

    Attributes:
        regions: blocks of text; those without any are left out.
        image: name of the page's image as the file has it.
        width: of the page in the file's unit, pixels as a rule; 0 where it is not said.
        height: likewise.
    """

    regions: tuple[Region, ...]
    image: str | None = None
    width: float = 0.0
    height: float = 0.0

    @property
    def text(self) -> str:
        """The text of the page in reading order, with an empty line between regions."""
        return "\n\n".join(map(str, self.regions))


def sniff_layout(path: Path) -> LayoutFormat | None:
    """Return which format an XML file has by its root element; ``None`` for neither.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = start.decode("utf-16", "replace").encode()
    found = _ROOT.search(start)
    if found is None:
        return None
    return "alto" if found[1].lower() == b"alto" else "page"


def parse_xml(path: Path) -> Any:
    """Return the root element of an XML file, without comments; strangers' files reach neither network nor entities.

    Raises:
        UserError: when it cannot be read, is no XML, or declares a document type.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        tree = etree.parse(str(path), parser)
    except etree.XMLSyntaxError as error:
        raise UserError(f"{path}: not XML: {error.msg}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if tree.docinfo.doctype or tree.docinfo.internalDTD is not None:
        raise UserError(f"{path}: declares a document type, whose entities may be anything; remove the DOCTYPE line")
    return tree.getroot()


def local_name(element: Any) -> str:
    """Return the name of an element without its namespace: all versions of a schema are supported."""
    return str(element.tag).rpartition("}")[2]


def children(element: Any, *names: str) -> list[Any]:
    """Return the children of an element that have one of these names, in their order."""
    return [child for child in element if local_name(child) in names]


def child(element: Any, name: str) -> Any | None:
    """Return the first child of this name."""
    return next((found for found in element if local_name(found) == name), None)


def descendants(element: Any, name: str) -> list[Any]:
    """Return all elements of this name below an element, in the order of the file."""
    return [found for found in element.iter() if local_name(found) == name]


def number_of(element: Any, name: str) -> float | None:
    """Return an attribute as a number; ``None`` when it is absent or is none."""
    try:
        return float(element.get(name, ""))
    except ValueError:
        return None
