"""The documentation that every Python carries."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from deepsynth.data.sources import python_docs
from deepsynth.data.sources.base import has_printable
from deepsynth.data.sources.python_docs import PythonDocsSource


@pytest.fixture(scope="module")
def pairs() -> list[python_docs.Document]:
    """Return the summaries; reading them takes seconds once."""
    return list(PythonDocsSource())


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that puts another folder in the library's place."""

    def set_to(folder: Path) -> None:
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(folder)})

    return set_to


def test_pairs_of_first_paragraph_and_body(pairs: list[python_docs.Document]) -> None:
    assert 1400 < len(pairs) < 1700
    assert len({pair.id for pair in pairs}) == len({pair.text for pair in pairs}) == len(pairs)
    assert {pair.source for pair in pairs} == {"topics", "stdlib"}
    for pair in pairs:
        assert pair.target is not None
        assert "\n" not in pair.target
        assert pair.target[-1] in ".!?"
        assert ">>>" not in pair.target
        assert len(pair.text) >= 100
        assert has_printable(pair.text)
        assert all(character.isprintable() or character == "\n" for character in pair.text)


def test_a_known_pair(pairs: list[python_docs.Document]) -> None:
    (pair,) = [pair for pair in pairs if pair.id == "stdlib/textwrap.wrap"]
    assert pair.target == "Wrap a single paragraph of text, returning a list of wrapped lines."
    assert pair.text.startswith("Reformat the single paragraph in 'text' so it fits in lines of no\nmore than 'width'")


def test_order_is_that_of_the_ids(pairs: list[python_docs.Document]) -> None:
    assert all(first.id < second.id for first, second in pairwise(pairs))
    assert list(PythonDocsSource()) == pairs


def test_transcription_has_the_whole_text(pairs: list[python_docs.Document]) -> None:
    documents = {document.id: document for document in PythonDocsSource(task="transcribe")}
    assert len(documents) > len(pairs)
    assert {document.target for document in documents.values()} == {None}
    whole = documents["stdlib/textwrap.wrap"].text
    assert whole.startswith("Wrap a single paragraph of text, returning a list of wrapped lines.\n\nReformat")


def test_limits() -> None:
    documents = list(PythonDocsSource(min_chars=300, max_chars=600))
    assert documents
    assert all(300 <= len(document.text) <= 600 for document in documents)
    with pytest.raises(ValueError, match=r"max_chars is 50; it must be at least min_chars \(100\)"):
        PythonDocsSource(max_chars=50)
    with pytest.raises(ValueError, match="task is 'translate'; it must be 'summarize' or 'transcribe'"):
        PythonDocsSource(task="translate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no documentation with min_chars 10000000"):
        list(PythonDocsSource(min_chars=10_000_000))


def test_modules_are_read_and_not_imported(library: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    library(Path(sysconfig.get_paths()["stdlib"]) / "xmlrpc")  # all of it takes seconds
    for name in [name for name in sys.modules if name.partition(".")[0] == "xmlrpc"]:
        monkeypatch.delitem(sys.modules, name)
    loaded = set(sys.modules)
    assert any(document.source == "stdlib" for document in PythonDocsSource())
    imported = {name for name in set(sys.modules) - loaded if not name.startswith("_sysconfigdata")}
    assert imported <= {"pydoc_data", "pydoc_data.topics"}


def test_a_library_of_one_file(tmp_path: Path, library: Callable[[Path], None]) -> None:
    body = (
        "It takes every page of the document, one after the other, and gives it to the writer that was chosen before."
    )
    (tmp_path / "module.py").write_text(
        f'"""Write the pages of a document.\n\n{body}\n"""\n'
        f'class Writer:\n    """Writes the pages of a document.\n\n    {body} Twice.\n    """\n'
        f'    def run(self):\n        """run(self) -> int\n\n        {body} No sentence above.\n        """\n'
        f'def demo():\n    """Show the pages of a document.\n\n    >>> {body!r}\n    """\n'
    )
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "module.py").write_text(f'"""Left out, as all tests are.\n\n{body} Thrice.\n"""\n')
    library(tmp_path)
    documents = [document for document in PythonDocsSource() if document.source == "stdlib"]
    assert [document.id for document in documents] == ["stdlib/module", "stdlib/module.Writer"]
    assert documents[0].target == "Write the pages of a document."
    assert documents[1].text == f"{body} Twice."
