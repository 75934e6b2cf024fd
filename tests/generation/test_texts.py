"""The rule of loops is that of the published processor, and every end is recorded."""

from __future__ import annotations

import random

import pytest

from deepsynth.generation import RepetitionCriterion
from deepsynth.generation.texts import GenerationState, TextFrame
from tests.helpers.generation import tokenizer_of


def forbidden(written: list[int], ngram: int, window: int, repeatable: set[int]) -> set[int]:
    """Return the tokens that the published processor forbids next."""
    if len(written) < ngram:
        return set()
    prefix = written[len(written) - ngram + 1 :]
    begin, end = max(0, len(written) - window), len(written) - ngram + 1
    return {written[i + ngram - 1] for i in range(begin, end) if written[i : i + ngram - 1] == prefix} - repeatable


@pytest.mark.parametrize("seed", range(40))
def test_a_text_ends_where_the_published_processor_would_forbid_the_token(seed: int) -> None:
    rng = random.Random(seed)
    ngram, window = rng.choice([(2, 5), (3, 9), (5, 12), (30, 90)])
    repeatable = {1, 2} if seed % 3 == 0 else set()
    unit = [rng.randrange(6) for _ in range(rng.randint(1, window))]
    ids = [rng.randrange(6) for _ in range(rng.randint(0, 40))] + unit * 8
    writing = GenerationState(
        frame=TextFrame({99}), limit=10_000, repetition=RepetitionCriterion(ngram, window, frozenset(repeatable))
    )
    for place, token in enumerate(ids):
        expected = token in forbidden(ids[:place], ngram, window, repeatable)
        assert (writing.add(token) == "loop") == expected, place
        if expected:
            assert writing.text_ids == ids[:place]
            return
    assert writing.stop is None


def test_table_cells_may_repeat() -> None:
    assert RepetitionCriterion.for_tokenizer(tokenizer_of("deepsynth/tiny-random")).repeatable == frozenset()
    tokenizer = tokenizer_of("deepsynth/tiny")
    start, end, letter = tokenizer.convert_tokens_to_ids(["<td>", "</td>", "x"])
    rule = RepetitionCriterion.for_tokenizer(tokenizer)
    assert rule.repeatable == {start, end}
    cells = GenerationState(frame=TextFrame({99}), limit=1000, repetition=rule)
    assert cells.add_all([start, end] * 100) is None
    text = GenerationState(frame=TextFrame({99}), limit=1000, repetition=rule)
    assert text.add_all([start, letter, end] * 100) == "loop"


def test_reasons_and_what_comes_after_the_end() -> None:
    ended = GenerationState(frame=TextFrame({5}), limit=3, repetition=None)
    assert ended.add_all([1, 5, 7, 7]) == "eos"
    assert ended.ids == ended.text_ids == [1, 5]
    cut = GenerationState(frame=TextFrame({5}), limit=3, repetition=None)
    assert cut.add_all([1, 1]) is None
    assert cut.add_all([1, 1]) == "length"
    assert cut.ids == [1, 1, 1]


def test_numbers_that_find_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="ngram is 90 and window 30"):
        RepetitionCriterion(90, 30)
