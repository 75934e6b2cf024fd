"""What stands in the margins of a page: a running head or foot, and the page's number."""

from __future__ import annotations

from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import Frame, LayoutRow, PageLayout
from deepsynth.data.typesetting.paragraphs import BlockLabel, Paragraph, RunStyle, Side

_STYLE = RunStyle(scale=0.85)
#: Distance from the columns, in units of the font size.
_GAP_EM = 0.7
#: Most of the line below the page that the running foot takes.
_FOOT_SHARE = 0.8


def furnish(layout: PageLayout, typesetter: Typesetter, frame: Frame, title: str, number: int) -> PageLayout:
    """Return a page with its running head or foot and its number, where its margins have room for them.

    Args:
        layout: the page.
        typesetter: sets the lines.
        frame: columns of the page.
        title: the running head or foot, as much of it as one line holds; "" is none.
        number: number of the page, from 1.
    """
    look = typesetter.look
    head_text, foot_text = (title if wanted else "" for wanted in (look.running_head and number > 1, look.running_foot))
    if not head_text and not foot_text and not look.page_number:
        return layout
    side: Side = "center" if look.page_number == "center" else "right"
    width = frame.full_width
    head = _row(head_text, "header", "center", typesetter, width) if head_text else None
    # The number has the rest of the line.
    foot_width = int(width * (_FOOT_SHARE if side == "right" else _FOOT_SHARE / 2))
    foot = _row(foot_text, "footer", "left", typesetter, foot_width) if foot_text else None
    page_number = _row(str(number), "page_number", side, typesetter, width) if look.page_number else None
    gap, left = typesetter.pixels(_GAP_EM), min(frame.lefts)
    whole = PageLayout()
    if head and head.height + gap <= frame.top:
        whole.add(head, 0, left, frame.top - gap - head.height)
    shift = len(whole.lines)
    whole.lines += layout.lines
    whole.rows += [row._replace(first_line=row.first_line + shift) for row in layout.rows]
    for row in (foot, page_number):
        if row and row.height + gap <= frame.top:  # the margin is the same on every side
            whole.add(row, len(frame.lefts) - 1, left, frame.bottom + gap)
    return whole


def _row(text: str, label: BlockLabel, side: Side, typesetter: Typesetter, width: int) -> LayoutRow:
    paragraph = Paragraph(((text, _STYLE),), align=side, label=label)
    line = next(typesetter.lines(paragraph, width))
    line.joiner = line.ending = "\n"
    height = line.ascent + line.descent
    return LayoutRow([(line, 0, line.ascent)], height, position=(-1, 0), block=paragraph)
