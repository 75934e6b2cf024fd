"""Pages for the tests of the augmenter: words as filled boxes, whose place can be read back from the pixels."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepsynth.types import Box, Line, Page, Word

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
TEXT = (
    "The committee met on Tuesday to hear the report of the harbour master. Two of the five cranes had been "
    "out of service since March and the third was waiting for parts that nobody made any longer. Members asked "
    "what a new one would cost and were told that the answer depended on whom one asked and on the weather. It was "
    "agreed to write to the ministry again and to move the next meeting to the larger room upstairs."
)


def box_page(boxes: list[Box], width: int, height: int, color: tuple[int, int, int] = (0, 0, 0)) -> Page:
    """Return a page with a filled box in the place of each word, one word a line."""
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in boxes:
        pen.rectangle((left, top, right - 1, bottom - 1), fill=color)
    lines = tuple(Line(str(number), box, (Word(str(number), box),)) for number, box in enumerate(boxes))
    return Page(image, "\n".join(line.text for line in lines), lines)


def text_page(size: int = 1024, font_size: int = 22, text: str = TEXT, margin: int = 60) -> Page:
    """Return a page of black text with a box for each word; as many words as the page holds."""
    image = Image.new("RGB", (size, size), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(str(FONT), font_size)
    lines: list[list[Word]] = [[]]
    x, y = float(margin), float(margin)
    for word in text.split():
        length = font.getlength(word)
        if x + length > size - margin:
            lines.append([])
            x, y = float(margin), y + 1.5 * font_size
            if y > size - margin - font_size:
                lines.pop()
                break
        box = tuple(map(float, pen.textbbox((x, y), word, font=font)))
        pen.text((x, y), word, font=font, fill="black")
        lines[-1].append(Word(word, box))
        x += length + 0.4 * font_size
    set_lines = tuple(_line(words, font_size) for words in lines)
    return Page(image, " ".join(line.text for line in set_lines), set_lines)


def _line(words: list[Word], font_size: int) -> Line:
    edges = np.array([word.box for word in words])
    box = (*edges[:, :2].min(axis=0).tolist(), *edges[:, 2:].max(axis=0).tolist())
    return Line(" ".join(word.text for word in words), box, tuple(words), "DejaVu Sans", font_size)
