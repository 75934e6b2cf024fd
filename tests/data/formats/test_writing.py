"""Drawn pages as layouts: what is a region, a line and a word of a file."""

from __future__ import annotations

from pathlib import Path

from lxml import etree
from PIL import Image

from deepsynth.data.formats.layout import LayoutPage
from deepsynth.data.formats.writing import layout_of, write_alto, write_page_xml
from deepsynth.types import Line, Page, Word


def word(text: str, left: float, right: float) -> Word:
    return Word(text, (left, 10.0, right, 20.0))


#: Two cells of a row, a line of a word in two parts with what draws nothing, and after an empty line another block.
PARTS = (word("un\u200b", -3, 10), word("broken", 10, 25), word("\x01", 27, 28))
LINES = (
    Line("a cell", (0, 10, 20, 20), (word("a", 0, 5), word("cell", 8, 20)), ending="\t"),
    Line("next", (30, 10, 45, 20), (word("next", 30, 45),)),
    Line("un\u200bbroken \x01", (-3, 30, 28, 40), PARTS, ending="-\n\n"),
    Line("\u200b", (0, 45, 1, 50), (word("\u200b", 0, 1),), ending="\n"),
    Line("last", (0, 60, 15, 70), (word("last", 0, 15),)),
)


def page() -> LayoutPage:
    return layout_of(Page(Image.new("RGB", (50, 80)), "", lines=LINES), "a.png")


def test_a_row_is_a_line_and_an_empty_line_ends_a_region() -> None:
    first, second = page().regions
    assert [line.text for line in first.lines] == ["a cell\tnext", "unbroken \ufffd"]
    words = [[part.text for part in line.words] for line in first.lines]
    assert words == [["a", "cell", "next"], ["unbroken", "\ufffd"]]
    assert [[part.box[:3:2] for part in line.words] for line in first.lines] == [
        [(0, 5), (8, 20), (30, 45)],
        [(-3, 25), (27, 28)],
    ]
    assert [line.box for line in first.lines] == [(0, 10, 45, 20), (-3, 30, 28, 40)]
    assert [line.text for line in second.lines] == ["last"]


def test_places_are_whole_pixels_of_the_page(tmp_path: Path) -> None:
    write_page_xml(page(), tmp_path / "page.xml")
    write_alto(page(), tmp_path / "alto.xml")
    roots = [etree.parse(str(tmp_path / name)).getroot() for name in ("page.xml", "alto.xml")]
    assert roots[0].findall(".//{*}TextLine/{*}Coords")[1].get("points") == "0,30 28,30 28,40 0,40"  # -3 is outside
    second = roots[1].findall(".//{*}TextLine")[1]
    assert [second.get(name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")] == ["0", "30", "28", "10"]
    assert roots[0].findall(".//{*}TextLine/{*}TextEquiv/{*}Unicode")[1].text == "unbroken \ufffd-"
