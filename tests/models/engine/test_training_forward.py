"""The fast forward pass computes what the model's own does: losses, gradients, whole loss curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from deepsynth.models.engine import image_features
from deepsynth.models.engine.feature_cache import MemoryCache
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module, make_trainer

#: DeepSeek-OCR with experts; the built-in deepsynth/tiny has none.
FIRST = str(Path(__file__).parents[2] / "fixtures/deepseek_ocr_v1/model")
FAMILIES = pytest.mark.parametrize("family", ["deepsynth/tiny-random", FIRST], ids=["second", "first"])
#: DeepSeek-OCR's experts are balanced while training when this is above 0.
AUX = 0.01


def batch_of(path: Path, family: str, **kwargs: Any) -> Batch:
    mode = {"mode": "tiny"} if family == FIRST else {}  # its own files say 1024 pixels
    data = make_data(path, model_name=family, **{"batch_size": 3, **mode, **kwargs})
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def loss_and_gradients(module: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module.compute_loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same(one: tuple[Any, dict[str, torch.Tensor]], other: tuple[Any, dict[str, torch.Tensor]]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=2e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def make(family: str, **kwargs: Any) -> Any:
    """Return a module whose adapters already do something, so that all of them get gradients."""
    module = make_module(model_name=family, max_new_tokens=8, **kwargs)
    module.configure_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module


@FAMILIES
@pytest.mark.parametrize("scope", [{}, {"vision": True, "projector": True}], ids=["frozen", "vision"])
def test_loss_and_gradients_equal_the_models_own(family: str, scope: dict[str, bool], jsonl: Path) -> None:
    batch = batch_of(jsonl, family, pad_to_multiple_of=16)
    assert not batch.inputs["attention_mask"].all()
    kwargs = {"mlp": True, "experts": "shared", **scope}
    assert_same(
        loss_and_gradients(make(family, loss="chunked", **kwargs), batch),
        loss_and_gradients(make(family, loss="plain", **kwargs), batch),
    )


@pytest.mark.parametrize("packing", [False, True])
def test_the_balance_loss_is_kept(packing: bool, jsonl: Path) -> None:
    # Padding counts in the balance loss as it does in the published code, so the texts are equally long here.
    lines = [jsonl.read_text().splitlines()[0].replace("d0", f"d{i}") for i in range(8)]
    jsonl.write_text("\n".join(lines) + "\n")
    results = []
    for loss, packed in (("plain", False), ("chunked", packing)):
        module = make(FIRST, loss=loss)
        module.model.config.router_aux_loss_coef = AUX
        batch = batch_of(jsonl, FIRST, packing=packed)
        results.append(loss_and_gradients(module, batch))
    assert_same(*results)
    module.model.config.router_aux_loss_coef = 0.0
    assert (
        float(module.compute_loss(batch).detach()) < float(results[0][0]) - 0.5 * AUX
    )  # it is 1 or more for each layer


def test_the_balance_loss_of_padded_rows_is_the_models_own(jsonl: Path) -> None:
    batch = batch_of(jsonl, FIRST, pad_to_multiple_of=16)
    results = []
    for loss in ("plain", "chunked"):
        module = make(FIRST, loss=loss)
        module.model.config.router_aux_loss_coef = AUX
        results.append(loss_and_gradients(module, batch))
    assert_same(*results)


@FAMILIES
@pytest.mark.parametrize(
    "settings", [{}, {"attn_implementation": "eager"}, pytest.param({"loss": "plain"}, marks=pytest.mark.slow)], ids=str
)
def test_a_packed_batch_has_the_loss_of_the_padded_one(family: str, settings: dict[str, Any], jsonl: Path) -> None:
    padded = batch_of(jsonl, family)
    packed = batch_of(jsonl, family, packing=True, pad_to_multiple_of=32)
    assert packed.ids == padded.ids
    assert packed.inputs["input_ids"].shape[0] == 1
    assert packed.inputs["input_ids"].shape[1] % 32 == 0
    expected = loss_and_gradients(make(family, loss="plain"), padded)
    module = make(family, **settings)
    assert_same(loss_and_gradients(module, packed), expected)
    if not settings:  # the decoder now has another attention function, which must read as before
        generations = module.eval().generate(packed)
        assert [g.text for g in generations] == [g.text for g in make(family).eval().generate(padded)]


def test_images_with_and_without_tiles_are_encoded_a_few_at_a_time(
    loader: Callable[..., Any], tensors: Callable[[str], Any], model_inputs: Callable[[Any], Any]
) -> None:
    model = loader().train()
    inputs = model_inputs(tensors("forward/gundam"))
    assert "pixel_values_local" in inputs
    expected = model.model.get_image_features(
        inputs["pixel_values"], inputs["pixel_values_local"], inputs["num_local_patches"], inputs["patches_grid"]
    ).pooler_output
    for chunk in (1, 2, 3):
        forward = TrainingForward(model, vision_chunk=chunk)
        forward.fixed_chunks = True
        found = forward.image_features(inputs)
        assert [len(f) for f in found] == [len(f) for f in expected]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
            assert not one.requires_grad


@pytest.mark.parametrize(
    ("chunk", "cached", "sam", "clip"),
    [
        (None, False, [1, 1, 1], [3]),  # on a CPU
        (2, False, [2, 1], [3]),
        (5, False, [3], [3]),
        (2, True, [2, 2], [2, 2]),  # filled up with a copy: one shape
        (None, True, [1, 1, 1], [1, 1, 1]),
    ],
)
def test_sam_sees_a_few_images_and_what_follows_eight_times_as_many(
    chunk: int | None, cached: bool, sam: list[int], clip: list[int], loader: Callable[..., Any]
) -> None:
    model, seen = loader().train(), {"sam": [], "clip": []}
    tower = model.model.vision_tower
    for name, module in (("sam", tower.sam_encoder.patch_embed), ("clip", tower.vision_encoder.embeddings)):
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(len(args[0])))
    views = torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    forward = TrainingForward(model, vision_chunk=chunk, cache=MemoryCache(2**24) if cached else None)
    found = forward.image_features({"pixel_values": views})
    assert (seen["sam"], seen["clip"]) == (sam, clip)
    assert len(found) == 3
    if cached:
        again = forward.image_features({"pixel_values": views[1:]})
        assert seen["sam"] == sam, "nothing is encoded again"
        assert all(torch.equal(one, other) for one, other in zip(again, found[1:], strict=True))


def test_a_batch_with_fewer_pages_than_others_gives_compiled_vision_no_new_shape(
    loader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of an epoch has fewer, and what is compiled would be compiled again for it."""
    monkeypatch.setattr(image_features, "FILLED_BATCHES", 2)
    model, seen = loader().train(), []
    model.model.vision_tower.sam_encoder.patch_embed.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    views = torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    forward = TrainingForward(model, vision_chunk=4)
    expected = forward.image_features({"pixel_values": views})
    for fixed, numbers, sizes in (
        (False, (3, 2), [3, 2]),
        (True, (1, 3, 2, 2, 1, 2, 3), [1, 3, 3, 3, 3, 2, 3]),  # two of them came often enough for a shape of their own
    ):
        forward.fixed_chunks = fixed
        seen.clear()
        for number in numbers:
            found = forward.image_features({"pixel_values": views[:number]})
            assert len(found) == number
            for one, other in zip(found, expected, strict=False):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert seen == sizes
    model.eval()  # where nothing is compiled
    forward.image_features({"pixel_values": views[:1]})
    assert seen[-1] == 1


