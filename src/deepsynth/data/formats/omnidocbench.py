"""Annotations of OmniDocBench: the elements of each page with category, reading order, text, LaTeX and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from deepsynth.errors import UserError

#: Elements with text that count, and those with text that may be written or left out.
TEXTS = ("text_block", "title", "code_txt", "code_txt_caption", "reference")
OPTIONAL_TEXTS = (
    "equation_caption", "figure_caption", "figure_footnote", "table_caption", "table_footnote", "code_algorithm",
    "code_algorithm_caption", "header", "footer", "page_footnote", "page_number",
)  # fmt: skip
FORMULA, TABLE, TITLE = "equation_isolated", "table", "title"
#: Names of the languages in annotations, as codes.
_LANGUAGES = {"english": "en", "en": "en", "simplified_chinese": "zh", "traditional_chinese": "zh"}


@dataclass(frozen=True)
class Element:
    """An element of a page.

    Attributes:
        category: such as ``text_block``.
        order: place in the reading order; 0 where it has none.
        text: of it; "" for formulas and tables.
        latex: of a formula.
        html: of a table.
    """

    category: str
    order: float
    text: str = ""
    latex: str = ""
    html: str = ""


@dataclass(frozen=True)
class AnnotatedPage:
    """A page of the benchmark.

    Attributes:
        image: path of its image.
        elements: parts of a paragraph that the layout cuts are one.
        attributes: labels such as ``language`` and ``data_source``.
    """

    image: str
    elements: tuple[Element, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its image without the suffix."""
        return PurePosixPath(self.image).stem

    @property
    def language(self) -> str | None:
        """Code of its language, where it has one."""
        return _LANGUAGES.get(str(self.attributes.get("language")))

    def markdown(self) -> str:
        """Return the page as Markdown in reading order: titles as headings, tables as HTML, formulas as LaTeX.

        Elements without a place in the order (running heads, page numbers, what is to be left out) are not in it.
        """
        parts = []
        for element in sorted((e for e in self.elements if e.order), key=lambda e: e.order):
            if element.category == TABLE:
                parts.append(element.html)
            elif element.category == FORMULA:
                parts.append(element.latex)
            elif element.category == TITLE:
                parts.append(f"# {element.text.strip('# ')}")
            else:
                parts.append(element.text)
        return "\n\n".join(part.strip() for part in parts if part.strip())


def read_annotations(file: Path) -> list[AnnotatedPage]:
    """Return the pages of an annotation file.

    Raises:
        UserError: for a file that is missing or no annotation of OmniDocBench, with the page.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give the JSON of OmniDocBench") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, list) or not found:
        raise UserError(f"{file}: no list of pages; give the JSON of OmniDocBench")
    pages = []
    for number, page in enumerate(found, 1):
        try:
            pages.append(_page(page))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}, page {number}: not as OmniDocBench has it ({error!r})") from error
    return pages


def _page(page: Mapping[str, Any]) -> AnnotatedPage:
    found = {row["anno_id"]: _element(row) for row in page["layout_dets"]}
    for group in _cut_paragraphs(page.get("extra", {}).get("relation", []), found):
        parts = sorted((found.pop(key) for key in group), key=lambda part: part.order)
        found[group[0]] = replace(parts[0], text="".join(part.text for part in parts))
    info = page["page_info"]
    return AnnotatedPage(str(info["image_path"]), tuple(found.values()), dict(info.get("page_attribute") or {}))


def _element(row: Mapping[str, Any]) -> Element:
    texts = {name: str(row.get(name) or "") for name in ("text", "latex", "html")}
    return Element(str(row["category_type"]), float(row.get("order") or 0), **texts)


def _cut_paragraphs(relations: Sequence[Mapping[str, Any]], known: Mapping[Any, Element]) -> list[list[Any]]:
    """Return the ids of the elements that are parts of one paragraph."""
    groups: list[list[Any]] = []
    for relation in relations:
        if relation.get("relation_type") != "truncated":
            continue
        ids = [relation[name] for name in ("source_anno_id", "target_anno_id") if relation[name] in known]
        joined = [group for group in groups if set(group) & set(ids)]
        groups = [group for group in groups if group not in joined]
        groups.append(list(dict.fromkeys([*(key for group in joined for key in group), *ids])))
    return [group for group in groups if group]
