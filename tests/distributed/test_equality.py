"""Several processes train as one does: the same losses, the same adapter, each document read once."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from deepsynth import FullModule, PeftModule, UnslothModule
from deepsynth.callbacks import AdapterCheckpoint, PredictionWriter
from deepsynth.data import HubSource, JsonlSource, MixedSource
from deepsynth.distributed import FullyShardedStrategy
from deepsynth.modules import DeepSynthModule
from tests.helpers import unsloth_stand_in
from tests.helpers.processes import launch
from tests.helpers.training import grouped, make_data, make_module, make_trainer


class Losses(Callback):
    """Keeps the logged loss of every batch, and what DistributedDataParallel has to do with which weights."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.ddp: dict[str, Any] | None = None

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if not isinstance(trainer.strategy.model, DistributedDataParallel):
            return
        ddp = trainer.strategy.model
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        states = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        self.ddp = {
            "looks for unused": ddp.find_unused_parameters,
            "sent at the start": states - set(ddp.parameters_to_ignore),
            "trained": set(trained),
            "bytes in buckets": ddp._get_ddp_logging_data()["total_parameter_size_bytes"],
            "bytes trained": sum(parameter.nbytes for parameter in trained.values()),
        }


def module_of(kind: str, **settings: Any) -> DeepSynthModule:
    settings = {"max_new_tokens": 8, "schedule": "constant", **settings}
    if kind == "PeftModule":
        return make_module(lr=1e-2, **settings)
    seed_everything(0)
    if kind == "UnslothModule":
        return UnslothModule(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), **grouped(**settings))
    return FullModule(optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3), **grouped(**settings))


