"""Texts of strangers where a terminal or a spreadsheet would take them for commands."""

from __future__ import annotations

import re

#: Control characters but tab and line feed, those that turn or hide the text around them, lines that are no line feeds,
#: and halves of surrogate pairs, which no stream can encode.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)
#: Beginnings of a cell that spreadsheets compute.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def visible(text: str) -> str:
    r"""Return a text for a terminal or log: what would act on it, such as ``ESC``, is written as ``\x1b``."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def plain_cell(text: str) -> str:
    """Return a text for a cell of a CSV file, with ``'`` before what a spreadsheet would compute."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def counted(count: int, noun: str) -> str:
    """Return a number and a noun, which gets an ``s`` unless the number is 1: ``1 file``, ``1,024 files``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def shortened(text: str, limit: int = 120) -> str:
    """Return a text of at most ``limit`` characters, its middle left out."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
