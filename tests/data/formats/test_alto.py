"""ALTO as several programs write it: the right text in the right order."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsynth.data.formats.alto import read_alto
from deepsynth.data.formats.layout import sniff_layout
from deepsynth.errors import UserError

ABBYY = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v2#" xmlns:xlink="http://www.w3.org/1999/xlink">
<Description><MeasurementUnit>pixel</MeasurementUnit>
<sourceImageInformation><fileName>scan_0001.tif</fileName></sourceImageInformation></Description>
<Styles><ParagraphStyle ID="P0" ALIGN="Left"/></Styles>
<Layout><Page ID="Page1" PHYSICAL_IMG_NR="1" HEIGHT="300" WIDTH="200">
<TopMargin HEIGHT="20" WIDTH="200" VPOS="0" HPOS="0"><TextBlock ID="h" HEIGHT="9" WIDTH="9" VPOS="1" HPOS="1">
<TextLine HPOS="1" VPOS="1" WIDTH="9" HEIGHT="9"><String CONTENT="Header" HPOS="1" VPOS="1" WIDTH="9" HEIGHT="9"/>
</TextLine>
</TextBlock></TopMargin>
<BottomMargin HEIGHT="20" WIDTH="200" VPOS="280" HPOS="0"><TextBlock ID="f">
<TextLine><String CONTENT="17"/></TextLine></TextBlock></BottomMargin>
<PrintSpace HEIGHT="200" WIDTH="180" VPOS="20" HPOS="10">
<ComposedBlock ID="c1"><TextBlock ID="b1" HPOS="10" VPOS="20" WIDTH="90" HEIGHT="40" language="de">
<TextLine BASELINE="30" HPOS="10" VPOS="20" WIDTH="90" HEIGHT="12">
<String STYLE="bold" CONTENT="Die" HPOS="10" VPOS="20" WIDTH="20" HEIGHT="12" WC="0.9" CC="000"/>
<SP WIDTH="4" HPOS="30" VPOS="20"/>
<String CONTENT="Ent" SUBS_TYPE="HypPart1" SUBS_CONTENT="Entwicklung" HPOS="34" VPOS="20" WIDTH="20" HEIGHT="12"/>
<HYP CONTENT="&#173;"/></TextLine>
<TextLine><String CONTENT="wicklung" SUBS_TYPE="HypPart2" SUBS_CONTENT="Entwicklung"/><SP/>
<String CONTENT="&quot;A&amp;B&quot;"/></TextLine>
</TextBlock></ComposedBlock>
<Illustration ID="i1"/><GraphicalElement ID="g1"/>
<TextBlock ID="b2"><TextLine/><TextLine><String CONTENT="Ende"/></TextLine></TextBlock>
</PrintSpace></Page></Layout></alto>"""

KRAKEN = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#">
<Description><MeasurementUnit>pixel</MeasurementUnit>
<sourceImageInformation><fileName>p.png</fileName></sourceImageInformation></Description>
<Layout><ReadingOrder><OrderedGroup ID="ro"><ElementRef ID="e1" REF="b2"/><ElementRef ID="e0" REF="b1"/>
</OrderedGroup></ReadingOrder>
<Page WIDTH="100" HEIGHT="100" PHYSICAL_IMG_NR="0" ID="page_0"><PrintSpace HPOS="0" VPOS="0" WIDTH="100" HEIGHT="100">
<TextBlock ID="b1"><Shape><Polygon POINTS="0 0 1 1"/></Shape>
<TextLine ID="l1" BASELINE="0,9 50,9"><String CONTENT="second"><Glyph CONTENT="s"/></String><SP/>
<String CONTENT="block"/></TextLine>
</TextBlock>
<TextBlock ID="b2"><TextLine ID="l2"><String CONTENT="one whole line as kraken writes it"/></TextLine></TextBlock>
</PrintSpace></Page></Layout></alto>"""

TESSERACT = """<alto xmlns="http://www.loc.gov/standards/alto/ns-v3#"><Layout>
<Page WIDTH="10" HEIGHT="10"><PrintSpace><ComposedBlock ID="cblock_0"><TextBlock ID="block_0">
<TextLine ID="line_0"><String ID="s0" CONTENT="without"/><String ID="s1" CONTENT="spaces"/></TextLine></TextBlock>
</ComposedBlock>
</PrintSpace></Page>
<Page WIDTH="10" HEIGHT="10"><PrintSpace><TextBlock ID="block_1"><TextLine><String CONTENT="page"/><SP/>
<String CONTENT="two"/></TextLine></TextBlock></PrintSpace></Page></Layout></alto>"""

CHAIN = """<alto xmlns="http://www.loc.gov/standards/alto/ns-v2#"><Layout><Page><PrintSpace>
<TextBlock ID="a" IDNEXT="c"><TextLine><String CONTENT="1"/></TextLine></TextBlock>
<TextBlock ID="b"><TextLine><String CONTENT="3"/></TextLine></TextBlock>
<TextBlock ID="c"><TextLine><String CONTENT="2"/></TextLine></TextBlock>
</PrintSpace></Page></Layout></alto>"""


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "page.xml"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (ABBYY, ['Header\n\nDie Ent-\nwicklung "A&B"\n\nEnde\n\n17']),
        (KRAKEN, ["one whole line as kraken writes it\n\nsecond block"]),
        (TESSERACT, ["without spaces", "page two"]),
        (CHAIN, ["1\n\n2\n\n3"]),
        (CHAIN.replace('ID="c"', 'ID="c" IDNEXT="a"'), ["3\n\n1\n\n2"]),
    ],
    ids=["ABBYY", "kraken", "Tesseract", "chain", "circle"],
)
def test_text_and_order(content: str, texts: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, content)
    assert sniff_layout(path) == "alto"
    assert [page.text for page in read_alto(path)] == texts


@pytest.mark.parametrize("hyphen", ["", "-", "\u00ad", "\u00ac", "\u2010"])
def test_a_line_that_ends_in_a_hyphen_is_as_the_page_shows_it(hyphen: str, tmp_path: Path) -> None:
    (page,) = read_alto(write(tmp_path, ABBYY.replace('CONTENT="&#173;"', f'CONTENT="{hyphen}"')))
    shown = hyphen if hyphen in ("\u00ac", "\u2010") else "-"
    assert f"Die Ent{shown}\nwicklung" in page.text
    twice = ABBYY.replace('CONTENT="Ent"', 'CONTENT="Ent-"').replace("&#173;", hyphen or "-")
    assert "Die Ent-\nwicklung" in read_alto(write(tmp_path, twice))[0].text


def test_boxes_size_and_image(tmp_path: Path) -> None:
    (page,) = read_alto(write(tmp_path, ABBYY))
    assert (page.image, page.width, page.height) == ("scan_0001.tif", 200, 300)
    line = page.regions[1].lines[0]
    assert line.box == (10, 20, 100, 32)
    assert [(word.text, word.box) for word in line.words][1] == ("Ent", (34, 20, 54, 32))


def test_what_is_no_alto(tmp_path: Path) -> None:
    path = write(tmp_path, "<alto/>")
    with pytest.raises(UserError, match=r"page.xml: not ALTO: no Page element; the root element is alto"):
        read_alto(path)
    assert sniff_layout(write(tmp_path, "<document/>")) is None
