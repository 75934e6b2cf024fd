"""Annotated pages as Markdown."""

from __future__ import annotations

from deepsynth.data.formats.omnidocbench import AnnotatedPage, Element


def test_elements_are_written_in_the_order_of_reading_as_their_kind_is() -> None:
    page = AnnotatedPage(
        "scans/a.b.png",
        (
            Element("text_block", 4, text=" last "),
            Element("table", 3, text="cells", html="<table></table>"),
            Element("title", 1, text="# A title"),
            Element("equation_isolated", 2, text="formula", latex="$$x$$"),
            Element("page_number", 0, text="7"),
            Element("code_txt", 5, text=""),
        ),
        {"language": "simplified_chinese"},
    )
    assert page.markdown() == "# A title\n\n$$x$$\n\n<table></table>\n\nlast"
    assert (page.name, page.language) == ("a.b", "zh")
    assert AnnotatedPage("a.png", (), {"language": "mixed"}).language is None
