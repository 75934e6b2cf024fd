"""What the engine does for families that read images at their own size: levels of memory, 4 bits, sharding, a GPU."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.measurement.phases import PhaseClock
from deepsynth.models.engine.layer_runner import LEVELS
from deepsynth.models.engine.patch_vision import split_by_image
from deepsynth.models.registry import family_of
from tests.helpers.processes import launch
from tests.helpers.training import make_trainer
from tests.models.families.native import NAMES, assert_same, batch_of, loss_and_gradients, module_of, sample
from tests.models.families.runs import TEXTS, Losses, data_of
from tests.models.families.runs import module_of as adapted_module

SLOW = [pytest.param(name, marks=[] if name == "paddleocr_vl" else [pytest.mark.slow]) for name in NAMES]


@pytest.fixture(scope="module", params=SLOW)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    maker = import_module(f"tests.helpers.tiny_models.{request.param}")
    return str(maker.make(tmp_path_factory.mktemp(request.param)))


SCOPES = [{"dropout": 0.1}, {"vision": True, "projector": True}, {"mlp": True, "dtype": "bfloat16"}]


@pytest.mark.parametrize("scope", SCOPES, ids=["dropout", "vision", "16 bits"])
def test_every_level_computes_the_same_bits(scope: dict[str, Any], folder: str) -> None:
    results = []
    for level in LEVELS:
        module = module_of(folder, activation_memory=level, **scope)
        assert len(module.training_forward.fast_paths.layers) == 4
        torch.manual_seed(3)
        results.append(loss_and_gradients(module, batch_of(folder)))
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert gradients.keys() == results[0][1].keys()
        assert all(torch.equal(gradient, results[0][1][name]) for name, gradient in gradients.items())


def test_the_encoder_is_compiled_only_when_asked_for(folder: str) -> None:
    """Its images have many sizes, for each of which it would be compiled; the decoder takes any length."""
    forward = module_of(folder).training_forward
    assert forward.frozen_vision
    assert not forward.vision_has_one_shape


@pytest.mark.slow
def test_compiled_layers_compute_what_the_plain_ones_do(folder: str) -> None:
    expected = loss_and_gradients(module_of(folder, kernels="plain", loss="plain"), batch_of(folder))
    module = module_of(folder, compile="all", activation_memory="none")
    assert_same(loss_and_gradients(module, batch_of(folder)), expected)
    longer = batch_of(folder, pad_to_multiple_of=128)
    assert_same(loss_and_gradients(module, longer), expected)


def train(folder: Path, to: Path, processes: int, quantization: str) -> list[float]:
    """Train adapters for two steps, in several processes on sharded weights or on quantized ones; return the losses."""
    from deepsynth.distributed import FullyShardedStrategy

    losses = Losses()
    several: dict[str, Any] = {"strategy": FullyShardedStrategy() if quantization == "none" else "ddp"}
    several = several if processes > 1 else {}
    trainer = make_trainer(to, max_steps=2, callbacks=[losses], limit_val_batches=0, devices=processes, **several)
    data = data_of(folder, ((112, 112), (112, 56)), batch_size=len(TEXTS) // processes)
    trainer.fit(adapted_module(folder, quantization=quantization), data)
    return losses.values


ALL = pytest.mark.parametrize("folder", [*SLOW, "qwen3_vl"], indirect=True)
IN_4_BITS = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)")


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=IN_4_BITS)], ids=["sharded", "nf4 and DDP"])
def test_several_processes_train_as_one_does(quantization: str, folder: str, tmp_path: Path) -> None:
    one = train(Path(folder), tmp_path / "one", 1, quantization)
    assert len(one) == 2
    for several in launch(2, tmp_path / "two", train, Path(folder), tmp_path / "two", 2, quantization):
        assert several == pytest.approx(one, rel=2e-4)


@pytest.mark.slow
@ALL
@IN_4_BITS
@torch.no_grad()
def test_four_bits_have_the_loss_of_the_models_own_forward(folder: str) -> None:
    losses = []
    for loss in ("plain", "chunked"):
        module = module_of(folder, quantization="nf4", loss=loss)
        base = module.model.get_base_model()
        kinds = {name: type(layer).__name__ for name, layer in base.named_modules()}
        assert kinds["model.language_model.layers.1.self_attn.q_proj.base_layer"] == "Linear4bit"
        packed = {name for name, kind in kinds.items() if kind.startswith("Linear4bit")}
        assert any("visual" in name and name.endswith((".fc1", ".linear_fc1", ".gate_proj")) for name in packed)
        assert not any("merger" in name or "projector" in name for name in packed)
        losses.append(float(module.train().compute_loss(batch_of(folder))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings", [{}, {"activation_memory": "selective"}, {"vision": True}, {"packing": True}], ids=str
)
def test_on_a_gpu_it_is_as_near_to_the_truth_as_the_plain_path(settings: dict[str, Any], folder: str) -> None:
    """In bfloat16, with the kernels of liger-kernel where it is installed, beside the model's own in float32."""
    packed = {"packed": True} if settings.pop("packing", False) else {}
    scope = {name: value for name, value in settings.items() if name == "vision"}
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"dtype": "float32", "loss": "plain", "kernels": "plain", **scope}, {}),
        ({"dtype": "bfloat16", "loss": "plain", "kernels": "plain", **scope}, {}),
        ({"dtype": "bfloat16", "activation_memory": "none", **settings}, packed),
    ]
    found = []
    for way, kind in ways:
        module = module_of(folder, "cuda", **way)
        found.append(loss_and_gradients(module, batch_of(folder, **kind).to(torch.device("cuda"))))
    truth, plain, fast = found
    losses = [float(loss) for loss, _ in found]
    assert abs(losses[2] - losses[0]) < 2 * abs(losses[1] - losses[0]) + 2e-3 * losses[0]

    def distance(other: Any) -> float:
        off = sum(float((other[1][name] - wanted).square().sum()) for name, wanted in truth[1].items())
        return off / sum(float(wanted.square().sum()) for wanted in truth[1].values())

    assert distance(fast) < 1.5 * distance(plain) + 1e-4


