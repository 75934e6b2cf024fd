"""What a run chooses where its settings leave it open, by the machine, the batch and the memory of a step."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth import PeftModule
from deepsynth.models.engine.feature_cache import GIB, DiskCache, MemoryCache
from deepsynth.modules import training_engine
from deepsynth.modules.training_engine import TrainingEngine
from tests.helpers.training import grouped, make_module
from tests.modules.test_text_generator import make_batch


class Paths:
    """What is installed in a model, with a layer that keeps what it is told to."""

    def __init__(self) -> None:
        self.layers = ["layer"]
        self.rows = [SimpleNamespace()]
        self.compiled: list[Any] = []

    def compile(self, parts: str, options: Any = None) -> None:
        self.compiled.append((parts, options or {}))


class Run:
    """An engine whose model has one layer, and steps whose peak goes by what that keeps.

    Args:
        patch: for what the engine calls.
        settings: of the module.
        device: that the model is said to be on.
        cache: of features.
        facts: ``quantization``, and whether the family ``compiles``.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, settings: Any, device: str = "cpu", cache: Any = None, **facts: Any
    ) -> None:
        self.logged: list[Any] = []
        self.kept: list[str] = []
        self.paths = Paths()
        self.forward = SimpleNamespace(cache=cache, fixed_chunks=None, cuda_graphs=None, vision_has_one_shape=True)
        patch.setattr(training_engine, "install_training_paths", lambda model, **settings: self.paths)
        patch.setattr(training_engine, "TrainingForward", lambda model, **settings: self.forward)
        patch.setattr(training_engine, "describe", lambda rows: "fast paths")
        patch.setattr(training_engine, "keep", lambda layers, level: self.kept.append(level))
        patch.setattr(training_engine, "peak_bytes", lambda step, device: PEAKS[self.kept[-1]] * GIB)
        trainer = SimpleNamespace(
            estimated_stepping_batches=600,
            accumulate_grad_batches=2,
            optimizers=[SimpleNamespace(state=facts.get("state", {"moments": 2}))],
            strategy=SimpleNamespace(reduce=lambda value, reduce_op: value if reduce_op == "max" else None),
        )
        module = SimpleNamespace(
            engine=PeftModule(**grouped(**settings)).engine,
            device=torch.device(device),
            quantization=facts.get("quantization", "none"),
            family=SimpleNamespace(supports=lambda feature: facts.get("compiles", True)),
            trainer=trainer,
            parameters=lambda: [torch.nn.Parameter(torch.zeros(GIB // 16, device="meta"))],  # 1/4 GiB
            log=lambda name, value, **options: self.logged.append((name, value, options)),
        )
        self.engine = TrainingEngine(module)  # type: ignore[arg-type]
        self.engine.build_forward(SimpleNamespace())

    def start(self, batch: Any = None) -> None:
        self.engine.start_batch(batch or batch_of())


def batch_of(length: int = 128, **inputs: Any) -> Any:
    return make_batch(tokens={"input_ids": torch.zeros(2, length), "labels": torch.zeros(2, length), **inputs})


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_engine, "missing_compiler", lambda: "")
    monkeypatch.setattr(training_engine, "is_sharded", lambda module: False)


#: GiB of a step.
PEAKS = {"none": 12.0, "selective": 8.5, "full": 4.0, "offload": 2.0}


@pytest.mark.parametrize(
    ("settings", "tried", "within"),
    [
        ({}, [], True),  # a computer's memory has no budget
        ({"memory_budget_gib": 12.0}, ["none"], True),
        ({"memory_budget_gib": 9.0}, ["none", "selective"], True),
        ({"memory_budget_gib": 8.0}, ["none", "selective", "full"], True),
        ({"memory_budget_gib": 3.9}, ["none", "selective", "full", "offload"], True),
        ({"memory_budget_gib": 1.0}, ["none", "selective", "full", "offload"], False),
        ({"memory_budget_gib": 9.0, "compile": "decoder"}, ["none", "full"], True),
        ({"memory_budget_gib": 9.0, "compile": "all"}, ["none", "full"], True),
        ({"memory_budget_gib": 9.0, "compile": "vision"}, ["none", "selective"], True),
    ],
)
def test_layers_keep_what_the_memory_has_room_for(
    settings: Any, tried: list[str], within: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(monkeypatch, settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.start()
    assert run.kept == tried
    lines = [str(warning.message) for warning in told] if not within else [r.getMessage() for r in caplog.records]
    said = [line for line in lines if line.startswith("activation_memory")]
    assert len(said) == bool(tried)
    if tried:
        figures = ", ".join(f"{level} {PEAKS[level]:.2f}" for level in tried)
        budget = f"budget {settings['memory_budget_gib']:.2f}"
        assert said[0].startswith(f"activation_memory: {tried[-1]}; GiB of one step: {figures}; {budget}")
        assert ("use a smaller data.batch_size" in said[0]) != within
    run.start()
    assert run.kept == tried, "chosen once for a run"
    run.engine.start_fit()
    run.start()
    assert run.kept == tried * 2, "and again for the next, whose batches may be larger"


@pytest.mark.parametrize(("state", "tried"), [({"moments": 2}, ["none"]), ({}, ["none", "selective"])])
def test_room_is_left_for_the_moments_that_the_optimizer_does_not_have_yet(
    state: Any, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two moments of a quarter of a GiB."""
    run = Run(monkeypatch, {"memory_budget_gib": 12.4}, state=state)
    run.start()
    assert run.kept == tried
    run = Run(monkeypatch, {"memory_budget_gib": 12.5}, state=state)
    run.start()
    assert run.kept == ["none"]


def test_a_level_that_is_set_is_kept_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, {"activation_memory": "offload"})
    assert run.kept == ["offload"]
    run.start()
    assert run.kept == ["offload"]
    assert run.engine.layers == ["layer"]


def test_sharded_weights_are_tried_with_nothing(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(training_engine, "is_sharded", lambda module: True)
    run = Run(monkeypatch, {"memory_budget_gib": 99.0})
    run.start()
    assert run.kept == ["full"]
    assert "activation_memory: full, as weights are sharded" in caplog.text


PACKED = {"position_ids": torch.zeros(1, 128)}


@pytest.mark.parametrize(
    ("settings", "facts", "inputs", "reason"),
    [
        ({}, {"device": "cpu"}, {}, "the model is on cpu"),
        ({"kernels": "plain"}, {"device": "cuda"}, {}, "model.engine.kernels or model.engine.loss is plain"),
        ({"loss": "plain"}, {"device": "cuda"}, {}, "model.engine.kernels or model.engine.loss is plain"),
        ({}, {"device": "cuda", "quantization": "nf4"}, {}, "weights are in nf4"),
        ({}, {"device": "cuda"}, PACKED, "rows are packed"),
    ],
)
def test_what_speaks_against_compilation_is_the_reason(
    settings: Any, facts: Any, inputs: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(monkeypatch, {"activation_memory": "none", **settings}, **facts)
    run.start(batch_of(**inputs))
    assert run.paths.compiled == [("none", {})]
    told = [r.getMessage() for r in caplog.records if "compiled" in r.getMessage()]
    assert told == [f"compiled layers: none ({reason})"]


@pytest.mark.parametrize(
    ("settings", "length", "parts", "graphs"),
    [
        ({}, 128, "all", True),
        ({}, 100, "all", False),
        ({"cuda_graphs": False}, 128, "all", False),
        ({"cuda_graphs": True}, 100, "all", True),
        ({"activation_memory": "full"}, 100, "vision", True),
    ],
)
def test_a_long_run_on_a_gpu_compiles_and_records_what_it_can(
    settings: Any, length: int, parts: str, graphs: bool, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The run has 600 steps of two batches."""
    caplog.set_level(logging.INFO)
    run = Run(monkeypatch, {"activation_memory": "none", **settings}, "cuda")
    run.start(batch_of(length))
    assert run.paths.compiled == [(parts, {"mode": "reduce-overhead"} if graphs else {})]
    assert run.forward.cuda_graphs is graphs
    assert run.forward.fixed_chunks is True
    recorded = ", as CUDA graphs" if graphs else ""
    assert f"compiled layers: {parts}{recorded} (the run has 1,200 batches" in caplog.text


@pytest.mark.parametrize(
    ("settings", "cache", "fixed", "graphs"),
    [
        ({"compile": "decoder"}, None, False, False),
        ({"compile": "decoder"}, "a cache", True, False),
        ({"compile": "vision"}, None, True, False),
        ({"compile": "all", "cuda_graphs": True}, None, True, True),
        ({"compile": "none"}, None, False, False),
    ],
)
def test_what_is_set_is_compiled_from_the_start_and_left_alone(
    settings: Any, cache: Any, fixed: bool, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are encoded in chunks of one size where that is seen: by compiled vision, or in a cache."""
    run = Run(monkeypatch, {"activation_memory": "none", **settings}, "cuda", cache)
    run.start()
    assert run.paths.compiled == [(settings["compile"], {"mode": "reduce-overhead"} if graphs else {})]
    assert (run.forward.fixed_chunks, run.forward.cuda_graphs) == (fixed, graphs)


def test_nothing_is_chosen_for_a_family_that_is_not_compiled_or_a_backend_that_does_it_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, {"activation_memory": "none"}, "cuda", compiles=False)
    run.start()
    assert run.paths.compiled == []
    run = Run(monkeypatch, {"memory_budget_gib": 99.0})
    run.engine.leave_to_backend()
    run.start()
    assert (run.kept, run.paths.compiled) == ([], [])


def test_hits_of_the_cache_are_logged_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SimpleNamespace(hits=3, lookups=4)
    run = Run(monkeypatch, {}, cache=cache)
    run.engine.log_cache_hits(make_batch())
    assert run.logged == [("train/vision_cache_hits", 0.75, {"batch_size": 2})]
    assert (cache.hits, cache.lookups) == (0, 0)
    run.engine.log_cache_hits(make_batch())
    assert len(run.logged) == 1
    without = Run(monkeypatch, {})
    without.engine.log_cache_hits(make_batch())
    assert without.logged == []


@pytest.mark.parametrize(
    ("kind", "expected"), [("none", None), ("memory", MemoryCache), ("disk", DiskCache), ("{}/own", DiskCache)]
)
def test_features_are_cached_where_the_setting_says(
    kind: str, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_engine, "DEFAULT_FOLDER", tmp_path / "default")
    made: list[Any] = []
    for kind_of_cache in (MemoryCache, DiskCache):

        def make(*arguments: Any, of: Any = kind_of_cache) -> Any:
            made.append(arguments)
            return of(*arguments)

        monkeypatch.setattr(training_engine, kind_of_cache.__name__, make)
    module = make_module(vision_cache=kind.format(tmp_path), vision_cache_gib=0.5)
    module.configure_model()
    cache: Any = module.training_forward and module.training_forward.cache
    assert cache is None if expected is None else isinstance(cache, expected)
    if expected is MemoryCache:
        assert made == [(GIB // 2,)]
    if expected is DiskCache:
        ((folder, context, limit, ranks),) = made
        assert folder == tmp_path / ("default" if kind == "disk" else "own")
        assert context
        assert (limit, ranks) == (GIB // 2, 1)
