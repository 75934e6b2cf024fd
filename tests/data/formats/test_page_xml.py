"""PAGE XML as several programs write it: the right text in the right order."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsynth.data.formats.layout import parse_xml, sniff_layout
from deepsynth.data.formats.page_xml import read_page_xml
from deepsynth.errors import UserError

NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/"

TRANSKRIBUS = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<PcGts xmlns="{ns}2013-07-15" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <Metadata><Creator>prov=x</Creator><Created>2024-01-01T00:00:00</Created></Metadata>
  <Page imageFilename="0001.jpg" imageWidth="200" imageHeight="300">
    <ReadingOrder><OrderedGroup id="ro" caption="Regions reading order">
      <RegionRefIndexed index="1" regionRef="r1"/>
      <RegionRefIndexed index="0" regionRef="r2"/>
    </OrderedGroup></ReadingOrder>
    <TextRegion type="paragraph" id="r1" custom="readingOrder {{index:1;}}">
      <Coords points="10,100 190,100 190,200 10,200"/>
      <TextLine id="l2" custom="readingOrder {{index:1;}}">
        <Coords points="10,120 100,120 100,140 10,140"/><Baseline points="10,138 100,138"/>
        <TextEquiv><Unicode>zweite Zeile</Unicode></TextEquiv></TextLine>
      <TextLine id="l1" custom="readingOrder {{index:0;}} textStyle {{bold:true;}}">
        <Coords points="10,100 100,100 100,118 10,118"/>
        <TextEquiv><Unicode>erſte Zeile</Unicode></TextEquiv></TextLine>
      <TextEquiv><Unicode>erſte Zeile
zweite Zeile</Unicode></TextEquiv>
    </TextRegion>
    <TextRegion type="heading" id="r2" custom="readingOrder {{index:0;}}">
      <Coords points="10,10 190,10 190,40 10,40"/>
      <TextLine id="h1"><Coords points="10,10 190,10 190,40 10,40"/>
        <TextEquiv><Unicode>Überſchrift &amp; mehr</Unicode></TextEquiv></TextLine>
    </TextRegion>
  </Page>
</PcGts>"""

KRAKEN = """<?xml version="1.0" encoding="UTF-8"?>
<pc:PcGts xmlns:pc="{ns}2019-07-15">
  <pc:Metadata><pc:Creator>kraken</pc:Creator></pc:Metadata>
  <pc:Page imageFilename="p.png" imageWidth="100" imageHeight="100">
    <pc:TextRegion id="b0"><pc:Coords points="0,0 50,0 50,50 0,50"/>
      <pc:TextLine id="l0"><pc:Coords points="0,0 50,0 50,10 0,10"/>
        <pc:Word id="w0"><pc:Coords points="0,0 20,0 20,10 0,10"/>
          <pc:Glyph id="g0"><pc:Coords points="0,0 9,0 9,10 0,10"/>
            <pc:TextEquiv conf="0.9"><pc:Unicode>x</pc:Unicode></pc:TextEquiv></pc:Glyph>
          <pc:TextEquiv conf="0.9"><pc:Unicode>One</pc:Unicode></pc:TextEquiv></pc:Word>
        <pc:Word id="w1"><pc:Coords points="25,0 50,0 50,10 25,10"/>
          <pc:TextEquiv conf="0.9"><pc:Unicode>line</pc:Unicode></pc:TextEquiv></pc:Word>
      </pc:TextLine>
      <pc:TextLine id="l1"><pc:Coords points="0,20 50,20 50,30 0,30"/>
        <pc:TextEquiv conf="0.9"><pc:Unicode>next line</pc:Unicode></pc:TextEquiv></pc:TextLine>
    </pc:TextRegion>
  </pc:Page>
</pc:PcGts>"""

OCR_D = """<?xml version="1.0"?>
<PcGts xmlns="{ns}2018-07-15" pcGtsId="x">
  <Page imageFilename="OCR-D-IMG/p1.tif" imageWidth="100" imageHeight="100">
    <AlternativeImage filename="OCR-D-BIN/p1.png" comments="binarized"/>
    <ReadingOrder><OrderedGroup id="g">
      <OrderedGroupIndexed id="g1" index="1" regionRef="t1">
        <RegionRefIndexed index="1" regionRef="n1"/><RegionRefIndexed index="0" regionRef="n2"/>
      </OrderedGroupIndexed>
      <RegionRefIndexed index="0" regionRef="t2"/>
      <UnorderedGroupIndexed id="g2" index="2"><RegionRef regionRef="t0"/></UnorderedGroupIndexed>
    </OrderedGroup></ReadingOrder>
    <TextRegion id="t0"><Coords points="0,0 1,1"/><TextEquiv><Unicode>region text
alone</Unicode></TextEquiv></TextRegion>
    <TextRegion id="t1"><Coords points="0,0 9,9"/>
      <TextRegion id="n1"><Coords points="0,0 1,1"/><TextLine id="a"><Coords points="0,0 1,1"/>
        <TextEquiv index="1" conf="0.4"><Unicode>wrong</Unicode></TextEquiv>
        <TextEquiv index="0" conf="0.9"><Unicode>third</Unicode></TextEquiv></TextLine></TextRegion>
      <TextRegion id="n2"><Coords points="0,0 1,1"/><TextLine id="b"><Coords points="0,0 1,1"/>
        <TextEquiv><Unicode>second</Unicode></TextEquiv></TextLine></TextRegion>
      <TextEquiv><Unicode>second
third</Unicode></TextEquiv>
    </TextRegion>
    <ImageRegion id="i"><Coords points="0,0 1,1"/></ImageRegion>
    <TextRegion id="t2"><Coords points="0,0 1,1"/><TextLine id="c"><Coords points="0,0 1,1"/>
      <TextEquiv><Unicode>first</Unicode></TextEquiv></TextLine></TextRegion>
    <TextRegion id="t3"><Coords points="0,0 1,1"/><TextLine id="d"><Coords points="0,0 1,1"/>
      <TextEquiv><Unicode>in no group</Unicode></TextEquiv></TextLine></TextRegion>
  </Page>
</PcGts>"""

