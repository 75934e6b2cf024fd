"""Blocks of a page with their boxes, in the published form of the DeepSeek-OCR family.

``<|ref|>title<|/ref|><|det|>[[72, 518, 923, 737]]<|/det|>`` stands before the text of a block. A box has left, top,
right and bottom in thousandths of the page's width and height, 0 to 999.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Box = tuple[int, int, int, int]

_BLOCK = re.compile(r"<\|ref\|>(?P<label>.*?)<\|/ref\|>\s*<\|det\|>(?P<boxes>.*?)<\|/det\|>", re.DOTALL)
_BOXES = re.compile(r"\s*\[\s*(\[[\d\s,]*\]\s*,?\s*)+\]\s*")
_BOX = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
_MARKUP = re.compile(r"<\|/?(?:ref|det|grounding)\|>")
_TAG = re.compile(r"</?(?:table|thead|tbody|tfoot|tr|td|th)\b[^>]*>", re.IGNORECASE)
_LARGEST = 999


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        label: its type, such as ``title`` or ``table``, or a phrase that was looked for.
        boxes: left, top, right, bottom of each of its boxes.
        text: what follows up to the next block that parses.
    """

    label: str
    boxes: tuple[Box, ...]
    text: str


def parse_blocks(text: str) -> tuple[list[Block], list[str]]:
    """Return the blocks of a text in its order, and what of its markup does not parse."""
    blocks: list[Block] = []
    faults: list[str] = []
    sound: list[tuple[re.Match[str], tuple[Box, ...]]] = []
    for match in _BLOCK.finditer(text):
        boxes = _parse_boxes(match["boxes"])
        if boxes is None:
            faults.append(match.group())
        else:
            sound.append((match, boxes))
    ends = [*(match.start() for match, _ in sound), len(text)][1:]
    for (match, boxes), end in zip(sound, ends, strict=False):
        blocks.append(Block(match["label"].strip(), boxes, _BLOCK.sub("", text[match.end() : end]).strip()))
    left = _BLOCK.sub("", text)
    faults += [found.group() for found in _MARKUP.finditer(left) if found.group() != "<|grounding|>"]
    return blocks, faults + unbalanced_tags(text)


def _parse_boxes(text: str) -> tuple[Box, ...] | None:
    if not _BOXES.fullmatch(text):
        return None
    found = _BOX.findall(text)
    boxes = [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in found]
    fits = all(b[0] <= b[2] <= _LARGEST and b[1] <= b[3] <= _LARGEST for b in boxes)
    return tuple(boxes) if boxes and fits and len(boxes) == text.count("[") - 1 else None


def unbalanced_tags(text: str) -> list[str]:
    """Return the tags of tables that have no counterpart, in the order of the text."""
    open_tags: list[str] = []
    faults: list[str] = []
    for match in _TAG.finditer(text):
        name = re.sub(r"[</>\s].*", "", match.group().lstrip("</")).lower()
        if not match.group().startswith("</"):
            open_tags.append(name)
        elif open_tags and open_tags[-1] == name:
            open_tags.pop()
        else:
            faults.append(match.group())
    return faults + [f"<{name}>" for name in open_tags]


def plain_text(text: str) -> str:
    """Return a text without blocks' names and boxes and without the tags of tables, of which cells become lines."""
    without = _MARKUP.sub("", _BLOCK.sub("", text))
    return re.sub(r"\n{2,}", "\n\n", _TAG.sub("\n", without)).strip()