def train(
    folder: Path,
    documents: Path,
    strategy: str,
    processes: int,
    kind: str = "PeftModule",
    settings: dict[str, Any] | None = None,
    ckpt_path: Path | None = None,
    **trainer_settings: Any,
) -> dict[str, Any]:
    """Train on a global batch of four; return the losses, validation's figures and what was predicted."""
    module = module_of(kind, **(settings or {}))
    names = {name: value for name, value in (settings or {}).items() if name == "model_name"}
    data = make_data(documents, batch_size=4 // processes, val_fraction=0.4, **names)
    losses = Losses()
    arguments: dict[str, Any] = {
        "max_steps": 3,
        "callbacks": [losses, AdapterCheckpoint(), PredictionWriter()],
        "devices": processes,
        "gradient_clip_val": 1.0,
        "enable_checkpointing": True,
        **trainer_settings,
    }
    if strategy != "one":
        arguments["strategy"] = FullyShardedStrategy() if strategy == "fsdp2" else strategy
    trainer = make_trainer(folder, **arguments)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    trainer.save_checkpoint(folder / "end.ckpt")
    trainer.predict(module, data)
    assert not module.text_generator.holds_memory, "no process keeps what predict has read"
    return {"losses": losses.values, "figures": figures, "ddp": losses.ddp}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty documents of very different lengths, so that a mean of means is none."""
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    texts = ["word " * (1 + 7 * (i % 4)) + str(i) for i in range(20)]
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


#: Of eight: neither whole batches nor the same number on two processes.
THREE_SAMPLES = {"samples": 3}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, documents: Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the figures of a run of one process."""
    folder = tmp_path_factory.mktemp("one")
    return folder, train(folder, documents, "one", 1, "PeftModule", THREE_SAMPLES)


def assert_same_run(one: dict[str, Any], several: list[dict[str, Any]], tolerance: float = 2e-4) -> None:
    for found in several:
        assert found["losses"] == pytest.approx(one["losses"], rel=tolerance)
        assert found["figures"] == pytest.approx(one["figures"], rel=tolerance, abs=1e-6)


def assert_same_files(one: Path, several: Path, weights: str, tolerance: float = 0.02) -> None:
    """Compare by the norm: where a gradient is nearly zero, AdamW makes a whole step of the sign of its rounding."""
    expected, found = load_file(one / "adapter" / weights), load_file(several / "adapter" / weights)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert float((found[name] - tensor).norm()) <= tolerance * float(tensor.norm()), name
    names = sorted(path.name for path in (one / "adapter").iterdir())
    assert names == sorted(path.name for path in (several / "adapter").iterdir())
    rows = [
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (one, several)
    ]
    for expected_row, row in zip(*rows, strict=True):
        for name in ("mean_logprob", "page_mean_logprobs"):
            assert row.pop(name) == pytest.approx(expected_row.pop(name), rel=tolerance, abs=0.01)
        assert row == expected_row


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_are_as_one(
    strategy: str, tmp_path: Path, documents: Path, alone: tuple[Path, dict[str, Any]]
) -> None:
    folder, one = alone
    run = partial(train, tmp_path / "two", documents, strategy, 2, "PeftModule", THREE_SAMPLES)
    several = launch(2, tmp_path / "two", run)
    assert len(one["losses"]) == 3
    assert_same_run(one, several)
    assert_same_files(folder, tmp_path / "two", "adapter_model.safetensors")
    for found in several:
        if strategy == "ddp":
            assert found["ddp"]["looks for unused"] is False
            assert found["ddp"]["sent at the start"] == found["ddp"]["trained"] != set()
            assert found["ddp"]["bytes in buckets"] == found["ddp"]["bytes trained"]


def weights_of_random_model(quantization: str) -> str:
    """Return a hash of all frozen weights, after this process was seeded as no other is."""
    torch.distributed.init_process_group("gloo")
    seed_everything(torch.distributed.get_rank())
    module = PeftModule(weights="random", quantization=quantization)
    module.configure_model()
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    torch.distributed.destroy_process_group()
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_random_weights_are_the_same_in_all_processes(quantization: str, tmp_path: Path) -> None:
    """Nothing is sent: the scales of quantized weights, beside the parameters, could not be."""
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    first, second = launch(2, tmp_path, weights_of_random_model, quantization)
    assert first == second


def train_long(folder: Path, documents: Path, processes: int) -> list[float]:
    """Return the losses of fifty steps of four samples, five epochs nearly; none is left over at an epoch's end."""
    losses = Losses()
    strategy = {"strategy": "ddp"} if processes > 1 else {}
    trainer = make_trainer(
        folder, max_steps=50, devices=processes, callbacks=[losses, AdapterCheckpoint()], limit_val_batches=0,
        enable_checkpointing=True, **strategy,
    )  # fmt: skip
    trainer.fit(make_module(lr=2e-3), make_data(documents, batch_size=4 // processes, max_train_documents=44))
    trainer.save_checkpoint(folder / "end.ckpt")
    return losses.values


@pytest.mark.slow
def test_fifty_steps_of_two_and_four_processes_are_those_of_one(tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    texts = ["word " * (1 + 7 * (i % 4)) + str(i) for i in range(44)]
    documents.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    one = train_long(tmp_path / "1", documents, 1)
    assert len(one) == 50
    assert sum(one[-10:]) < 0.5 * sum(one[:10])  # it learns, so that two runs could part
    expected = load_file(tmp_path / "1" / "adapter" / "adapter_model.safetensors")
    for processes in (2, 4):
        folder = tmp_path / str(processes)
        for losses in launch(processes, folder, train_long, folder, documents, processes):
            assert losses == pytest.approx(one, rel=1e-3)
        found = load_file(folder / "adapter" / "adapter_model.safetensors")
        apart = sum(float((found[name] - tensor).square().sum()) for name, tensor in expected.items()) ** 0.5
        assert apart < 1e-3 * sum(float(tensor.square().sum()) for tensor in expected.values()) ** 0.5


EVERY_PART = {"mlp": True, "experts": "all", "vision": True, "projector": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "strategy", "processes", "settings"),
    [
        ("PeftModule", "ddp", 4, {}),
        ("PeftModule", "fsdp2", 4, {}),
        ("PeftModule", "ddp", 2, EVERY_PART),
        ("PeftModule", "fsdp2", 2, EVERY_PART),
        ("PeftModule", "fsdp2", 2, {"dora": True}),
        ("PeftModule", "fsdp2", 2, {"activation_memory": "full", "experts": "all"}),
        ("PeftModule", "ddp", 2, {"activation_memory": "full", "vision": True}),
        ("PeftModule", "ddp", 2, {"quantization": "nf4", "experts": "all"}),
        ("PeftModule", "ddp", 2, {"quantization": "int8", "experts": "shared"}),
        ("PeftModule", "fsdp2", 2, {"model_name": "deepsynth/tiny"}),
        ("UnslothModule", "ddp", 2, {}),
        ("UnslothModule", "ddp", 2, {"experts": "all"}),
        ("UnslothModule", "ddp", 2, {"weights": "random"}),
        ("FullModule", "ddp", 2, {}),
        ("FullModule", "fsdp2", 2, {}),
        ("FullModule", "ddp", 2, {"model_name": "deepsynth/tiny"}),
        ("FullModule", "fsdp2", 2, {"model_name": "deepsynth/tiny"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_every_case_that_works_is_as_one_process(
    kind: str,
    strategy: str,
    processes: int,
    settings: dict[str, Any],
    tmp_path: Path,
    documents: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "quantization" in settings:
        pytest.importorskip("bitsandbytes")
    if kind == "UnslothModule":
        unsloth_stand_in.install(monkeypatch)  # the processes are forked, and have it too
    one = train(tmp_path / "one", documents, "one", 1, kind, settings)
    arguments = (tmp_path / "several", documents, strategy, processes, kind, settings)
    several = launch(processes, tmp_path / "several", train, *arguments)
    assert_same_run(one, several, tolerance=2e-3)
    weights = "model.safetensors" if kind == "FullModule" else "adapter_model.safetensors"
    assert_same_files(tmp_path / "one", tmp_path / "several", weights)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_base_in_bfloat16_beside_adapters_in_float32(strategy: str, tmp_path: Path, documents: Path) -> None:
    settings = {"dtype": "bfloat16", "experts": "shared"}
    one = train(tmp_path / "one", documents, "one", 1, settings=settings)
    arguments = (tmp_path / "two", documents, strategy, 2, "PeftModule", settings)
    several = launch(2, tmp_path / "two", train, *arguments)
    for found in several:
        assert found["losses"] == pytest.approx(one["losses"], rel=0.02)  # batches of other shapes round otherwise
    adapter = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PeftModule", "FullModule"])
@pytest.mark.parametrize(("before", "after"), [("one", "fsdp2"), ("fsdp2", "one"), ("ddp", "fsdp2"), ("fsdp2", "ddp")])
def test_a_checkpoint_goes_on_under_another_strategy(
    before: str, after: str, kind: str, tmp_path: Path, documents: Path
) -> None:
    """In the middle of an accumulation too: two batches make a step, and the checkpoint comes after three."""

    def run(folder: Path, strategy: str, **arguments: Any) -> list[dict[str, Any]]:
        processes = 1 if strategy == "one" else 2
        every = {"accumulate_grad_batches": 2, **arguments}
        call = partial(train, folder, documents, strategy, processes, kind, **every)
        return [call()] if processes == 1 else launch(processes, folder, call)

    whole = run(tmp_path / "whole", "one", max_steps=3)
    run(tmp_path / "first", before, max_steps=2, limit_train_batches=3, max_epochs=1)
    rest = run(tmp_path / "second", after, max_steps=3, ckpt_path=tmp_path / "first" / "end.ckpt")
    assert rest[0]["losses"][-1] == pytest.approx(whole[0]["losses"][-1], rel=0.05)
    weights = "adapter_model.safetensors" if kind == "PeftModule" else "model.safetensors"
    again = run(tmp_path / "again", "one", max_steps=3, ckpt_path=tmp_path / "first" / "end.ckpt")
    assert rest[0]["losses"] == pytest.approx(again[0]["losses"], rel=2e-3)
    assert_same_files(tmp_path / "again", tmp_path / "second", weights)


def seen_samples(folder: Path, documents: Path, processes: int, batch_size: int, steps: int, **arguments: Any) -> Any:
    """Return the document ids of every batch that this process trained on."""

    class Seen(Callback):
        def __init__(self) -> None:
            self.ids: list[list[str]] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.ids.append(list(batch.document_ids))

    seen = Seen()
    ckpt_path = arguments.pop("ckpt_path", None)
    if processes > 1:
        arguments["strategy"] = "ddp"
    every = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    arguments |= {"max_epochs": 1, "max_steps": steps, "callbacks": [seen, every], "enable_checkpointing": True}
    trainer = make_trainer(folder, devices=processes, **arguments)
    data = make_data(documents, batch_size=batch_size, num_workers=1)
    data.source = MixedSource(  # some documents come twice
        {"file": JsonlSource(str(documents)), "stream": HubSource(str(folder / "data"), streaming=True)},
        weights={"file": 1, "stream": 2}, epoch_size=20,
    )  # fmt: skip
    trainer.fit(make_module(), data, ckpt_path=ckpt_path)
    return seen.ids


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((2, 1), (1, 1)), ((1, 1), (2, 2)), ((1, 3), (2, 1))])
def test_an_epoch_ends_with_every_sample_seen_once_whatever_the_number_of_processes(
    before: tuple[int, int], after: tuple[int, int], tmp_path: Path, documents: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"id": f"s{i}", "text": f"streamed {i}"} for i in range(9)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    ids: list[str] = []
    for (processes, batch_size), steps in ((before, 4), (after, 100)):
        path = {"ckpt_path": tmp_path / "step=3.ckpt"} if ids else {}
        run = partial(seen_samples, tmp_path, documents, processes, batch_size, steps, **path)
        found = [run()] if processes == 1 else launch(processes, tmp_path / str(steps), run)
        ids += [name for own in found for batch in (own[:3] if steps == 4 else own) for name in batch]
    assert len(ids) == len(set(ids))
    assert len(ids) > 20 - after[0]
