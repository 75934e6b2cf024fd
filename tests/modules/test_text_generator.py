"""Limits, rows and memory of generation, beside what the generated texts are."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.generation import Generation
from deepsynth.modules import text_generator
from deepsynth.modules.text_generator import TextGenerator, blank_rows, limit_for, with_prediction
from deepsynth.profiling.memory import Usage
from deepsynth.types import Batch


def make_batch(count: int = 2, labels: int = 9, prompt: int = 4, **changes: Any) -> Batch:
    values: dict[str, Any] = {
        "tokens": {"labels": torch.zeros(count, labels)},
        "prompt_tokens": {"input_ids": torch.zeros(count, prompt)},
        "images": {},
        "targets": [f"target {i}" for i in range(count)],
        "ids": [f"d{i}#1" for i in range(count)],
        "document_ids": [f"d{i}" for i in range(count)],
        "pages": [7 + i for i in range(count)],
        "languages": ["en", None][:count],
        "sources": [None, "s"][:count],
        "prompt_texts": [f"prompt {i}" for i in range(count)],
    }
    return Batch(**{**values, **changes})


@pytest.mark.parametrize(
    ("longest", "limit"), [(0, 2048), (1, 64), (51, 64), (52, 128), (102, 128), (103, 192), (1000, 1280), (1001, 1280)]
)
def test_texts_may_be_a_quarter_longer_than_the_longest_target(longest: int, limit: int) -> None:
    assert limit_for(longest) == limit


def test_the_longest_target_is_the_longest_of_all_batches_that_are_not_packed() -> None:
    generator = TextGenerator(SimpleNamespace())  # type: ignore[arg-type]
    for labels, expected in ((9, 5), (7, 5), (12, 8)):
        generator.note_targets(make_batch(labels=labels))
        assert generator.longest_target == expected
    packed = make_batch(tokens={"labels": torch.zeros(1, 99), "position_ids": torch.zeros(1, 99)})
    generator.note_targets(packed)
    assert generator.longest_target == 8


def test_rows_say_what_is_known_of_a_sample() -> None:
    sizes = [((1, 2),), ((3, 4), (5, 6))]
    rows = blank_rows(make_batch(sizes=sizes))
    assert rows[1] == {
        "id": "d1#1",
        "document_id": "d1",
        "page": 8,
        "prediction": "",
        "target": "target 1",
        "language": None,
        "source": "s",
        "prompt": "prompt 1",
        "sizes": sizes[1],
    }
    assert [row["id"] for row in rows] == ["d0#1", "d1#1"]
    assert [row["sizes"] for row in blank_rows(make_batch())] == [(), ()]


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [((-1.0, -0.00009), -0.5), ((-0.12344, -0.12348), -0.1235), ((-math.inf, -1.0), None), ((math.nan,), None)],
)
def test_a_prediction_says_how_sure_the_model_was(logprobs: tuple[float, ...], expected: float | None) -> None:
    row = {"id": "d", "target": "t", "prediction": ""}
    generation = Generation("text", 3, "length", (1, 2, 3), logprobs)
    assert with_prediction(row, generation) == {
        "id": "d",
        "target": "t",
        "prediction": "text",
        "tokens": 3,
        "stop": "length",
        "mean_logprob": expected,
    }
    assert row["prediction"] == "", "the row that was given is as it was"


class Stream:
    """A decoder whose texts are the names of the samples, each finished one call later."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: list[str] = []
        self.limits: list[int] = []

    def submit(self, batch: Batch, limit: int) -> None:
        self.limits.append(limit)
        self.waiting += batch.ids

    def advance(self, *, drain: bool) -> list[Generation]:
        count = len(self.waiting) if drain else max(0, len(self.waiting) - 2)
        done, self.waiting = self.waiting[:count], self.waiting[count:]
        return [Generation(f"text of {name}", 2, "eos", (7, 1), (-0.5, -0.25)) for name in done]