TABLE = """<PcGts xmlns="{ns}2013-07-15"><Page imageFilename="t.jpg" imageWidth="9" imageHeight="9">
  <TableRegion id="t"><Coords points="0,0 9,9"/>
    <TableCell row="1" col="0" id="c3"><Coords points="0,0 1,1"/><TextLine id="z"><Coords points="0,0 1,1"/>
      <TextEquiv><Unicode>c</Unicode></TextEquiv></TextLine></TableCell>
    <TableCell row="0" col="1" id="c2"><Coords points="0,0 1,1"/><TextLine id="y"><Coords points="0,0 1,1"/>
      <TextEquiv><Unicode>b</Unicode></TextEquiv></TextLine></TableCell>
    <TableCell row="0" col="0" id="c1"><Coords points="0,0 1,1"/><TextLine id="x"><Coords points="0,0 1,1"/>
      <TextEquiv><Unicode>a</Unicode></TextEquiv></TextLine></TableCell>
    <TableCell row="1" col="1" id="c4"><Coords points="0,0 1,1"/></TableCell>
  </TableRegion></Page></PcGts>"""


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "page.xml"
    path.write_text(content.format(ns=NAMESPACE), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "text", "image"),
    [
        (TRANSKRIBUS, "Überſchrift & mehr\n\nerſte Zeile\nzweite Zeile", "0001.jpg"),
        (KRAKEN, "One line\nnext line", "p.png"),
        (OCR_D, "first\n\nsecond\n\nthird\n\nregion text\nalone\n\nin no group", "OCR-D-IMG/p1.tif"),
        (TABLE, "a\tb\nc\t", "t.jpg"),
    ],
    ids=["Transkribus", "kraken", "OCR-D", "table"],
)
def test_text_and_order(content: str, text: str, image: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    assert sniff_layout(path) == "page"
    page = read_page_xml(path)
    assert page.text == text
    assert page.image == image


def test_boxes_and_size(tmp_path: Path) -> None:
    page = read_page_xml(write(tmp_path, TRANSKRIBUS))
    assert (page.width, page.height) == (200, 300)
    assert [region.box for region in page.regions] == [(10, 10, 190, 40), (10, 100, 190, 200)]
    assert page.regions[1].lines[0].box == (10, 100, 100, 118)
    word = read_page_xml(write(tmp_path, KRAKEN)).regions[0].lines[0].words[1]
    assert (word.text, word.box) == ("line", (25, 0, 50, 10))


@pytest.mark.parametrize("year", ["2010-03-19", "2013-07-15", "2016-07-15", "2017-07-15", "2018-07-15", "2019-07-15"])
def test_every_version(year: str, tmp_path: Path) -> None:
    content = TRANSKRIBUS.replace("2013-07-15", year)
    points = '<Point x="10" y="10"/><Point x="190" y="40"/>'
    content = content.replace('<Coords points="10,10 190,10 190,40 10,40"/>', f"<Coords>{points}</Coords>")
    page = read_page_xml(write(tmp_path, content))
    assert page.text.startswith("Überſchrift")
    assert page.regions[0].box == (10, 10, 190, 40)


def test_text_with_markup_characters_and_comments(tmp_path: Path) -> None:
    content = TRANSKRIBUS.replace("zweite Zeile<", "zweite <!-- c -->&lt;b&gt; Zeile<", 1)
    assert "zweite <b> Zeile" in read_page_xml(write(tmp_path, content)).text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<PcGts", "not XML"),
        ("", "not XML"),
        ("<mets/>", "not PAGE XML: no Page element in PcGts; the root element is mets"),
        ("<PcGts/>", "not PAGE XML"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><PcGts>&b;</PcGts>', "declares a document type"),
        ('<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><PcGts/>', "declares a document type"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><PcGts>&a;</PcGts>', "declares a document type"),
    ],
)
def test_what_is_no_page(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "page.xml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_page_xml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_of_entities_is_never_expanded(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    path = tmp_path / "bomb.xml"
    path.write_text(f'<!DOCTYPE x [<!ENTITY e0 "bomb">{levels}]><PcGts>&e11;</PcGts>')
    with pytest.raises(UserError, match=r"declares a document type|not XML"):
        parse_xml(path)