def test_frozen_vision_leaves_nothing_for_a_backward_pass(jsonl: Path) -> None:
    batch = batch_of(jsonl, "deepsynth/tiny-random")
    assert not make("deepsynth/tiny-random").training_forward.image_features(batch.inputs)[0].requires_grad
    trained = make("deepsynth/tiny-random", projector=True)
    assert trained.training_forward.image_features(batch.inputs)[0].requires_grad


def test_a_cache_for_trained_vision_is_refused() -> None:
    module = make_module(projector=True, vision_cache="memory")
    with pytest.raises(ValueError, match=r"model\.engine\.vision_cache keeps features .*lora\.projector=false"):
        module.configure_model()


def test_too_few_image_tokens_are_an_error(jsonl: Path) -> None:
    batch = batch_of(jsonl, "deepsynth/tiny-random")
    batch.inputs["input_ids"][0, :4] = 5
    with pytest.raises(ValueError, match="image tokens"):
        make("deepsynth/tiny-random").compute_loss(batch)


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_the_first_token_is_predicted_by_none_and_a_step_without_labels_has_no_loss(loss: str, jsonl: Path) -> None:
    batch = batch_of(jsonl, "deepsynth/tiny-random")
    labels = batch.inputs["labels"]
    labels[:, 1:] = -100
    labels[:, 0] = 5
    found, gradients = loss_and_gradients(make("deepsynth/tiny-random", loss=loss), batch)
    assert float(found) == 0
    assert not any(gradient.any() for gradient in gradients.values())


