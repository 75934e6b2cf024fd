"""Several sources as one: shares, repeats, ids, mistakes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from deepsynth.data.sources.base import Source
from deepsynth.data.sources.mixed import MixedSource, original_id
from deepsynth.data.sources.text_files import JsonlSource
from deepsynth.types import Document


@dataclass(frozen=True)
class Numbers(Source):
    size: int
    endless: bool = False

    def __iter__(self) -> Iterator[Document]:
        return (Document(id=str(number), text=f"text {number}") for number in range(self.size))

    @property
    def streaming(self) -> bool:
        return self.endless


MANY = {"a": Numbers(50), "b": Numbers(7), "c": Numbers(400)}


def ids(documents: Iterable[Document]) -> list[str]:
    return [document.id for document in documents]


def test_without_a_size_the_mix_ends_where_the_first_source_does_and_repeats_nothing() -> None:
    mixed = list(MixedSource(MANY))
    names = Counter(document.id.split("/")[0] for document in mixed)
    assert names["b"] == 7
    assert 20 <= len(mixed) <= 24
    assert len(set(ids(mixed))) == len(mixed)
    assert "~" not in "".join(ids(mixed))


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    seed=st.integers(0, 2**63 - 1),
    count=st.integers(0, 320),
)
def test_each_source_has_given_its_share_at_any_time(weights: list[float], seed: int, count: int) -> None:
    names = [f"s{number}" for number in range(len(weights))]
    mix = MixedSource(
        {name: Numbers(5 + number) for number, name in enumerate(names)},
        dict(zip(names, weights, strict=True)),
        epoch_size=320,
        seed=seed,
    )
    whole = list(mix)
    assert len(whole) == 320
    given_by = Counter(document.id.split("/")[0] for document in whole[:count])
    for name, weight in zip(names, weights, strict=True):
        assert abs(given_by[name] - count * weight / sum(weights)) <= len(weights) + 1e-6


def test_weights_are_shares() -> None:
    mixed = MixedSource(MANY, {"a": 1, "b": 2, "c": 7}, epoch_size=1000)
    assert Counter(document.source for document in mixed) == pytest.approx({"a": 100, "b": 200, "c": 700}, abs=2)


def test_a_source_that_runs_out_begins_again_with_ids_of_its_own() -> None:
    mixed = list(MixedSource({"a": Numbers(3), "b": Numbers(100)}, epoch_size=16, seed=1))
    assert [i for i in ids(mixed) if i.startswith("a/")] == [
        "a/0", "a/1", "a/2", "a/0~2", "a/1~2", "a/2~2", "a/0~3", "a/1~3"
    ]  # fmt: skip
    assert original_id("a/1~3") == "a/1"
    assert original_id("a/1") == "a/1"
    texts = {document.id: document.text for document in mixed}
    assert texts["a/1~2"] == texts["a/1"]


def test_the_same_seed_gives_the_same_mix_whatever_the_order_of_the_mapping() -> None:
    backwards = dict(reversed(MANY.items()))
    assert ids(MixedSource(MANY, seed=3)) == ids(MixedSource(backwards, seed=3))
    assert ids(MixedSource(MANY, epoch_size=60, seed=3)) != ids(MixedSource(MANY, epoch_size=60, seed=4))


def test_the_seed_chooses_which_source_comes_first() -> None:
    alike = {"a": Numbers(9), "b": Numbers(9)}
    assert {ids(MixedSource(alike, epoch_size=1, seed=seed))[0] for seed in range(20)} == {"a/0", "b/0"}


def test_an_endless_source_is_walked_no_further_than_asked() -> None:
    mixed = MixedSource({"a": Numbers(10**12, endless=True), "b": Numbers(10**12)})
    assert mixed.streaming
    assert len(list(itertools.islice(mixed, 100))) == 100
    assert not MixedSource(MANY).streaming


def test_a_documents_own_source_name_stays() -> None:
    named = [Document(id="1", text="x", source="own"), Document(id="2", text="y")]

    class Two(Source):
        def __iter__(self) -> Iterator[Document]:
            return iter(named)

    assert [document.source for document in MixedSource({"mix": Two()})] == ["own", "mix"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"a/b": Numbers(1)}}, "sources names 'a/b'"),
        ({"sources": MANY, "weights": {"a": 1}}, "weights names a, sources a, b, c"),
        ({"sources": {"a": Numbers(1)}, "weights": {"a": 0}}, r"weights\.a is 0; it must be a number above 0"),
        ({"sources": {"a": Numbers(1)}, "weights": {"a": float("nan")}}, r"weights\.a is nan"),
        ({"sources": {"a": Numbers(1)}, "weights": {"a": "half"}}, r"weights\.a is 'half'"),
        ({"sources": {"a": Numbers(1)}, "epoch_size": 0}, "epoch_size is 0; it must be at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedSource(**options)


def test_what_is_skipped_is_told_once_however_often_a_source_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text('{"id": "1", "text": "one"}\n{"id": "2"}\n{"id": "3", "text": "three"}\n')
    told: list[str] = []
    mix = MixedSource({"law": JsonlSource(str(path))}, epoch_size=5)
    found = mix.walk(need_text=True, skip=lambda *said: told.append(str(said[-1])))
    assert ids(itertools.islice(found, 2)) == ["law/1", "law/3"]
    assert len(told) == 1, "in the first pass"
    assert "line 2" in told[0]
    assert ids(found) == ["law/1~2", "law/3~2", "law/1~3"]
    assert len(told) == 1
    with pytest.raises(ValueError, match="line 2"):
        list(mix)


def test_a_prompt_of_a_source_is_for_its_documents_that_have_none(tmp_path: Path) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text('{"id": "1", "text": "one"}\n{"id": "2", "text": "two", "prompt": "<image>own"}\n')
    mix = MixedSource({"law": JsonlSource(str(path)), "n": Numbers(2)}, prompts={"law": "<image>laws"})
    assert {document.id: document.prompt for document in mix} == {
        "law/1": "<image>laws", "law/2": "<image>own", "n/0": None, "n/1": None
    }  # fmt: skip
    with pytest.raises(ValueError, match="prompts names 'none'; the sources are law"):
        MixedSource({"law": JsonlSource(str(path))}, prompts={"none": "<image>x"})


def test_an_empty_source_is_named() -> None:
    with pytest.raises(ValueError, match=r"sources\.b has no document"):
        list(MixedSource({"a": Numbers(1), "b": Numbers(0)}, epoch_size=5))


def test_a_mix_is_configured_by_class_path(tmp_path: Path) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text(json.dumps({"id": "1", "text": "one"}) + "\n")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    config = parser.parse_object(
        {
            "source": {
                "class_path": "deepsynth.data.sources.mixed.MixedSource",
                "init_args": {
                    "sources": {
                        "law": {
                            "class_path": "deepsynth.data.sources.text_files.JsonlSource",
                            "init_args": {"path": str(path)},
                        }
                    },
                    "weights": {"law": 2.0},
                },
            }
        }
    )
    source = parser.instantiate_classes(config).source
    assert isinstance(source.sources["law"], JsonlSource)
    assert ids(source) == ["law/1"]
