"""Runs of text written as Markdown, escaped only where it would be parsed as something else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape
from itertools import groupby
from operator import itemgetter

from deepsynth.data.markup.rules import INLINE_FORMULA
from deepsynth.data.typesetting.paragraphs import BODY, CODE, RunStyle

#: A text and its style.
Run = tuple[str, RunStyle]

#: Characters within a line that would be markup:
_MARKUP = re.compile(
    r"(?<!\s)\*|\*(?!\s)"  # emphasis, where it may begin or end
    r"|(?<![^\W_])_|_(?![^\W_])"  # underscores within a word are none
    r"|`|\\(?=[!-/:-@\[-`{-~]|$)"
    r"|\](?=[(\[:]|$)|\[(?=\^)"  # links and footnotes
    r"|<(?=[A-Za-z/!?]|$)"
    r"|&(?=#?\w+;)"
)
_DOLLAR = re.compile(r"\$(?=\S|$)")
#: A text with no character that could be markup, at its start or within.
_UNMARKED = re.compile(r"[^\W\d_][^*_`\\\]\[<&$|]*").fullmatch
#: And at the start of a line.
_NUMBERED = re.compile(r"(\d{1,9})([.)])(?=\s|$)")
_STARTS = re.compile(r"#{1,6}(?=\s|$)|>|[-+*](?=\s|$)|=+\s*$|~{3}|[-|:][-|:\s]*$")
_CLOSING_HASHES = re.compile(r"(?<=\s)#(?=#*\s*$)|^#(?=#*\s*$)")


def inline_markdown(
    runs: Sequence[Run], base: RunStyle = BODY, *, cell: bool = False, dollars: bool | None = None
) -> str:
    """Return one line of Markdown that shows the runs.

    Emphasis that Markdown cannot say at a place, as within a word before punctuation, is left out.

    Args:
        runs: parts of the text.
        base: style of text without emphasis: a heading's is bold.
        cell: whether it stands between the pipes of a table.
        dollars: whether to escape dollar signs; by default as the runs alone need it.
    """
    parts: list[str] = []
    whole = [
        ("".join([text for text, _ in same]), style)
        for style, same in groupby([run for run in runs if run[0]], key=itemgetter(1))
    ]
    if len(whole) == 1 and whole[0][1] == base and not base.note and _UNMARKED(whole[0][0]):  # most texts
        return whole[0][0].strip(" \t")
    if dollars is None:
        dollars = has_dollar_pairs(whole)
    for place, (text, style) in enumerate(whole):
        if style.family == CODE.family and base.family != CODE.family:
            parts.append(_code(text))
            continue
        if style.formula or style.note:
            parts.append(f"[^{style.note}]" if style.note else text)
            continue
        mark = "*" * (2 * (style.bold and not base.bold) + (style.italic and not base.italic))
        core = text.strip()
        before = " " if text[0].isspace() else parts[-1][-1:] if parts else ""
        after = " " if text[-1].isspace() else whole[place + 1][0][0] if place + 1 < len(whole) else ""
        if mark and core and _emphasizes(core, before, after):
            start = text.index(core)
            parts.append(
                f"{text[:start]}{mark}{escape_markdown(core, dollars=dollars)}{mark}{text[start + len(core) :]}"
            )
        else:
            parts.append(escape_markdown(text, dollars=dollars))
    line = "".join(parts).strip(" \t")
    if cell:
        return line.replace("|", r"\|")
    return _escape_start(line)


def _emphasizes(core: str, before: str, after: str) -> bool:
    """Return whether delimiters around a text would begin and end emphasis (CommonMark's flanking rules)."""
    if before == "*" or after == "*":
        return False
    begins = _is_word(core[0]) or not before or not _is_word(before)
    ends = _is_word(core[-1]) or not after or not _is_word(after)
    return begins and ends


def _is_word(character: str) -> bool:
    """Return whether a character is neither white space nor punctuation or a symbol."""
    return not character.isspace() and unicodedata.category(character)[0] not in "PSZ"


def _code(text: str) -> str:
    fence = "`" * (max([len(run) for run in re.findall("`+", text)], default=0) + 1)
    padded = f" {text} " if text[0] in "` " or text[-1] in "` " else text
    return f"{fence}{padded}{fence}"


def has_dollar_pairs(runs: Sequence[Run]) -> bool:
    """Return whether Markdown would take dollar signs of the text for those of a formula."""
    plain = "".join(["$" if style.formula else text for text, style in runs])
    return "$" in plain and (INLINE_FORMULA.search(plain) is not None or "$$" in plain)


def escape_markdown(text: str, *, dollars: bool = False) -> str:
    """Return a text with backslashes before what would be markup within a line, dollar signs only if asked for."""
    text = _MARKUP.sub(lambda match: f"\\{match.group()}", text)
    return _DOLLAR.sub(r"\\$", text) if dollars else text


def _escape_start(line: str) -> str:
    number = _NUMBERED.match(line)
    if number:
        return f"{number[1]}\\{line[number.end(1) :]}"
    return f"\\{line}" if _STARTS.match(line) else line


def heading_markdown(level: int, text: str) -> str:
    """Return a heading of a line of Markdown."""
    return f"{'#' * level} {_CLOSING_HASHES.sub(chr(92) + '#', text)}".rstrip()


def fenced(lines: Sequence[str]) -> list[str]:
    """Return the lines of a block of code, with fences that are longer than any in it."""
    longest = max([len(run) for line in lines for run in re.findall("`+", line)], default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence]


def inline_html(runs: Sequence[Run]) -> str:
    """Return the text of runs as HTML; emphasis is left out, as in the tables that the model was trained on."""
    return escape("".join([text for text, _ in runs]).strip(), quote=False)