#: What transformers and peft compute, and nothing of ours.
PLAIN = {"kernels": "plain", "experts_implementation": "eager", "loss": "plain", "activation_memory": "none"}


class Losses(Callback):
    """Remembers the losses of a run."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


def curve(
    tmp_path: Path,
    jsonl: Path,
    steps: int,
    data: dict[str, Any],
    trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> list[float]:
    losses = Losses()
    module = make_module(lr=1e-3, experts="shared", **settings)
    make_trainer(tmp_path, max_steps=steps, callbacks=[losses], **(trainer or {})).fit(module, make_data(jsonl, **data))
    return losses.losses


@pytest.mark.parametrize("steps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_the_curves_of_the_fast_and_the_plain_path_lie_on_each_other(steps: int, tmp_path: Path, jsonl: Path) -> None:
    plain = curve(tmp_path, jsonl, steps, {}, **PLAIN)
    packed = {"packing": True, "pad_to_multiple_of": 16}
    fast = curve(tmp_path, jsonl, steps, packed, activation_memory="full", vision_cache="memory")
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=2e-3)


@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.slow), "disk"])
def test_training_with_the_cache_is_bit_equal_to_training_without(where: str, tmp_path: Path, jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter

    data = {"augmenter": PageAugmenter(preset="scan"), "augment_variants": 2}
    without = curve(tmp_path, jsonl, 16, data)
    cache = where if where == "memory" else f"{tmp_path}/cache"
    assert curve(tmp_path, jsonl, 16, data, vision_cache=cache) == without
    if where == "disk":  # a second run finds all pages, and computes none
        files = sorted((tmp_path / "cache").rglob("*.safetensors"))
        assert len(files) == 16  # 8 pages in 2 ways
        module = make_module(lr=1e-3, experts="shared", vision_cache=cache)
        module.configure_model()
        module.training_forward.base.model.vision_tower.forward = None  # would raise
        losses = Losses()
        make_trainer(tmp_path, max_steps=16, callbacks=[losses]).fit(module, make_data(jsonl, **data))
        assert losses.losses == without
        assert sorted((tmp_path / "cache").rglob("*.safetensors")) == files


def test_features_that_validation_computed_serve_training(jsonl: Path) -> None:
    batch = batch_of(jsonl, "deepsynth/tiny-random")
    module = make("deepsynth/tiny-random", vision_cache="memory")
    with torch.inference_mode():  # as Lightning validates
        module.eval().compute_loss(batch)
    found = loss_and_gradients(module.train(), batch)
    assert module.training_forward.cache.hits == 3
    assert_same(found, loss_and_gradients(make("deepsynth/tiny-random"), batch))


def test_hits_are_logged(tmp_path: Path, jsonl: Path) -> None:
    module = make_module(vision_cache="memory")
    trainer = make_trainer(tmp_path, max_steps=5)
    trainer.fit(module, make_data(jsonl))  # 4 steps an epoch
    assert trainer.callback_metrics["train/vision_cache_hits"] == 1.0
    assert isinstance(module.training_forward.cache, MemoryCache)
