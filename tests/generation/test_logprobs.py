"""Log-probabilities of the generated tokens, against the model's own forward pass over the whole text."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from deepsynth.generation import Generation, RepetitionCriterion, generate
from deepsynth.generation.steps import FreeSteps, StaticSteps
from deepsynth.types import Sample
from tests.helpers.generation import batch_of, load, read, samples, stream, tokenizer_of
from tests.helpers.recorded_graph import stand_in

NAME = "deepsynth/tiny"
MOST = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return load(NAME)


@pytest.fixture(scope="module")
def pages() -> list[Sample]:
    return samples(NAME, 3, longest=6)


def by_hand(model: Any, sample: Sample, generation: Generation) -> list[float]:
    """Return the log-probability of each token by one forward pass over prompt and text, softmax written out."""
    batch = batch_of(NAME, [sample])
    prompt = batch.prompts["input_ids"]
    inputs = {**batch.prompts, "input_ids": torch.cat((prompt, torch.tensor([generation.ids])), 1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        logits = model(**inputs).logits[0].double()
    found = []
    for place, token in enumerate(generation.ids, prompt.shape[1] - 1):
        row = logits[place] - logits[place].max()
        found.append(float(row[token] - math.log(sum(math.exp(value) for value in row.tolist()))))
    return found


@pytest.mark.parametrize("way", ["alone", "static", "graphs", "transformers"])
def test_they_are_those_of_the_forward_pass(
    way: str, model: Any, pages: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "transformers":
        found = read(model, NAME, batch_of(NAME, pages), MOST, way)
    else:
        stand_in(monkeypatch)
        steps: Any = {
            "alone": FreeSteps,
            "static": partial(StaticSteps, count=4),
            "graphs": partial(StaticSteps, count=4, graphs=True),
        }[way]
        found = stream(model, NAME, pages, MOST, slots=2, submitted=3, steps=steps)
    assert len({generation.tokens for generation in found}) > 1
    for sample, generation in zip(pages, found, strict=True):
        assert len(generation.logprobs) == len(generation.ids) == generation.tokens
        expected = by_hand(model, sample, generation)
        assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)
        assert max(generation.logprobs) <= 0 > min(generation.logprobs)
        assert generation.mean_logprob == pytest.approx(sum(expected) / len(expected), abs=1e-4)


@pytest.mark.parametrize("implementation", ["deepsynth", "transformers"])
def test_a_text_that_repeats_itself_has_one_for_each_of_its_tokens(implementation: Any) -> None:
    name = "deepsynth/tiny-random"
    rule = RepetitionCriterion(ngram=3, window=40)
    batch = batch_of(name, samples(name, 2))
    found = generate(
        load(name), tokenizer_of(name), batch, max_new_tokens=60, implementation=implementation, repetition=rule
    )
    assert found is not None
    assert "loop" in {generation.stop for generation in found}
    assert all(len(generation.logprobs) == generation.tokens for generation in found)


def test_numbers_of_sixteen_bits_are_summed_in_thirty_two() -> None:
    model = load(NAME, torch.bfloat16)
    of = samples(NAME, 2, longest=5)
    found = stream(model, NAME, of, MOST, slots=2, submitted=2)
    for sample, generation in zip(of, found, strict=True):
        batch = batch_of(NAME, [sample], dtype=torch.bfloat16)
        with torch.inference_mode():
            logits = model(**batch.prompts).logits[0, -1].float()
        assert generation.logprobs[0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=0.02)
