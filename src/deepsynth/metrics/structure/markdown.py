"""Markdown: whether headings, list items and code blocks are those of the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

#: What is compared, by the kind of block.
KINDS = ("headings", "lists", "code")


def markdown_scores(prediction: str, target: str) -> dict[str, float] | None:
    """Return the F1 of headings, list items and code blocks; ``None`` where neither side has any of them.

    A heading is its level and text, a list item its depth, kind and text, a code block its content. White space is
    folded. A kind that neither side has is left out.
    """
    predicted, expected = _parts(prediction), _parts(target)
    scores = {
        f"markdown_{kind}": _f1(predicted[kind], expected[kind]) for kind in KINDS if predicted[kind] or expected[kind]
    }
    return scores or None


def _f1(predicted: Counter[Hashable], expected: Counter[Hashable]) -> float:
    return 2 * (predicted & expected).total() / (predicted.total() + expected.total())


def _parts(text: str) -> dict[str, Counter[Hashable]]:
    from markdown_it import MarkdownIt

    found: dict[str, Counter[Hashable]] = {kind: Counter() for kind in KINDS}
    lists: list[str] = []
    heading, first_of_item = 0, False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "heading_open":
            heading = int(token.tag[1:])
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            lists.append(token.type.removesuffix("_list_open"))
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif token.type == "list_item_open":
            first_of_item = True
        elif token.type in ("fence", "code_block"):
            found["code"][token.content.strip()] += 1
        elif token.type == "inline":
            content = " ".join(token.content.split())
            if heading:
                found["headings"][heading, content] += 1
            elif lists and first_of_item:
                found["lists"][len(lists), lists[-1], content] += 1
            heading, first_of_item = 0, False
    return found
