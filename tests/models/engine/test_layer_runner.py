"""What layers keep changes memory and nothing else; what is compiled is compiled once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.errors import UserError
from deepsynth.models.engine.fast_paths import ReplacedForwards
from deepsynth.models.engine.layer_runner import LEVELS, LayerRunner, keep
from deepsynth.models.kernels.frozen_experts import IN_TRAINING, frozen_experts_of, register
from deepsynth.modules import training_engine
from tests.helpers.live_bytes import LiveBytes, peak_bytes
from tests.helpers.training import make_data, make_module, make_trainer
from tests.models.engine.test_training_forward import assert_same, batch_of, loss_and_gradients, make

FAMILY = "deepsynth/tiny-random"


def installed(runners: Iterable[LayerRunner]) -> list[LayerRunner]:
    """Install runners in their layers, and return them."""
    found = list(runners)
    ReplacedForwards((runner.layer, runner.run) for runner in found).install()
    return found


def peak_of(module: Any, batch: Any) -> float:
    def step() -> None:
        module.compute_loss(batch).backward()

    return peak_bytes(step, torch.device("cpu"))


#: In 16 bits, adapters have factors in the dtype of the layers for the time of the forward pass.
SCOPES = [{"dropout": 0.1}, {"vision": True}, {"mlp": True, "vision": True, "dtype": "bfloat16"}]


@pytest.mark.parametrize("scope", SCOPES, ids=["dropout", "vision", "16 bits"])
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


@pytest.mark.parametrize(
    ("experts", "trained"),
    [
        pytest.param(IN_TRAINING, False, marks=pytest.mark.slow),
        (IN_TRAINING, True),
        pytest.param("eager", False, marks=pytest.mark.slow),
        pytest.param("grouped_mm", False, marks=pytest.mark.slow),
    ],
)
def test_each_level_keeps_less_than_the_one_before(experts: str, trained: bool) -> None:
    from transformers import DeepseekOcr2TextConfig
    from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2TextModel

    config = DeepseekOcr2TextConfig(
        vocab_size=8, hidden_size=256, intermediate_size=512, moe_intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=4, n_shared_experts=2,
        mlp_layer_types=["dense", "sparse"], topk_method="greedy", pad_token_id=0,
    )  # fmt: skip
    register()
    config._experts_implementation = experts
    decoder = DeepseekOcr2TextModel(config).to(torch.bfloat16).requires_grad_(trained).train()
    runners = installed(LayerRunner(layer) for layer in decoder.layers)
    embeds = torch.randn(2, 128, 256, dtype=torch.bfloat16, requires_grad=True)
    kept, gradients = [], []
    for level in ("none", "selective", "full"):  # on the CPU, offloaded inputs are where they were
        keep(runners, level)
        with LiveBytes() as live:
            output = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
        kept.append(live.now)
        gradients += torch.autograd.grad(output.float().square().sum(), embeds)
    assert kept[0] > 1.2 * kept[1] > 1.2 * 2 * kept[2], kept
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_experts_compute_again_at_the_selective_level_alone() -> None:
    runners = make(FAMILY).training_forward.fast_paths.layers
    experts = [found for runner in runners if (found := frozen_experts_of(runner.layer)) is not None]
    assert experts
    for level in (*LEVELS, "none"):
        keep(runners, level)
        assert {found.recomputes for found in experts} == {level == "selective"}


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
    share: float,
    expected: str,
    tmp_path: Path,
    jsonl: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_engine, "peak_bytes", peak_bytes)
    module = make(FAMILY, activation_memory="none")
    data = make_data(jsonl)
    data.setup("fit")
    most = peak_of(module, next(iter(data.train_dataloader()))) + 1e6  # the optimizer's moments
    module = make_module(memory_budget_gib=max(share * most, 1.0) / 2**30)
    trainer = make_trainer(tmp_path, max_steps=1)
    if expected == "offload":
        with pytest.warns(UserWarning, match=r"activation_memory: offload; GiB of one step: none 0.*data\.batch_size"):
            trainer.fit(module, data)
    else:
        with caplog.at_level("INFO"):
            trainer.fit(module, data)
        assert f"activation_memory: {expected}; GiB of one step: none 0.01; budget 0.0" in caplog.text
    assert {runner.level for runner in module.training_engine.layers} == {expected}


def test_a_budget_on_a_cpu_is_refused(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(UserError, match=r"model\.engine\.memory_budget_gib is set and the run is on the cpu"):
        make_trainer(tmp_path, max_steps=1).fit(make_module(memory_budget_gib=1.0), make_data(jsonl))


def test_choosing_does_not_change_the_run(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_engine, "peak_bytes", peak_bytes)
    weights = []
    for settings in ({"activation_memory": "none"}, {"memory_budget_gib": 1e-6}):
        module = make_module(dropout=0.2, **settings)
        make_trainer(tmp_path, max_steps=2).fit(module, make_data(jsonl))
        weights.append({n: p.detach() for n, p in module.named_parameters() if p.requires_grad})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("level", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_few_graphs_are_compiled_and_none_for_another_shape(level: Any, jsonl: Path) -> None:
    from torch._dynamo.utils import counters

    batches = [batch_of(jsonl, FAMILY, pad_to_multiple_of=length) for length in (200, 210, 220)]
    batches += [batch_of(jsonl, FAMILY, pad_to_multiple_of=230, batch_size=size) for size in (2, 1)]
    module = make(FAMILY, activation_memory="none")
    expected = loss_and_gradients(module, batches[2])
    decoder = module.training_forward.base.model.language_model
    torch._dynamo.reset()
    counters.clear()
    keep(installed(LayerRunner(layer, {"backend": "eager"}, shapes_vary=True) for layer in decoder.layers), level)
    graphs = []
    for batch in batches:
        found = loss_and_gradients(module, batch)
        graphs.append(counters["stats"]["unique_graphs"])
        if batch is batches[2]:
            assert_same(found, expected)
    assert 0 < graphs[0] <= 2 * len(decoder.layers)
    assert graphs[0] == graphs[-1], "another length, or a smaller batch, makes other graphs"
    module.eval().generate(batches[0])  # a cache that grows is not compiled
    assert counters["stats"]["unique_graphs"] == graphs[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_budget_gib": 0.0}, r"model\.engine\.memory_budget_gib is 0.0; it must be above 0"),
        (
            {"memory_budget_gib": 4.0, "activation_memory": "full"},
            r"for model\.engine\.activation_memory=auto, which is full",
        ),
        ({"vision_cache": "ram"}, r"model\.engine\.vision_cache is 'ram'; it must be none, memory, disk"),
        ({"vision_cache": "memory", "loss": "plain"}, r"model\.engine\.loss is plain"),
        ({"vision_chunk": 0}, r"model\.engine\.vision_chunk is 0; it must be at least 1"),
        ({"activation_memory": "selective", "compile": "all"}, r"model\.engine\.activation_memory is selective"),
        ({"cuda_graphs": True, "compile": "none"}, r"model\.engine\.cuda_graphs records what is compiled"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(**settings)


@pytest.mark.parametrize("graphs", [True, False])
def test_a_step_says_where_it_begins_to_who_records_it(
    graphs: bool, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs: what an earlier step has returned may be overwritten from then on."""
    said: list[str] = []
    module = make(FAMILY, compile="decoder", cuda_graphs=graphs)
    for runner in module.training_engine.layers:
        runner.compile(None)
    text = module.model.get_base_model().model.language_model
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: said.append("begin"))
    text.register_forward_pre_hook(lambda *_: said.append("forward"))
    module.compute_loss(batch_of(jsonl, FAMILY))
    assert said == (["begin", "forward"] if graphs else ["forward"])
