"""Documents that every Python installation has: topics of the language reference, docstrings of the standard library.

Nothing is downloaded and no module is imported for its docstrings, so the quickstart uses them. The documents depend on
the Python version alone: modules that some Linux distributions package separately are left out.
"""

from __future__ import annotations

import ast
import logging
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deepsynth.data.sources.base import Source
from deepsynth.errors import UserError
from deepsynth.io.garbage import no_garbage_collection
from deepsynth.types import Document, Task

log = logging.getLogger(__name__)

#: Folders and modules of the standard library that are tests, data, or not in every installation of Python.
_LEFT_OUT = frozenset(
    {"__phello__", "_pyrepl", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "venv"}
    | {"dist-packages", "lib-dynload", "site-packages", "test", "tests", "tkinter", "turtle", "turtledemo"}
)
#: A heading of a topic: a line, and a line of one punctuation mark below it.
_HEADING = re.compile(r"^(\S[^\n]*)\n([*=\-^~])\2{2,}$", re.MULTILINE)
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
#: A first paragraph that can serve as a summary is a sentence: no signature, no doctest, no lead-in to a code block.
_SENTENCE = re.compile(r"[A-Z].{14,}[.!?]")
_NO_SENTENCE = re.compile(r">>>|::|->|^\w+\(|\.\.\. ")
_DOCTEST_LINE = re.compile(r"\s*(>>>|\.\.\.( |$))")
#: Share of letters among the visible characters; tables, grammars and rulers are below it, prose is near 0.95.
_MIN_LETTERS = 0.75
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class PythonDocsSource(Source):
    """Read the documentation of the running Python.

    For summarization the target is the first paragraph and the text the paragraphs after it; for transcription the text
    is the whole. Documents are sorted by id.

    Args:
        task: ``"summarize"`` or ``"transcribe"``.
        min_chars: least number of characters of a text; documents with fewer are left out.
        max_chars: largest number of characters of a text; ``None`` keeps all.
    """

    task: Task = "summarize"
    min_chars: int = 100
    max_chars: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            UserError: for an unknown task or limits that no document meets.
        """
        if self.task not in ("summarize", "transcribe"):
            raise UserError(f"task is {self.task!r}; it must be 'summarize' or 'transcribe'")
        if self.max_chars is not None and self.max_chars < max(self.min_chars, 1):
            raise UserError(f"max_chars is {self.max_chars}; it must be at least min_chars ({self.min_chars})")

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents; no two have the same text.

        Raises:
            UserError: when this Python has no documentation, or none within the limits.
        """
        seen: set[str] = set()
        for name, title, body in _descriptions(_library()):
            target: str | None = None
            if self.task == "summarize":
                first, _, text = (part.strip("\n") for part in _partition(body))
                target = " ".join(first.split())
                if not _is_sentence(target) or len(target) > len(text):
                    continue
            else:
                text = f"{title}\n\n{body}" if title else body
            if len(text) < self.min_chars or (self.max_chars is not None and len(text) > self.max_chars):
                continue
            if text in seen or not _is_prose(text):
                continue
            seen.add(text)
            yield Document(id=name, text=text, target=target, language="en", source=name.partition("/")[0])
        if not seen:
            raise UserError(
                f"PythonDocsSource: no documentation with min_chars {self.min_chars}, max_chars {self.max_chars} in "
                f"{_library()}; relax the limits, or install Python's standard library with its sources"
            )


@cache
def _descriptions(library: Path) -> tuple[tuple[str, str, str], ...]:
    """Return ``(id, title, body)`` of every section of the topics and every docstring, in the order of the ids.

    Read once a process and library. The garbage collector is off meanwhile: syntax trees hold no cycles, but are so
    many objects that it would walk all live ones, torch's included, many times (7.4 s instead of 1.5 s).
    """
    with no_garbage_collection():
        found = {name: (title, body) for name, title, body in (*_topic_sections(), *_docstrings(library))}
    return tuple((name, title, body) for name, (title, body) in sorted(found.items()))


def _topic_sections() -> Iterator[tuple[str, str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        log.info("no module pydoc_data.topics: some Linux distributions package it separately")
        return
    for topic in sorted(topics):
        text = topics[topic]
        headings = list(_HEADING.finditer(text))
        ends = [heading.start() for heading in headings[1:]] + [len(text)]
        for number, (heading, end) in enumerate(zip(headings, ends, strict=True)):
            body = textwrap.dedent(text[heading.end() : end]).strip()
            yield f"topics/{topic}" + (f"-{number}" if number else ""), heading[1], _clean(body)


def _docstrings(library: Path) -> Iterator[tuple[str, str, str]]:
    for path in _modules(library):
        parts = path.relative_to(library).with_suffix("").parts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in the library are not the user's concern
            try:
                tree = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError) as error:  # a file of another version or a broken installation
                log.warning("%s: left out, it cannot be parsed: %s", path, error)
                continue
        module = ".".join(part for part in parts if part != "__init__")
        counts: Counter[str] = Counter()
        for name, docstring in _docstrings_of(tree, module):
            counts[name] += 1  # a property's setter, or a function defined again under another condition
            yield f"stdlib/{name}" + (f"-{counts[name]}" if counts[name] > 1 else ""), "", _clean(docstring)


def _modules(folder: Path) -> Iterator[Path]:
    """Yield the Python files below a folder without entering what is left out: site-packages can be huge."""
    for path in folder.iterdir():
        if path.stem in _LEFT_OUT:
            continue
        if path.is_dir():
            yield from _modules(path)
        elif path.suffix == ".py":
            yield path


def _docstrings_of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield ``(qualified name, docstring)`` of a module, class or function and of what it defines."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
    for block in ("body", "orelse", "handlers", "finalbody"):  # where statements are; a lambda's body is no list
        statements = getattr(node, block, None)
        for statement in statements if isinstance(statements, list) else ():
            own = getattr(statement, "name", None) if isinstance(statement, _DEFINITIONS) else None
            yield from _docstrings_of(statement, f"{name}.{own}" if own else name)


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _clean(text: str) -> str:
    """Return the text without tabs, trailing blanks and runs of empty lines."""
    lines = (line.rstrip() for line in text.expandtabs().replace("\f", "\n").splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _partition(body: str) -> tuple[str, str, str]:
    """Return the first paragraph, the break after it, and the rest."""
    gap = _PARAGRAPH_BREAK.search(body)
    return (body, "", "") if gap is None else (body[: gap.start()], gap[0], body[gap.end() :])


def _is_sentence(text: str) -> bool:
    return bool(_SENTENCE.fullmatch(text)) and not _NO_SENTENCE.search(text)


def _is_prose(text: str) -> bool:
    """Return whether the text is mostly words, not doctests or tables, and has no control character."""
    visible = "".join(text.split())
    letters = sum(map(str.isalpha, visible))
    doctest = sum(len(line) for line in text.splitlines() if _DOCTEST_LINE.match(line))
    return (
        letters >= _MIN_LETTERS * len(visible) > 0 and doctest * 2 <= len(text) and text.replace("\n", "").isprintable()
    )
