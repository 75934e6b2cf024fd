"""What Markdown is parsed with: CommonMark, tables with pipes, HTML tables, formulas and footnotes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.ruler import RuleOptionsType
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline

#: A formula within a line: no white space inside of its signs, and no digit behind, so that "$5 and $6" is none.
INLINE_FORMULA = re.compile(r"\$(?![\s$])(?:[^$\\]|\\.)*?(?<![\s\\])\$(?!\d)", re.DOTALL)
_DISPLAY_FORMULA = re.compile(r"\$\$\s*(?P<body>(?:[^\s$\\]|\\.)(?:[^$\\]|\\.)*?)\s*\$\$[ \t]*")
_TABLE = re.compile(r"\s*<table\b", re.IGNORECASE)
_TABLE_TAG = re.compile(r"<(/?)table\b[^>]*>", re.IGNORECASE)
#: A text that no rule within lines applies to.
_UNMARKED = re.compile(r"[^\n\\`*_\[\]!<&$]*").fullmatch
_NOTE = re.compile(r"\[\^([^\]\s^]+)\]")
_NOTE_TEXT = re.compile(r" {0,3}\[\^([^\]\s^]+)\]:[ \t]*(.*)")


@lru_cache(maxsize=1)
def markdown_parser() -> MarkdownIt:
    """Return the parser; it gives tokens ``html_table``, ``formula``, ``formula_block``, ``note`` and ``note_text``."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table").disable("normalize")  # the text is clean
    interrupting: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    parser.block.ruler.before("html_block", "html_table", _html_table, interrupting)
    parser.block.ruler.before("html_block", "formula_block", _formula_block, interrupting)
    parser.block.ruler.before("reference", "note_text", _note_text, interrupting)
    parser.inline.ruler.before("escape", "formula", _formula)
    parser.inline.ruler.before("link", "note", _note)
    parser.core.ruler.at("inline", _inline)
    return parser


def _begins(state: StateBlock, line: int, sign: str) -> bool:
    """Return whether a line that is no code begins with a sign."""
    return state.src.startswith(sign, state.bMarks[line] + state.tShift[line]) and not state.is_code_block(line)


def _text_from(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _html_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take an HTML table up to its end, empty lines within it included; what follows in its last line is a block."""
    if not _begins(state, start, "<") or not _TABLE.match(_text_from(state, start)):
        return False
    lines: list[str] = []
    depth, closed = 0, None
    for line in range(start, end):
        lines.append(_text_from(state, line))
        for tag in _TABLE_TAG.finditer(lines[-1]):
            depth += -1 if tag[1] else 1
            if not depth:
                closed = tag.end()
                break
        if closed is not None:
            break
    else:
        return False
    if silent:
        return True
    last = start + len(lines) - 1
    rest = lines[-1][closed:]
    lines[-1] = lines[-1][:closed]
    token = state.push("html_table", "", 0)
    token.content = "\n".join(lines)
    state.line = last + 1
    if rest.strip():
        state.bMarks[last] = state.eMarks[last] - len(rest)
        state.tShift[last] = len(rest) - len(rest.lstrip())
        state.sCount[last] = state.blkIndent  # however far from the margin
        state.md.block.tokenize(state, last, last + 1)
    return True


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take a formula between ``$$`` that has its lines for itself."""
    if not _begins(state, start, "$$"):
        return False
    lines: list[str] = []
    for line in range(start, end):
        lines.append(_text_from(state, line))
        found = _DISPLAY_FORMULA.fullmatch("\n".join(lines))
        if found:
            break
        if not lines[-1].strip():
            return False
    else:
        return False
    if silent:
        return True
    token = state.push("formula_block", "", 0)
    token.content = " ".join(found["body"].split())
    state.line = start + len(lines)
    return True


def _note_text(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take the text of a footnote: a line, and those behind it up to an empty one."""
    if state.level or not _begins(state, start, "[^"):
        return False
    match = _NOTE_TEXT.fullmatch(_text_from(state, start))
    if not match:
        return False
    if silent:
        return True
    lines = [match[2]]
    for line in range(start + 1, end):
        text = _text_from(state, line)
        if not text.strip() or _NOTE_TEXT.fullmatch(text):
            break
        lines.append(text)
    token = state.push("note_text", "", 0)
    token.meta = {"label": match[1]}
    state.line = start + len(lines)
    inline = state.push("inline", "", 0)
    inline.content, inline.children = "\n".join(lines).strip(), []
    return True


def _inline(state: StateCore) -> None:
    """Parse what stands in lines; a text with no character that begins anything, as most are, has no children."""
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            if not _UNMARKED(token.content):
                state.md.inline.parse(token.content, state.md, state.env, token.children)


def _formula(state: StateInline, silent: bool) -> bool:
    """Take a formula within a line; one between ``$$`` is set like others there."""
    if state.src[state.pos] != "$":
        return False
    found = _DISPLAY_FORMULA.match(state.src, state.pos) or INLINE_FORMULA.match(state.src, state.pos)
    if not found:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        body = found.groupdict().get("body") or found.group()[1:-1]
        token.content = " ".join(body.split())
    state.pos = found.end()
    return True


def _note(state: StateInline, silent: bool) -> bool:
    """Take a reference to a footnote."""
    found = _NOTE.match(state.src, state.pos) if state.src[state.pos] == "[" else None
    if not found:
        return False
    if not silent:
        token = state.push("note", "", 0)
        token.content, token.meta = found.group(), {"label": found[1]}
    state.pos = found.end()
    return True
