"""What a merge may change, what a report says, and what a published folder cannot do."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig

from deepsynth.errors import UserError
from deepsynth.export.merge import ExportReport
from deepsynth.export.published import notes_on
from deepsynth.export.verification import (
    Agreement,
    Answer,
    adapted_weights,
    check_answers,
    check_weights,
    some_keys,
    weight_digests,
)
from deepsynth.export.vllm_lora import VllmAdapter
from deepsynth.models.registry import load_pretrained


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a"}, None),
        ({"a", "b"}, None),
        (set(), "did not change weights that the adapter changes: 1 keys (a)"),
        ({"b"}, "did not change weights that the adapter changes: 1 keys (a)"),
        ({"a", "c", "d"}, "changed weights that the adapter does not have: 2 keys (c, d)"),
    ],
)
def test_exactly_what_the_adapter_has_may_change(changed: set[str], said: str | None) -> None:
    if said is None:
        check_weights(changed, {"a"}, {"a", "b"})
        assert said is None
        return
    with pytest.raises(UserError) as caught:
        check_weights(changed, {"a"}, {"a", "b"})
    assert str(caught.value) == f"FAIL: the merge {said}"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "1 keys (k0)"), (6, "6 keys (k0, k1, k2, k3, k4, k5)"), (7, "7 keys (k0, k1, k2, k3, k4, k5, …)")],
)
def test_some_keys_are_six_of_them(count: int, expected: str) -> None:
    assert some_keys({f"k{number}" for number in range(count)}) == expected


def test_an_adapter_must_change_what_it_was_trained_for() -> None:
    model = nn.Sequential()
    for name in ("trained", "untrained", "saved", "other"):
        model.add_module(name, nn.Linear(2, 2, bias=False))
    config = LoraConfig(r=1, target_modules=["trained", "untrained"], modules_to_save=["saved"])
    adapted: Any = get_peft_model(model, config)
    nn.init.ones_(adapted.base_model.model.trained.lora_B["default"].weight)
    must, may = adapted_weights(adapted)
    assert must == {"trained.weight"}
    assert may == {"trained.weight", "untrained.weight", "saved.weight"}


def test_a_digest_is_of_the_bits() -> None:
    model = nn.Linear(2, 2)
    before = weight_digests(model)
    assert weight_digests(copy.deepcopy(model)) == before
    with torch.no_grad():
        model.bias[1] = torch.nextafter(model.bias[1], torch.tensor(9.0))
    after = weight_digests(model)
    assert {name for name in before if before[name] != after[name]} == {"bias"}


REPORT = ExportReport(Path("out"), "native", "float32", 3, 9, Agreement(1e-6, 2e-5, 16, 16, 5e-5, 1e-3), ("a note",))


def test_a_report_says_what_was_proved() -> None:
    assert str(REPORT).splitlines() == [
        "out: native format, float32",
        "PASS: what was written is the model that was given, read back and compared on a page",
        "  3 weights changed, all of the adapter's; 9 are the base's, bit for bit",
        "  logits differ by 1.0e-06 on average (tolerance for float32 5.0e-05), at most 2.0e-05 (tolerance 1.0e-03)",
        "  the greedy text is the same, 16 tokens",
        "  a note",
    ]
    sixteen = replace(REPORT, changed=0, agreement=Agreement(1e-3, 0.5, 15, 16, 2e-2, float("inf")))
    assert str(sixteen).splitlines()[2:5] == [
        "  0 weights changed, 9 are the base's, bit for bit",
        "  logits differ by 1.0e-03 on average (tolerance for float32 2.0e-02), at most 5.0e-01",
        "  the greedy text is the same for 15 of 16 tokens; then rounding decided between two that were about as "
        "likely",
    ]


@pytest.mark.parametrize(("rank", "most"), [(4, 8), (8, 8), (16, 16)])
def test_vllm_is_told_a_rank_that_it_takes(rank: int, most: int) -> None:
    assert f" --max-lora-rank {most} --lora-modules mine=out," in str(VllmAdapter(Path("out"), 3, rank, "base"))


@pytest.mark.parametrize("name", ["deepsynth/full-size-ocr", "deepsynth/full-size-ocr-2"])
def test_engines_load_what_has_the_published_sizes_and_nothing_else(name: str) -> None:
    config = load_pretrained(AutoConfig, name)
    assert notes_on(config, ()) == ()
    config.vision_config.sam_config.window_size = 7
    (note,) = notes_on(config, ())
    assert "its own has sam_config.window_size 7, not 14; serve the adapter or the native export" in note
    config.vision_config.encoder_config.num_hidden_layers = 2
    missing, note = notes_on(config, ("a.py", "b.py"))
    assert "sam_config.window_size 7, not 14 (and 1 more); serve the adapter or the native export" in note
    assert missing.startswith("missing: a.py, b.py. ")


def answer(logits: torch.Tensor, tokens: list[int], steps: torch.Tensor | None = None) -> Answer:
    return Answer(logits, torch.tensor(tokens), torch.zeros(len(tokens), 4) if steps is None else steps)


@pytest.mark.parametrize(
    ("dtype", "mean", "largest"), [("float32", 5e-5, 1e-3), ("float16", 2e-2, math.inf), ("bfloat16", 1e-1, math.inf)]
)
@pytest.mark.parametrize(("spread", "scale"), [(0.1, 1.0), (6.0, 6.0)])
def test_what_rounding_explains_grows_with_the_logits(
    dtype: str, mean: float, largest: float, spread: float, scale: float
) -> None:
    logits = torch.tensor([[-1.0, 1.0]]) * spread / math.sqrt(2)  # its standard deviation, of a sample
    found = check_answers(answer(logits, [1], torch.zeros(1, 2)), answer(logits, [1], torch.zeros(1, 2)), dtype)
    assert (found.mean_tolerance, found.max_tolerance) == pytest.approx((mean * scale, largest * scale))


def test_nothing_is_compared_behind_the_first_token_that_differs() -> None:
    logits, other = torch.zeros(5, 4), torch.zeros(3, 4)
    other[2] = 9.0  # the step behind it, of another text
    found = check_answers(answer(logits, [1, 2, 3]), answer(logits, [1, 3, 3], other), "bfloat16")
    assert (found.mean_difference, found.same_tokens, found.new_tokens) == (0.0, 1, 3)
    other[1, 0] = 2.0  # the one that chose it
    with pytest.raises(UserError, match=r"logits differ by 7.1e-02 on average and 2.0e\+00 at most"):
        check_answers(answer(logits, [1, 2, 3]), answer(logits, [1, 3, 3], other), "float16")
