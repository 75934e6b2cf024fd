"""What is learned from a page: its text, Markdown, blocks or lines with their boxes, a phrase's box, tables, a field.

The prompt of a kind is that of the model's family. Boxes are in thousandths of the page's width and height, 0 to 999,
as DeepSeek-OCR gives them: padding and scaling to the model's view change nothing about them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deepsynth.errors import UserError
from deepsynth.types import Box, Page, PageBlock, Word

_LARGEST = 999
#: Most words of a phrase that is looked for.
_PHRASE_WORDS = 4
_MARKUP = re.compile(r"<\|/?(?:ref|det)\|>")


#: What a kind begins with that is a field of the row, and its prompt, for every model: the user has named the field.
_FIELD, _FIELD_PROMPT = "field:", "<image>\nExtract the field {name}."


class Target(NamedTuple):
    """What the model is to write for a page.

    Attributes:
        text: what it is to write.
        kind: of target.
        phrase: that is looked for, of ``locate``.
    """

    text: str
    kind: str
    phrase: str = ""

    def prompt(self, prompts: Callable[[str], str]) -> str:
        """Return what the model is asked.

        Args:
            prompts: returns the prompt of a kind, with ``{phrase}`` in that of ``locate``.
        """
        if self.kind.startswith(_FIELD):
            return _FIELD_PROMPT.format(name=self.kind.removeprefix(_FIELD))
        return prompts(self.kind).replace("{phrase}", self.phrase)


@dataclass(frozen=True)
class Targets:
    """Kinds of targets, one of which is drawn for each page.

    Attributes:
        weights: weight of each kind.
        has_prompt: whether the user gives a prompt, which then stands in place of the kind's own.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"text": 1.0})
    has_prompt: bool = False

    def __post_init__(self) -> None:
        """Check the kinds and their weights.

        Raises:
            UserError: for a kind that does not exist, weights that are negative or all 0, or one prompt for several
                kinds.
        """
        for kind, weight in self.weights.items():
            if kind not in _WRITERS and not (kind.startswith(_FIELD) and kind.removeprefix(_FIELD).strip()):
                raise UserError(
                    f"data.target is {kind!r}; it must be one of {', '.join(_WRITERS)}, field:NAME, or weights of them"
                )
            if isinstance(weight, bool) or not 0 <= weight < float("inf"):
                raise UserError(f"data.target.{kind} is {weight!r}; it must be a weight of at least 0")
        if not sum(self.weights.values()):
            raise UserError(f"data.target is {self}; it must give one kind a weight above 0")
        if self.has_prompt and (len(self.kinds) > 1 or "locate" in self.kinds):
            raise UserError(
                f"data.prompt is given, and data.target is {self}, whose kinds need prompts of their own; leave "
                "data.prompt out"
            )

    def __str__(self) -> str:
        """Return the kinds with their weights, as a user writes them."""
        return next(iter(self.weights)) if len(self.weights) == 1 else str(dict(self.weights))

    @property
    def kinds(self) -> list[str]:
        """The kinds that are drawn."""
        return [kind for kind, weight in self.weights.items() if weight]

    def each(self) -> list[Targets]:
        """Return the kinds one by one."""
        return [Targets({kind: 1.0}, self.has_prompt) for kind in self.kinds]

    @property
    def is_text(self) -> bool:
        """Whether pages are only transcribed, as scans can be too."""
        return self.kinds == ["text"]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of rows that are learned."""
        return tuple(kind.removeprefix(_FIELD) for kind in self.kinds if kind.startswith(_FIELD))

    @property
    def needs_blocks(self) -> bool:
        """Whether what a page shows must be known, which is so for drawn pages alone."""
        return any(kind != "text" and not kind.startswith(_FIELD) for kind in self.kinds)

    def draw(self, page: Page, rng: np.random.Generator, fields: Mapping[str, str] | None = None) -> Target | None:
        """Draw the kind of a page's target and return it, ``None`` for its transcription.

        A page without a table has no ``table``, and one without a phrase that stands on it once nothing to ``locate``:
        they are transcribed.

        Args:
            page: with its boxes as they are on the image.
            rng: the page's own generator.
            fields: fields of the page's row.

        Raises:
            UserError: when the renderer does not say what the page shows.
        """
        if self.needs_blocks and page.text.strip() and not page.blocks:
            raise UserError(f"data.target is {self}, and the renderer gives no blocks (Page.blocks); set it to 'text'")
        kinds = self.kinds
        shares = np.array([self.weights[kind] for kind in kinds], dtype=np.float64)
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        if kind.startswith(_FIELD):
            return Target((fields or {})[kind.removeprefix(_FIELD)], kind)
        return _WRITERS[kind](page, rng)


def make_targets(target: str | Mapping[str, float], prompt: str | None = None) -> Targets:
    """Return the targets of ``data.target``, the name of a kind or weights by name, and of ``data.prompt``.

    Raises:
        UserError: for a kind that does not exist, a weight that is none, or one prompt for several kinds.
    """
    weights = {target: 1.0} if isinstance(target, str) else target
    return Targets(weights, prompt is not None and set(weights) != {"text"})


def block_box(page: Page, block: PageBlock) -> Box | None:
    """Return the smallest box around what a page shows of a block, pixels; ``None`` where it shows nothing."""
    words = [word for line in page.lines[slice(*block.lines)] for word in line.words]
    return _around([*_with_ink(words), *block.areas])


def _with_ink(words: Iterable[Word]) -> list[Box]:
    return [word.box for word in words if word.box[0] < word.box[2] and word.box[1] < word.box[3]]


def _around(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def det(box: Box, size: tuple[int, int]) -> str:
    """Return a box as the model writes it.

    Args:
        box: pixels.
        size: width and height of the image, pixels.
    """
    places = [min(max(round(edge / side * _LARGEST), 0), _LARGEST) for edge, side in zip(box, size * 2, strict=True)]
    return f"<|det|>[[{', '.join(map(str, places))}]]<|/det|>"


def ref(label: str, box: Box, size: tuple[int, int]) -> str:
    """Return a name with its box; see :func:`det`."""
    return f"<|ref|>{label}<|/ref|>{det(box, size)}"


def _transcription(page: Page, rng: np.random.Generator) -> None:
    return None


def _markdown(page: Page, rng: np.random.Generator) -> Target:
    parts = [part for block in _document_blocks(page) for part in (block.before, block.markdown)]
    return Target("".join(parts), "markdown")


def _markdown_pipes(page: Page, rng: np.random.Generator) -> Target:
    parts = [part for block in _document_blocks(page) for part in (block.before, block.pipes or block.markdown)]
    return Target("".join(parts), "markdown_pipes")


def _document_blocks(page: Page) -> list[PageBlock]:
    """Return the blocks of the document: what stands in the margins is no part of it."""
    return [block for block in page.blocks if block.label not in ("header", "footer", "page_number")]


def _grounded(page: Page, rng: np.random.Generator) -> Target:
    found = []
    for block in page.blocks:
        box = block_box(page, block)
        if box is not None and block.label != "rule":
            found.append(f"{ref(block.label, box, page.image.size)}\n{block.markdown}".strip())
    return Target("\n\n".join(found), "grounded")


def _lines(page: Page, rng: np.random.Generator) -> Target:
    """Write every line as the name of its box; one with that very markup in its text is left out."""
    found = []
    for line in page.lines:
        box = _around(_with_ink(line.words))
        if box is not None and line.text.strip() and not _MARKUP.search(line.text):
            found.append(ref(line.text.strip(), box, page.image.size))
    return Target("\n".join(found), "lines")


def _locate(page: Page, rng: np.random.Generator) -> Target | None:
    """Ask for one to four words of a line that stand on the page only once."""
    page_text = _spaced(" ".join(line.text for line in page.lines))
    lines = [line for line in page.lines if _with_ink(line.words) and "<" not in line.text]
    for number in rng.permutation(len(lines)):
        line = lines[number]
        words = line.text.split()
        if [word.text for word in line.words] != words:
            continue  # words without spaces between them, or in parts of several styles
        length = int(rng.integers(1, min(len(words), _PHRASE_WORDS) + 1))
        for start in rng.permutation(len(words) - length + 1):
            phrase = " ".join(words[start : start + length])
            box = _around(_with_ink(line.words[start : start + length]))
            if box is not None and page_text.count(_spaced(phrase)) == 1:
                return Target(ref(phrase, box, page.image.size), "locate", phrase)
    return None


def _table(page: Page, rng: np.random.Generator) -> Target | None:
    tables = [block.markdown for block in page.blocks if block.label == "table"]
    return Target("\n\n".join(tables), "table") if tables else None


def _spaced(text: str) -> str:
    return f" {' '.join(text.split())} "


_WRITERS: dict[str, Callable[[Page, np.random.Generator], Target | None]] = {
    "text": _transcription,
    "markdown": _markdown,
    "markdown_pipes": _markdown_pipes,
    "grounded": _grounded,
    "lines": _lines,
    "locate": _locate,
    "table": _table,
}
