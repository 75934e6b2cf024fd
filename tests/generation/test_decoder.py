"""The order of the texts, deadlines, loops and the growth of the cache."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch

from deepsynth.generation import Decoder, RepetitionCriterion, generate
from deepsynth.generation import cache as cache_module
from deepsynth.generation.cache import RowCache
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.generation.steps import Choice, FreeSteps, StaticSteps
from tests.helpers.generation import batch_of, load, read, samples, stream, tokenizer_of

NAME = "deepsynth/tiny-random"


@pytest.fixture(scope="module")
def model() -> Any:
    return load(NAME)


@pytest.mark.parametrize(("steps", "tail"), [(FreeSteps, 12), (StaticSteps, 2)])
def test_rows_are_refilled_and_the_order_stays(
    model: Any, steps: Any, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = samples(NAME, 9)
    widths: list[int] = []
    original = steps.__call__
    monkeypatch.setattr(steps, "__call__", lambda self, t, p: widths.append(len(t)) or original(self, t, p))
    whole = read(model, NAME, batch_of(NAME, of), 12)
    # Texts of different lengths: each is cut at a limit of its own.
    decoder, found = Decoder(model, tokenizer_of(NAME), slots=3, steps=steps), []
    limits = [12, 2, 9, 1, 7, 12, 4, 4, 10]
    widths.clear()
    for sample, limit in zip(of, limits, strict=True):
        decoder.submit(batch_of(NAME, [sample]), limit)
        found += decoder.advance(drain=sample is of[-1]) or []
    assert [generation.tokens for generation in found] == limits
    for one, other in zip(found, whole, strict=True):
        assert other.text.startswith(one.text)
    assert len(widths) > tail
    assert set(widths[:-tail]) == {3}  # all rows are at work until the data comes to its end


class RecordedSteps(FreeSteps):
    """Remembers the lengths of the prompts in the order in which they are prefilled."""

    prefilled: ClassVar[list[int]] = []

    def prefill(self, prompts: Any, slots: Any) -> Any:
        self.prefilled.extend(len(prompt) for prompt in prompts)
        return super().prefill(prompts, slots)


def test_of_the_texts_that_are_next_the_longest_expected_come_first(model: Any) -> None:
    of = samples(NAME, 4, pages=4)  # of one to four pages each, so that prompts are told apart by their lengths
    for sample, expected in zip(of, (3, 40, 5, 90), strict=True):
        sample.target = "x" * expected
    RecordedSteps.prefilled.clear()
    found = stream(model, NAME, of, 2, slots=2, submitted=4, steps=RecordedSteps)
    assert RecordedSteps.prefilled == [of[number].prompt_length for number in (1, 0, 3, 2)]
    assert found == read(model, NAME, batch_of(NAME, of), 2)


@pytest.mark.parametrize("steps", [FreeSteps, StaticSteps])
def test_texts_that_end_out_of_order_and_canceled_ones_leave_the_others_as_they_are(model: Any, steps: Any) -> None:
    of = samples(NAME, 6)
    limits = [12, 2, 12, 30, 7, 5]
    alone = [read(model, NAME, batch_of(NAME, [sample]), limit)[0] for sample, limit in zip(of, limits, strict=True)]
    decoder = Decoder(model, tokenizer_of(NAME), slots=3, steps=steps)
    assert decoder.submit(batch_of(NAME, of[:4]), limits[:4]) == range(4)
    found = dict(decoder.step())
    written = dict(decoder.unfinished())
    assert set(written) == {0, 1, 2} - set(found)
    for number, ids in written.items():
        assert tuple(ids) == alone[number].ids[: len(ids)]
    assert len(written) == 2
    first = next(iter(written))
    decoder.cancel({first, 3})  # one that is being written, whose slot the other takes, and one that waits
    assert set(dict(decoder.unfinished())) == written.keys() - {first}
    assert decoder.submit(batch_of(NAME, of[4:]), limits[4:]) == range(4, 6)
    assert decoder.waiting == 2
    for _ in range(60):
        found |= dict(decoder.step())
    assert found == {number: alone[number] for number in range(6) if number not in (first, 3)}
    assert len(decoder) == 0


@pytest.mark.parametrize("held", [False, True])
def test_a_decoder_at_work_looks_at_the_model_once(held: bool, model: Any) -> None:
    class Counted(FreeSteps):
        refreshed = 0

        def refresh(self) -> None:
            Counted.refreshed += 1

    of = samples(NAME, 3)
    expected = read(model, NAME, batch_of(NAME, of), 4)
    decoder = Decoder(model, tokenizer_of(NAME), slots=2, steps=Counted)
    modes, found = [], {}
    model.train()
    with decoder.at_work() if held else nullcontext():
        decoder.submit(batch_of(NAME, of), 4)
        while len(decoder):
            found |= dict(decoder.step())
            modes.append(model.training)
        assert decoder.is_at_work is held
    assert model.training
    assert not decoder.is_at_work
    assert [found[number] for number in range(3)] == expected
    assert set(modes) == {not held}
    assert Counted.refreshed == (1 if held else 1 + len(modes))
    model.eval()


def test_a_deadline_gives_all_up_and_the_decoder_may_be_used_again(model: Any) -> None:
    of = samples(NAME, 2)
    decoder = Decoder(model, tokenizer_of(NAME), slots=2)
    decoder.submit(batch_of(NAME, of), 500)
    assert decoder.advance(drain=True, deadline=time.monotonic() + 0.05) is None
    assert len(decoder) == 0
    decoder.submit(batch_of(NAME, of), 6)
    assert decoder.advance(drain=True) == read(model, NAME, batch_of(NAME, of), 6)


@pytest.mark.parametrize("implementation", ["deepsynth", "transformers"])
def test_past_deadlines_return_nothing(model: Any, implementation: Any) -> None:
    batch = batch_of(NAME, samples(NAME, 2))
    past = time.monotonic() - 1
    kwargs: dict[str, Any] = {"max_new_tokens": 50, "implementation": implementation}
    assert generate(model, tokenizer_of(NAME), batch, deadline=past, **kwargs) is None


def test_loops_end_a_text_in_both_implementations(model: Any) -> None:
    batch, tokenizer = batch_of(NAME, samples(NAME, 3)), tokenizer_of(NAME)
    rule = RepetitionCriterion(ngram=3, window=40)
    kwargs: dict[str, Any] = {"max_new_tokens": 90, "repetition": rule}
    ours = generate(model, tokenizer, batch, implementation="deepsynth", **kwargs)
    theirs = generate(model, tokenizer, batch, implementation="transformers", **kwargs)
    assert ours == theirs
    assert ours is not None
    assert "loop" in {generation.stop for generation in ours}
    for generation, free in zip(ours, read(model, NAME, batch, 90), strict=True):
        assert free.text.startswith(generation.text)


def test_a_cache_that_grows_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of = samples(NAME, 4)
    expected = stream(model, NAME, of, 40, slots=2, submitted=4)
    monkeypatch.setattr(cache_module, "GROWTH", 8)
    monkeypatch.setattr("deepsynth.generation.steps.GROWTH", 8)
    assert stream(model, NAME, of, 40, slots=2, submitted=4) == expected
    assert stream(model, NAME, of, 40, slots=2, submitted=4, steps=StaticSteps) == expected


def test_the_cache_is_what_a_stream_needs_and_not_what_it_might() -> None:
    cache = RowCache(layers=2, slots=4, device=torch.device("cpu"))
    cache.reserve(100)
    cache.reserve(cache_module.GROWTH)
    assert cache.moves == 1
    states = torch.randn(2, 3, 5, 8)
    cache.fill(torch.tensor([0, 2]))
    for layer in range(2):
        cache.update(states, states, layer)
    cache.move(2, 1, 5)
    cache.reserve(cache_module.GROWTH + 1)
    assert cache.moves == 2
    cache.extend(3, torch.tensor([5, 5, 0]), 6)
    keys, values = cache.update(torch.ones(3, 3, 1, 8), torch.zeros(3, 3, 1, 8), 1)
    assert keys.shape == (3, 3, 6, 8)
    assert torch.equal(keys[1, :, :5], states[1])
    assert torch.equal(values[0, :, :5], states[0])
    assert (keys[0, :, 5] == 1).all()


def test_what_a_row_takes_is_known_before_there_is_a_cache(model: Any) -> None:
    config = model.config.get_text_config()
    width = config.hidden_size // config.num_attention_heads
    cache = RowCache(layers=config.num_hidden_layers, slots=4, device=torch.device("cpu"))
    cache.reserve(10)
    cache.fill(torch.tensor([0, 1]))
    states = torch.zeros(2, config.num_key_value_heads, 5, width, dtype=torch.float16)
    cache.update(states, states, 0)
    found = cache.nbytes
    assert found == 4 * cache.length * cache_module.bytes_per_position(config, torch.float16)


def test_a_long_text_holds_back_a_bounded_number_of_others(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsynth.generation.decoder.HELD_BACK", 2)
    of = samples(NAME, 8)
    admitted: list[Prompt] = []
    held: list[int] = []

    class Watching(FreeSteps):
        def prefill(self, prompts: list[Prompt], slots: list[int]) -> list[Choice]:
            admitted.extend(prompts)
            return super().prefill(prompts, slots)

        def __call__(self, tokens: list[int], positions: list[int]) -> list[list[Choice]]:
            held.append(len(admitted) - len(tokens))
            return super().__call__(tokens, positions)

    decoder = Decoder(model, tokenizer_of(NAME), slots=2, steps=Watching)
    decoder.submit(batch_of(NAME, of[:1]), 60)
    decoder.submit(batch_of(NAME, of[1:]), 1)
    found = decoder.advance(drain=True)
    assert found is not None
    assert [generation.tokens for generation in found] == [60] + [1] * 7
    assert max(held) == 3  # of the first four in the order, the first is still being written


def test_other_models_are_refused_or_left_to_transformers() -> None:
    other = torch.nn.Linear(1, 1)
    assert not ModelRunner.fits(other)
    with pytest.raises(ValueError, match=r"Linear is no model whose parts.*model\.generation"):
        Decoder(other, None, slots=1)
    with pytest.raises(ValueError, match="slots is 0"):
        Decoder(other, None, slots=0)