def test_the_host_alone_is_asked_where_images_are(folder: str) -> None:
    """Nothing can be read from the meta device, as nothing should from a GPU: it would wait for all it has to do."""
    module = module_of(folder)
    for packed in (False, True):
        batch = batch_of(folder, packed=packed)
        away = batch.to(torch.device("meta"))
        assert away.moved_from is not None
        here = module.training_forward.find_places(batch.inputs)
        there = module.training_forward.find_places(away.inputs, away.moved_from)
        assert here.positions is not None
        assert there.positions is not None
        assert there.positions.device.type == there.predicting.device.type == "meta"
        assert (there.positions.shape, there.slots, there.lengths) == (here.positions.shape, here.slots, here.lengths)
        assert split_by_image(away.images["pixel_values"], away.images["image_grid_thw"].tolist())
        arguments = module.training_forward.family.arguments(away.images)
        assert {value.device.type for value in arguments.values()} == {"meta"}


def images_of(folder: str, *sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    processor = OcrProcessor(model_name=folder)
    samples = [sample(processor, size) for size in sizes]
    images = Collator(processor.pad_token_id)(samples).with_pixel_values().images
    assert images["image_grid_thw"].device.type == "cpu"
    return images


def test_the_encoder_computes_the_same_bits_of_grids_on_the_host(folder: str) -> None:
    model = module_of(folder).model.get_base_model()
    images = images_of(folder, (112, 112), (30, 90), (28, 28), (112, 56))
    family = family_of(model.config)
    found = family.image_features(model, images)
    expected = model.model.get_image_features(**images).pooler_output
    assert [len(one) for one in found] == [16, 8, 4, 8]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("vision", [False, True], ids=["frozen", "trained"])
def test_the_encoder_asks_the_host_alone_about_grids(vision: bool, folder: str) -> None:
    """Nothing can be read from the meta device, as nothing should from a GPU."""
    forward = module_of(folder, vision=vision).to(torch.device("meta")).training_forward
    images = images_of(folder, (112, 112), (112, 112))
    images["pixel_values"] = images["pixel_values"].to("meta")
    assert [tuple(one.shape) for one in forward.image_features(images)] == [(16, 64)] * 2


def test_the_benchmark_times_the_vision_encoder(folder: str) -> None:
    """Else a phase of no time would be shown, and its own counted as the decoder's."""
    waits: list[None] = []
    clock = PhaseClock(SimpleNamespace(synchronize=lambda: waits.append(None)), 0)  # type: ignore[arg-type]
    module = module_of(folder)
    hooks = clock.watch(module)
    assert len(hooks) == 2
    module.compute_loss(batch_of(folder))
    assert waits  # at the start of the encoder
