"""Predicted texts with boxes as PAGE XML and ALTO: what the readers find is what was predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from deepsynth.data.formats.alto import read_alto
from deepsynth.data.formats.grounding import grounded_layout
from deepsynth.data.formats.layout import LayoutPage
from deepsynth.data.formats.page_xml import read_page_xml
from deepsynth.data.formats.writing import write_alto, write_page_xml

SIZE = (1998, 999)
GROUNDED = (
    "<|ref|>title<|/ref|><|det|>[[100, 50, 900, 99]]<|/det|>\n## A heading\n\n"
    "<|ref|>text<|/ref|><|det|>[[100, 200, 400, 300], [450, 210, 900, 310]]<|/det|>\nOne line & more\n"
    "and \x01 another.\n"
    "<|ref|>image<|/ref|><|det|>[[0, 400, 999, 500]]<|/det|>\n"
    "<|ref|>table<|/ref|><|det|>[[1, 600, 2, 700]]<|/det|>\n"
    "<table><tr><td>a</td><td>b</td></tr><tr><td>c d</td><td></td></tr></table>"
)
LINES = (
    "<|ref|>The first line<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>\n"
    "<|ref|>and the second.<|/ref|><|det|>[[11, 50, 40, 60]]<|/det|>"
)


def written(page: LayoutPage, folder: Path) -> tuple[LayoutPage, LayoutPage]:
    write_page_xml(page, folder / "page.xml")
    write_alto(page, folder / "alto.xml")
    return read_page_xml(folder / "page.xml"), read_alto(folder / "alto.xml")[0]


def test_blocks_are_regions_with_their_boxes(tmp_path: Path) -> None:
    page = grounded_layout(GROUNDED, "a.png", SIZE)
    assert page is not None
    for read in written(page, tmp_path):
        assert (read.image, read.width, read.height) == ("a.png", *SIZE)
        assert [str(region) for region in read.regions][:2] == ["A heading", "One line & more\nand \ufffd another."]
        assert [region.box for region in read.regions] == [(200, 50, 1800, 99), (200, 200, 1800, 310), (2, 600, 4, 700)]
    assert str(read_page_xml(tmp_path / "page.xml").regions[2]) == "a\tb\nc d"
    page_root, alto_root = (etree.parse(str(tmp_path / f"{name}.xml")).getroot() for name in ("page", "alto"))
    assert [element.get("points") for element in page_root.iterfind(".//{*}ImageRegion/{*}Coords")] == [
        "0,400 1998,400 1998,500 0,500"
    ]
    (picture,) = alto_root.iterfind(".//{*}Illustration")
    assert (picture.get("VPOS"), picture.get("HEIGHT")) == ("400", "100")
    # A line has a place only if it is known.
    assert all(line.get("HPOS") is None for line in alto_root.iter("{*}TextLine", "{*}String"))


def test_names_with_boxes_alone_are_lines(tmp_path: Path) -> None:
    page = grounded_layout(LINES, "a.png", SIZE)
    assert page is not None
    for read in written(page, tmp_path):
        (region,) = read.regions
        assert [(line.text, line.box) for line in region.lines] == [
            ("The first line", (20, 20, 60, 40)),
            ("and the second.", (22, 50, 80, 60)),
        ]
        assert region.box == (20, 20, 80, 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no boxes at all", None),
        ("<|ref|>text<|/ref|><|det|>[[5, 5]]<|/det|>\nbroken", None),
        (" \n", ""),
        (f"before {LINES}\nafter", "before\n\nThe first line\n\nand the second.\nafter"),
        ("<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\na\n<|ref|>x<|/ref|><|det|>[[9]]<|/det|>\nb", "a\n\nb"),
        ("<|ref|>image<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>", ""),
    ],
)
def test_no_text_is_lost(text: str, expected: str | None, tmp_path: Path) -> None:
    page = grounded_layout(text, "a.png", SIZE)
    assert (None if page is None else page.text) == expected
    if page is not None:
        written(page, tmp_path)
        alto = etree.parse(str(tmp_path / "alto.xml")).getroot()
        for line in alto.iter("{*}TextLine"):  # the schema wants a word in each, and none in a picture
            assert etree.QName(line[0]).localname == "String"
            assert etree.QName(line.getparent()).localname == "TextBlock"
