"""Splits of documents: by id alone, near their shares, limited by hash."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from deepsynth.data.splits import Splitter, no_documents
from deepsynth.errors import UserError
from deepsynth.types import Document

DOCUMENTS = [Document(f"d{number}", "text") for number in range(2000)]


def test_every_document_is_in_one_split_near_its_share_and_stays_there() -> None:
    splitter = Splitter(val_fraction=0.1, test_fraction=0.2)
    train, val, test = (splitter.select(DOCUMENTS, split) for split in ("train", "val", "test"))
    assert sorted(d.id for d in (*train, *val, *test)) == sorted(d.id for d in DOCUMENTS)
    assert len(val) == pytest.approx(200, abs=50)
    assert len(test) == pytest.approx(400, abs=70)
    assert splitter.select(DOCUMENTS[1000:], "val") == [d for d in val if d in DOCUMENTS[1000:]]


def test_copies_of_a_document_in_a_mix_are_in_one_split() -> None:
    splitter = Splitter(val_fraction=0.5, test_fraction=0.0)
    for number in range(50):
        assert len({splitter.split_of(Document(f"a/{number}{ending}", "")) for ending in ("", "~2", "~13")}) == 1


def test_a_set_too_small_for_its_share_validates_on_one_document(caplog: pytest.LogCaptureFixture) -> None:
    small = [document for document in DOCUMENTS if Splitter(test_fraction=0.0).split_of(document) == "train"][:16]
    splitter = Splitter(val_fraction=0.05, test_fraction=0.0)
    with caplog.at_level("INFO"):
        train, val = (splitter.select(small, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 1)
    assert sorted(d.id for d in (*train, *val)) == sorted(d.id for d in small)
    assert f"data.val_fraction 0.05 of 16 documents is none, so one is held out: {val[0].id}" in caplog.text
    assert splitter.select(small[:1], "val") == []
    assert splitter.select(small[:1], "train") == small[:1]
    assert Splitter(val_fraction=0.0).select(small, "val") == []


def test_a_limit_takes_the_same_documents_in_their_order_whatever_comes_beside() -> None:
    splitter = Splitter(max_train_documents=7, max_eval_documents=3)
    seven = splitter.limit(DOCUMENTS, "train")
    assert len(seven) == 7
    assert seven == [document for document in DOCUMENTS if document in seven]
    assert len(splitter.limit(DOCUMENTS, "val")) == len(splitter.limit(DOCUMENTS, "test")) == 3
    more = Splitter(max_train_documents=20).limit(DOCUMENTS, "train")
    assert all(document in more for document in seven)
    assert Splitter().limit(DOCUMENTS, "train") == DOCUMENTS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.5}, r"^data\.val_fraction is 1\.5; it must be at least 0 and below 1$"),
        ({"test_fraction": -0.1}, r"^data\.test_fraction is -0\.1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"^data\.val_fraction \+ data\.test_fraction is 1; "),
        ({"max_train_documents": 0}, r"^data\.max_train_documents is 0; it must be at least 1$"),
        ({"max_eval_documents": 0}, r"^data\.max_eval_documents is 0"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Splitter(**options)  # type: ignore[arg-type]


def kinds_of(documents: Iterable[Document]) -> list[str]:
    splitter = Splitter(val_fraction=0.3, test_fraction=0.3)
    return [splitter.split_of(document) for document in documents]


@pytest.mark.parametrize(
    ("limits", "train", "val"),
    [
        ({"max_train_documents": 4, "max_eval_documents": 2}, 4, 2),
        ({"max_train_documents": 1, "max_eval_documents": 9}, 1, 9),
        ({"max_train_documents": 5}, 5, None),
        ({"max_eval_documents": 3}, None, 3),
    ],
)
def test_no_more_of_a_stream_is_read_than_the_limits_ask_for(
    limits: dict[str, int], train: int | None, val: int | None
) -> None:
    """A split without a limit has what came by, and at least one."""
    splitter = Splitter(val_fraction=0.3, test_fraction=0.3, **limits)  # type: ignore[arg-type]
    read: list[Document] = []
    stream = (read.append(document) or document for document in DOCUMENTS)  # type: ignore[func-returns-value]
    taken = splitter.take(stream, ["train", "val"])
    wanted = {"train": train or 1, "val": val or 1}
    kinds = kinds_of(read)
    assert any(kinds.count(kind) == count and kinds[-1] == kind for kind, count in wanted.items()), (
        "the last was needed"
    )
    for kind, limit in (("train", train), ("val", val)):
        own = [document for document, found in zip(read, kinds, strict=True) if found == kind]
        assert taken[kind] == own[:limit]  # type: ignore[index]
        assert len(own) >= wanted[kind]


def test_without_limits_all_of_a_stream_is_read() -> None:
    taken = Splitter(val_fraction=0.3, test_fraction=0.3).take(DOCUMENTS, ["val", "test"])
    kinds = kinds_of(DOCUMENTS)
    assert [len(taken[kind]) for kind in taken] == [kinds.count("val"), kinds.count("test")]


def test_a_split_without_documents_names_the_key_to_change() -> None:
    with pytest.raises(UserError, match=r"^none of the 3 rows fall into the train split; change data.val_fraction and"):
        no_documents("train", "3 rows")
    with pytest.raises(UserError, match=r"change data.test_fraction or give data.test_source$"):
        no_documents("test", "3 rows")
