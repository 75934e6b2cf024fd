"""What is measured of a module: the work, the steps, the phases, generation, what fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.measurement import generation as generation_module
from deepsynth.measurement import real_run, training
from deepsynth.measurement.generation import measure_generation, measure_quality, measure_source
from deepsynth.measurement.harness import Harness, NotMeasured
from deepsynth.measurement.phases import PHASES, measure_phases
from deepsynth.measurement.synthetic import Pages, SyntheticBatches
from deepsynth.measurement.training import largest, measure_largest_batch, measure_training
from deepsynth.modules.settings import GenerationSettings
from tests.helpers.training import make_data, make_module

CPU = torch.device("cpu")


@pytest.fixture
def harness(jsonl: Path) -> Harness:
    return Harness(make_module(samples=2), make_data(jsonl, val_fraction=0.3), seed=3)


def test_a_peak_is_what_was_held_since_it_was_started(harness: Harness) -> None:
    harness.restart_peak()
    held = torch.ones(100, 1024, 1024)  # 0.39 GiB
    harness.look_at_memory()
    del held
    before = float(harness.peak("a_")["a_peak_rss_gib"])
    harness.restart_peak()
    assert before - float(harness.peak()["peak_rss_gib"]) > 0.3


# ---------------------------------------------------------------------- work


def test_the_lengths_of_a_real_run_are_replayed(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[SyntheticBatches] = []

    def keep(harness: Harness, clock: Any, work: SyntheticBatches, steps: int) -> None:
        replays.append(work)
        training.fit(harness, clock, work, steps)

    monkeypatch.setattr(real_run, "fit", keep)
    harness = Harness(make_module(samples=2), make_data(jsonl, pad_to_multiple_of=16))
    found = real_run.measure_fit(harness, batch_size=3, steps=2, warmup_steps=1, repeats=2)
    assert found["steps"] == 4
    assert found["replayed_samples_per_s_low"] <= found["replayed_samples_per_s"]
    expected = []
    harness.data.batch_size = 3
    loader = harness.data.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        expected += [(batch.tokens["attention_mask"], batch.tokens["labels"]) for batch in loader]
    assert [len(mask) for mask, _ in expected] == [3, 3, 2, 3, 3, 2]
    for index, (mask, labels) in enumerate(expected[:5]):
        batch = replays[0][index]
        assert torch.equal(batch.tokens["attention_mask"], mask)
        assert torch.equal(batch.tokens["labels"] == -100, labels == -100)


def test_runs_that_cannot_be_replayed_are_not_measured(jsonl: Path) -> None:
    packed = Harness(make_module(samples=2), make_data(jsonl, packing=True))
    with pytest.raises(NotMeasured, match=r"data\.packing"):
        real_run.measure_fit(packed, batch_size=2, steps=1, warmup_steps=0, repeats=1)


def test_synthetic_batches_are_what_the_model_takes(harness: Harness) -> None:
    work = harness.batches(batch_size=3, text_tokens=20)
    batch = work[0]
    prompt = batch.prompts["input_ids"].shape[1]
    assert batch.inputs["input_ids"].shape == (3, prompt + 20) == (3, work.positions)
    assert batch.inputs["attention_mask"].all()
    assert (batch.inputs["labels"] != -100).sum(dim=1).tolist() == [20, 20, 20]
    assert (batch.inputs["input_ids"][:, -1] == harness.processor.hf_processor.tokenizer.eos_token_id).all()
    side = harness.processor.layout.base_size
    assert batch.inputs["pixel_values"].shape == (3, 3, side, side)
    image_token = harness.processor.hf_processor.image_token_id
    text = batch.inputs["input_ids"][:, prompt:]
    assert (text != image_token).all()
    assert torch.isfinite(harness.module.compute_loss(batch))
    generations = harness.module.generate(batch)
    assert generations is not None
    assert len(generations) == 3


def test_pages_are_new_or_repeated(harness: Harness) -> None:
    new = harness.batches(2, 8)
    first, again, second = new[0].inputs, new[0].inputs, new[1].inputs
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["input_ids"], again["input_ids"])
    pages = [*first["pixel_values"], *second["pixel_values"]]
    assert not any(torch.equal(a, b) for i, a in enumerate(pages) for b in pages[:i])
    repeated = harness.batches(2, 8, "repeated")
    assert torch.equal(repeated[0].inputs["pixel_values"], repeated[5].inputs["pixel_values"])


def test_work_beyond_the_models_positions_is_not_measured(harness: Harness) -> None:
    with pytest.raises(
        NotMeasured, match=r"\d+ tokens of page and prompt \+ 9000 of text .* the model's 2048 positions"
    ):
        harness.batches(1, 9000)


# ---------------------------------------------------------------------- training


def test_training_is_measured_and_the_model_is_trained(harness: Harness) -> None:
    loaded = harness.load()
    assert loaded["module"] == "PeftModule"
    assert loaded["trainable"] == sum(p.numel() for p in harness.module.parameters() if p.requires_grad) > 0
    assert 0 < float(loaded["weights_gib"]) < 0.1
    before = [p.detach().clone() for p in harness.module.parameters() if p.requires_grad]
    result = measure_training(harness, batch_size=2, text_tokens=8, steps=2, warmup_steps=1, repeats=2)
    assert result["steps"] == 4
    assert float(result["samples_per_s_low"]) <= float(result["samples_per_s"]) <= float(result["samples_per_s_high"])
    assert result["tokens_per_s"] == pytest.approx(float(result["samples_per_s"]) * int(result["positions"]))
    assert float(result["tflop_per_sample"]) > 0
    assert "mfu" not in result, "a CPU has no peak"
    assert float(result["peak_rss_gib"]) > 0
    after = [p for p in harness.module.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after), "nothing of the run is left"


def test_pages_whose_features_are_cached_are_no_work(jsonl: Path) -> None:
    def teraflops(pages: Pages, **kwargs: Any) -> float:
        harness = Harness(make_module(**kwargs), make_data(jsonl))
        found = measure_training(harness, batch_size=1, text_tokens=8, steps=1, warmup_steps=1, repeats=1, pages=pages)
        return float(found["tflop_per_sample"])

    whole = teraflops("new", vision_cache="memory")
    assert 0 < teraflops("repeated", vision_cache="memory") < whole


def test_a_loss_that_is_no_number_is_no_measurement(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.load()
    compute = harness.module.compute_loss
    monkeypatch.setattr(harness.module, "compute_loss", lambda batch: compute(batch) * float("nan"))
    with pytest.raises(NotMeasured, match=r"the loss or a gradient of step 1 \(.*\) is not finite"):
        measure_training(harness, batch_size=1, text_tokens=4, steps=1, warmup_steps=1, repeats=1)


def test_the_phases_are_parts_of_a_step(harness: Harness) -> None:
    result = measure_phases(harness, batch_size=2, steps=1, warmup_steps=1)
    parts = {phase: float(result[f"{phase}_ms"]) for phase in PHASES}
    assert min(parts.values()) >= 0
    assert parts["vision"] > 0
    assert parts["decoder"] > 0
    assert result["step_ms"] == pytest.approx(sum(parts.values()))
    assert int(result["positions"]) > 2 * harness.batches(1, 1).positions - 2


# ---------------------------------------------------------------------- generation


@pytest.mark.usefixtures("steady_generation")
def test_generation_is_measured_and_settings_are_put_back(harness: Harness) -> None:
    result = measure_generation(harness, batch_size=2, text_tokens=1, new_tokens=6, repeats=1)
    assert result["tokens"] == 6, "whatever the model writes"
    assert result["prefill_ms"] == pytest.approx(110), "the first token"
    assert result["ms_per_token"] == pytest.approx(10)
    assert result["tokens_per_s"] == pytest.approx(12 / 0.16), "two pages of six tokens"
    assert float(result["peak_rss_gib"]) > 0
    assert harness.module.generation == GenerationSettings(max_new_tokens=48, samples=2)
    assert harness.module.processor.tokenizer.eos_token_id == harness.processor.hf_processor.tokenizer.eos_token_id
    found = measure_source(harness, batch_size=2, num_pages=3, new_tokens=2)
    assert found["pages"] == 4, "whole batches, without the first and the last"
    assert float(found["tokens_per_s"]) <= 2 * float(found["pages_per_s"])
    assert float(found["pages_per_s"]) > 0
    assert float(found["start_s"]) > 0
    assert harness.module.generation.max_new_tokens == 48
    with pytest.raises(NotMeasured, match="less than three batches of 64 pages"):
        measure_source(harness, batch_size=64, num_pages=1, new_tokens=2)
    assert harness.module.generation.max_new_tokens == 48


def test_a_latency_below_its_noise_is_no_measurement(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = generation_module.timed_generation
    monkeypatch.setattr(generation_module, "timed_generation", lambda *args: (0.1, generate(*args)[1]))
    with pytest.raises(NotMeasured, match="noise: the first token took as long as all 3"):
        measure_generation(harness, batch_size=1, text_tokens=1, new_tokens=3, repeats=1)


@pytest.mark.usefixtures("steady_generation")
def test_a_trained_model_writes_on_where_it_would_end(jsonl: Path) -> None:
    """The built-in model ends an empty page at once, which says nothing about its speed."""
    name = "deepsynth/tiny"
    for generation in ("deepsynth", "transformers"):
        harness = Harness(make_module(model_name=name, implementation=generation), make_data(jsonl, model_name=name))
        assert measure_generation(harness, batch_size=1, text_tokens=1, new_tokens=5, repeats=1)["tokens"] == 5


def test_quality_is_measured_before_and_after(harness: Harness) -> None:
    result = measure_quality(harness, steps=2, batch_size=2)
    assert result["samples"] == 4
    for name in ("loss", "cer", "wer", "rouge1", "rougeL", "bleu"):
        assert {f"{name}_before", f"{name}_after"} <= set(result)
    assert result["loss_before"] != result["loss_after"]


def test_quality_says_why_it_cannot_be_measured(jsonl: Path) -> None:
    with pytest.raises(NotMeasured, match=r"model\.weights is random"):
        measure_quality(
            Harness(make_module(weights="random"), make_data(jsonl, val_fraction=0.3)), steps=1, batch_size=1
        )
    with pytest.raises(NotMeasured, match="there is no validation set"):
        measure_quality(Harness(make_module(), make_data(jsonl)), steps=1, batch_size=1)


# ---------------------------------------------------------------------- what fits


@pytest.mark.parametrize("truth", [0, 1, 2, 3, 7, 8, 63, 64, 65, 100])
def test_the_largest_number_that_fits_is_found(truth: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= truth

    good, bad = largest(fits, 1, 64)
    assert good == min(truth, 64)
    assert bad == (None if truth >= 64 else truth + 1)
    assert len(tried) == len(set(tried)) <= 14


def test_a_search_may_be_rough() -> None:
    good, bad = largest(lambda number: number <= 1000, 512, 8192, 1 / 16)
    assert bad is not None
    assert good <= 1000 < bad
    assert bad - good <= good / 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_searches_need_a_gpu(harness: Harness) -> None:
    with pytest.raises(NotMeasured, match="needs a GPU"):
        measure_largest_batch(harness, text_tokens=8, memory_gib=1.0)