class Generator(TextGenerator):
    """With streams in place of decoders."""

    uses_decoder = True

    def __init__(self, **generation: Any) -> None:
        settings = {"rows": None, **generation}
        tokenizer = SimpleNamespace(decode=lambda ids: f"<{ids[0]}>", encode=lambda text, **kwargs: [0])
        module = SimpleNamespace(
            generation=SimpleNamespace(**settings),
            device=torch.device("cpu"),
            processor=SimpleNamespace(tokenizer=tokenizer),
            in_weights_dtype=lambda batch: batch,
            generation_context=lambda: torch.no_grad(),
        )
        super().__init__(module)  # type: ignore[arg-type]
        self.streams: list[Stream] = []

    def limit(self, batch: Batch) -> int:
        return 5

    def make_decoder(self, slots: int) -> Any:
        self.streams.append(Stream(slots))
        return self.streams[-1]


def named(*names: str) -> Batch:
    return make_batch(len(names), ids=list(names), languages=[None] * len(names), sources=[None] * len(names))


def test_rows_come_in_the_order_of_the_samples_with_a_later_batch_and_the_last_brings_all() -> None:
    generator = Generator()
    generator.start_prediction()
    phases: list[str | None] = []
    generator.add_listener(phases.append)
    found = [
        [(row["id"], row["prediction"]) for row in generator.predict(named(*names), last=last)]
        for names, last in ((("a", "b"), False), (("c", "d"), False), (("e",), True))
    ]
    texts = [(name, f"text of {name}") for name in "abcde"]
    assert found == [[], texts[:2], texts[2:]]
    assert phases == ["generation", None] * 3
    (stream,) = generator.streams
    assert (stream.slots, stream.limits) == (2, [5, 5, 5])
    assert generator.holds_memory
    generator.start_prediction()
    assert not generator.holds_memory


@pytest.mark.parametrize(
    ("skip", "expected"), [(0, "abcde"), (1, "bcde"), (2, "cde"), (3, "de"), (4, "e"), (5, ""), (9, "")]
)
def test_samples_that_an_interrupted_run_has_predicted_are_passed_over_once(skip: int, expected: str) -> None:
    generator = Generator(rows=3)
    generator.prepare_predictions(skip=skip, token_logprobs=False)
    for wanted in (expected, "abcde"):
        generator.start_prediction()
        batches = [named("a", "b"), named("c", "d"), named("e")]
        rows = [row for i, batch in enumerate(batches) for row in generator.predict(batch, last=i == 2)]
        assert "".join(row["id"] for row in rows) == wanted
        assert [row["prediction"] for row in rows] == [f"text of {name}" for name in wanted]
    assert {stream.slots for stream in generator.streams} == {3}


@pytest.mark.parametrize("asked", [True, False])
def test_tokens_come_with_their_probabilities_if_asked_for(asked: bool) -> None:
    generator = Generator()
    generator.prepare_predictions(skip=0, token_logprobs=asked)
    generator.start_prediction()
    (row,) = generator.predict(named("a"), last=True)
    assert row.get("token_logprobs") == ([["<7>", -0.5], ["<1>", -0.25]] if asked else None)
    assert row["mean_logprob"] == -0.375


@pytest.mark.parametrize(
    ("again", "allocated", "limit", "kept"),
    [
        (True, 140, 200, True),
        (True, 140, 199, False),
        (True, 90, 156, True),
        (True, 90, 155, False),
        (False, 100, 10_000, False),
    ],
)
def test_a_decoder_stays_where_nine_tenths_of_the_memory_hold_it_and_training(
    again: bool, allocated: int, limit: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before validation 100 bytes are in tensors and 140 reserved; what is more afterwards is the decoder's."""
    usages = iter([Usage(100, 140, 0), Usage(allocated, 999, 0)])
    memory = SimpleNamespace(usage=lambda: next(usages), limit=lambda: limit)
    monkeypatch.setattr(text_generator, "memory_of", lambda device: memory)
    generator = Generator()
    generator.start_validation()
    generator.predict(named("a"), last=False)
    assert generator.holds_memory
    generator.end_validation(again=again)
    assert generator.holds_memory == kept


def test_nothing_is_kept_of_a_validation_that_did_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_generator, "memory_of", lambda device: None)
    generator = Generator()
    generator.predict(named("a"), last=False)
    generator.end_validation(again=True)
    assert not generator.holds_memory
