"""The checks that concern all documents of a source, of sources that do not make them themselves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count, islice

import pytest
from PIL import Image

from deepsynth.data.sources.base import Source, checked_documents, read_documents
from deepsynth.data.sources.rows import Row, RowSource
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.growth import grown_bytes


class Listed(Source):
    def __init__(self, *documents: Document) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def __str__(self) -> str:
        return "mine"


PAGE = Image.new("L", (4, 4))


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "mine holds no document"),
        ([("a", "x"), ("b", "y"), ("a", "z")], "mine: two documents have the id 'a'; ids must be unique"),
        ([("a", "x"), ("b", "y", "t")], "mine: document 'b' has a target, unlike 'a'; either all documents have one"),
        ([("a", "x", "t"), ("b", "y", "u"), ("c", "z")], "mine: document 'c' has no target, unlike 'a'; either all"),
        (
            [("a", "x"), ("b", "", None, PAGE)],
            "mine: the text of scan 'b' is unknown or empty; `deepsynth predict` can",
        ),
    ],
)
def test_what_the_documents_together_must_not_be(documents: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_documents(Listed(*(Document(*one) for one in documents)), need_text=True)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_documents_that_fit_come_as_they_are_and_one_by_one() -> None:
    documents = [Document("a", "x"), Document("b", ""), Document("c", "known", image=PAGE)]
    assert read_documents(Listed(*documents), need_text=True) == documents
    unknown = [*documents, Document("d", "", image=PAGE)]
    assert read_documents(Listed(*unknown), need_text=False) == unknown
    found = checked_documents(Listed(*documents, documents[0]), need_text=True)
    assert [next(found) for _ in documents] == documents
    with pytest.raises(UserError, match="two documents have the id 'a'"):
        next(found)


class Rows(RowSource):
    """Scans without ids, each with a prompt, as many as one likes."""

    image_field, text_field, target_field, prompt_field = "image", "text", None, "prompt"
    id_field = language_field = source_field = "auto"
    outside_paths, blank_pages, streaming = False, "skip", True  # type: ignore[assignment]

    def rows(self) -> Iterator[Row]:
        page = io.BytesIO()
        PAGE.save(page, "png")
        for number in count():
            image = {"bytes": page.getvalue() + b"%d" % number, "path": f"{number}.png"}
            text = "" if number % 2 else "Words."
            yield Row(f"row {number}", {"image": image, "text": text, "prompt": "<image>\nRead."})


def test_a_stream_of_rows_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsynth.data.sources.base.KEPT_IDS", 10)
    documents = Rows().walk(need_text=True)
    assert [document.id for document in islice(documents, 500)][-1] == "998.png"
    assert grown_bytes(documents, 2000) < 2000 * 20
