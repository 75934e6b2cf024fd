"""What layers keep changes memory and nothing else; what is compiled is compiled once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.models.layer_runner import LEVELS, LayerRunner, keep
from deepsynth.models.memory_measurement import LiveBytes, peak_bytes
from tests.models.test_training_forward import batch_of, loss_and_gradients, make
from tests.training import make_data, make_module, make_trainer

FAMILY = "deepsynth/tiny-random"


def peak_of(module: Any, batch: Any) -> float:
    def step() -> None:
        module.compute_loss(batch).backward()

    return peak_bytes(step, torch.device("cpu"))


@pytest.mark.parametrize("scope", [{"lora_dropout": 0.1}, {"lora_vision": True}], ids=["dropout", "vision"])
def test_every_level_computes_the_same_bits(scope: dict[str, Any], jsonl: Path) -> None:
    batch = batch_of(jsonl, FAMILY)
    results = []
    for level in LEVELS:
        module = make(FAMILY, activation_memory=level, **scope)
        torch.manual_seed(3)
        results.append(loss_and_gradients(module, batch))
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert gradients.keys() == results[0][1].keys()
        assert all(torch.equal(gradient, results[0][1][name]) for name, gradient in gradients.items())


def test_each_level_takes_less_memory_than_the_one_before(jsonl: Path) -> None:
    batch = batch_of(jsonl, FAMILY, max_train_documents=8)
    module = make(FAMILY, activation_memory="none")
    module.training_forward.cache = None
    peaks = []
    for level in ("none", "selective", "full"):  # on the CPU, where layers' inputs are offloaded to is where they were
        keep(module._runners, level)
        peaks.append(peak_of(module, batch))
    assert peaks[0] > peaks[1] > peaks[2]


def test_live_bytes_counts_what_lives_at_once() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100)  # no memory of its own
        del second
        fourth = third * 2
    assert live.peak == 8000
    assert live.now == 8000
    del third, fourth
    assert live.now == 0


@pytest.mark.parametrize(("share", "expected"), [(1.01, "none"), (0.0, "offload")])
def test_auto_takes_the_fastest_level_within_the_budget(
    share: float, expected: str, tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = make(FAMILY, activation_memory="none")
    data = make_data(jsonl)
    data.setup("fit")
    most = peak_of(module, next(iter(data.train_dataloader()))) + 1e6  # the optimizer's moments
    module = make_module(memory_budget_gib=max(share * most, 1.0) / 2**30)
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, max_steps=1).fit(module, data)
    assert {runner.level for runner in module._runners} == {expected}
    lines = [record.message for record in caplog.records if "activation_memory" in record.message]
    assert len(lines) == 1
    assert f"activation_memory: {expected}; GiB of one step: none 0." in lines[0]
    assert ("smaller data.batch_size" in lines[0]) == (expected == "offload")


def test_choosing_does_not_change_the_run(tmp_path: Path, jsonl: Path) -> None:
    weights = []
    for settings in ({"activation_memory": "none"}, {"memory_budget_gib": 1e-6}):
        module = make_module(lora_dropout=0.2, **settings)
        make_trainer(tmp_path, max_steps=2).fit(module, make_data(jsonl))
        weights.append({n: p.detach() for n, p in module.named_parameters() if p.requires_grad})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("level", ["none", "full"])
def test_few_graphs_are_compiled_and_none_for_another_batch(level: Any, jsonl: Path) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    module = make(FAMILY, activation_memory=level)
    decoder = module.training_forward.base.model.language_model
    module._runners = [LayerRunner(layer, {"backend": "aot_eager"}) for layer in decoder.layers]
    keep(module._runners, level)
    plain = make(FAMILY, activation_memory="none")
    seen = []
    for multiple in (8, 64, 16, 128):
        batch = batch_of(jsonl, FAMILY, pad_to_multiple_of=multiple)
        (loss, gradients), (expected, wanted) = loss_and_gradients(module, batch), loss_and_gradients(plain, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name.replace("._orig_mod", "")], rtol=2e-3, atol=2e-6)
        seen.append(counters["stats"]["unique_graphs"])
    assert seen[1] == seen[-1], f"graphs after each batch: {seen}"  # the second length makes lengths dynamic
    assert seen[-1] <= 2 * len(decoder.layers) + 4
    module.eval()
    module.generate(batch)
    assert counters["stats"]["unique_graphs"] == seen[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_budget_gib": 0.0}, r"model\.memory_budget_gib is 0.0; it must be above 0"),
        ({"memory_budget_gib": 4.0, "activation_memory": "full"}, r"for model\.activation_memory=auto, which is full"),
        ({"vision_cache": "ram"}, r"model\.vision_cache is 'ram'; want none, memory, disk"),
        ({"vision_cache": "memory", "loss": "plain"}, r"model\.loss is plain"),
        ({"vision_chunk": 0}, r"model\.vision_chunk is 0; it must be at least 1"),
        ({"activation_memory": "selective", "compile": "all"}, r"model\.activation_memory is selective"),
        ({"cuda_graphs": True}, r"model\.cuda_graphs records what is compiled"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(**settings)
