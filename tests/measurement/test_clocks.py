"""What is made of the times of steps and texts, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.generation import Generation
from deepsynth.measurement import generation, harness, phases, real_run, training
from deepsynth.measurement.generation import measure_generation, measure_quality, measure_source
from deepsynth.measurement.harness import NotMeasured, spread
from deepsynth.measurement.phases import PhaseClock, measure_phases
from deepsynth.measurement.real_run import measure_fit
from deepsynth.measurement.training import (
    StepClock,
    measure_largest_batch,
    measure_longest_context,
    measure_training,
)
from tests.helpers.training import make_module


class Time:
    """The time, which passes when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def perf_counter(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    for module in (generation, phases, real_run, training, harness):
        monkeypatch.setattr(module, "time", clock)
    return clock


class Device:
    """A device that says when it is waited for."""

    def __init__(self) -> None:
        self.waited: list[str] = []
        self.device = torch.device("cpu")

    def synchronize(self) -> None:
        self.waited.append("device")

    def look_at_memory(self) -> None:
        self.waited.append("memory")


def test_a_figure_is_the_median_with_the_lowest_and_the_highest() -> None:
    assert spread("x", [3.0, 9.0, 1.0, 4.0]) == {"x": 3.5, "x_low": 1.0, "x_high": 9.0}


@pytest.mark.parametrize(
    ("warmup", "steps", "blocks", "waits"),
    [(0, 2, [3.0, 7.0], 3), (1, 2, [5.0], 2), (2, 1, [3.0, 4.0], 3), (1, 1, [2.0, 3.0, 4.0], 4), (4, 1, [], 1)],
)
def test_blocks_of_steps_are_timed_after_the_warm_up(
    warmup: int, steps: int, blocks: list[float], waits: int, clock: Time
) -> None:
    """Steps of 1, 2, 3 and 4 s."""
    device = Device()
    steps_clock: Any = StepClock(device, warmup, steps)  # type: ignore[arg-type]
    steps_clock.on_train_start(None, None)
    for seconds in (1, 2, 3, 4):
        clock.passes(seconds)
        steps_clock.on_before_optimizer_step(None, None, None)
        steps_clock.on_train_batch_end(None, None, {"loss": torch.tensor(float(seconds))}, None, 0)
    assert steps_clock.blocks_s == blocks
    assert [float(loss) for loss in steps_clock.losses] == [1.0, 2.0, 3.0, 4.0]
    assert device.waited.count("memory") == 4
    expected = waits if warmup else waits - 1  # without a warm-up the first mark is that of the start
    assert device.waited.count("device") == expected


PARTS = {"data": 1.0, "vision": 2.0, "decoder": 4.0, "backward": 8.0, "optimizer": 16.0}


def one_step(phase_clock: Any, clock: Time, tokens: int, factor: float = 1.0) -> None:
    """Pass a step whose phases take their parts of a time."""
    clock.passes(PARTS["data"] * factor)
    phase_clock.on_train_batch_start(None, None, None, 0)
    clock.passes(PARTS["decoder"] * factor / 2)
    tower = model.vision_tower
    with clock_in(tower, clock, PARTS["vision"] * factor):
        tower(torch.zeros(1, 1))
    clock.passes(PARTS["decoder"] * factor / 2)
    phase_clock.on_before_backward(None, None, None)
    clock.passes(PARTS["backward"] * factor / 2)
    with clock_in(tower, clock, PARTS["backward"] * factor / 2):
        tower(torch.zeros(1, 1))  # which the backward pass computes again
    phase_clock.on_after_backward(None, None)
    clock.passes(PARTS["optimizer"] * factor)
    batch = SimpleNamespace(tokens={"attention_mask": torch.ones(1, tokens)})
    phase_clock.on_train_batch_end(None, None, None, batch, 0)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = torch.nn.Linear(1, 1)
        self.vision_tower_of_another = torch.nn.Linear(1, 1)


model = Model()


class clock_in:
    """Have the forward pass of a module take some seconds."""

    def __init__(self, module: torch.nn.Module, clock: Time, seconds: float) -> None:
        self.hook = module.register_forward_pre_hook(lambda *args: clock.passes(seconds))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        self.hook.remove()


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_each_phase_of_a_step_has_its_own_time(warmup: int, clock: Time) -> None:
    device = Device()
    phase_clock: Any = PhaseClock(device, warmup)  # type: ignore[arg-type]
    hooks = phase_clock.watch(model)
    assert len(hooks) == 2
    phase_clock.on_train_epoch_start(None, None)
    for step in (1, 2, 3):
        one_step(phase_clock, clock, tokens=step, factor=float(step))
    for hook in hooks:
        hook.remove()
    counted = [1, 2, 3][warmup:]
    assert phase_clock.seconds == {name: [part * step for step in counted] for name, part in PARTS.items()}
    assert phase_clock.positions == counted


class Run:
    """A harness whose runs take given times."""

    def __init__(self, phase_clock_steps: int, clock: Time) -> None:
        self.module: Any = model
        self.data = SimpleNamespace(batch_size=1)
        self.steps, self.clock = phase_clock_steps, clock
        self.options: dict[str, Any] = {}
        self.released = 0

    def load(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        self.released += 1

    def trainer(self, callback: Any, **options: Any) -> Any:
        self.options = options
        return SimpleNamespace(fit=lambda module, datamodule: self.run(callback))

    def run(self, callback: Any) -> None:
        callback.on_train_epoch_start(None, None)
        for step in range(self.steps):
            one_step(callback, self.clock, tokens=10 * step, factor=float(step))


def test_the_figures_of_phases_are_medians_in_milliseconds(clock: Time) -> None:
    run: Any = Run(4, clock)
    found = measure_phases(run, batch_size=7, steps=3, warmup_steps=1)
    assert found == {
        **{f"{name}_ms": pytest.approx(2000 * part) for name, part in PARTS.items()},
        "step_ms": pytest.approx(2000 * sum(PARTS.values())),
        "positions": 20,
    }
    assert run.options == {"max_steps": 4, "limit_val_batches": 0}
    assert (run.data.batch_size, run.released) == (7, 1)
    calls = clock.now
    model.vision_tower(torch.zeros(1, 1))
    assert clock.now == calls, "the hooks are gone"
    with pytest.raises(NotMeasured, match="the data gave no step after 4 of warm-up"):
        measure_phases(Run(4, clock), batch_size=7, steps=3, warmup_steps=4)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- generation


class Texts:
    """A harness whose module takes 2 s to the first token of a batch and 0.5 s for each further one.

    Args:
        lengths: tokens of the texts of a batch, in place of as many as are asked for.
        slower: seconds that the first repeat takes longer.
    """

    def __init__(self, clock: Time, lengths: tuple[int, ...] | None = None, slower: float = 0.0) -> None:
        self.clock, self.lengths, self.slower = clock, lengths, slower
        self.asked: list[tuple[int, int]] = []
        self.module: Any = make_module()
        self.module.processor = SimpleNamespace(image_token_id=99)
        self.settings = self.module.generation
        self.module.generate = self.generate
        self.stops: list[Any] = []
        self.data = SimpleNamespace(holds_out_validation=True)

    def load(self) -> None:
        pass

    synchronize = look_at_memory = restart_peak = release = load

    def batches(self, batch_size: int, text_tokens: int) -> Any:
        assert text_tokens == 1
        return list(range(100))

    def peak(self) -> Any:
        return {"peak_rss_gib": 1.5}

    def generate(self, batch: int) -> list[Generation]:
        limit = self.module.generation.max_new_tokens
        assert not self.module.generation.stop_on_repetition
        assert not self.module.training
        self.stops.append(self.module.text_generator.stops)
        self.asked.append((batch, limit))
        lengths = [min(length, limit) for length in self.lengths or (limit, limit)]
        self.clock.passes(2.0 + 0.5 * (max(lengths) - 1) + (self.slower if batch in (2, 3) else 0.0))
        return [Generation("", length, "length", (1,) * length, (-1.0,) * length) for length in lengths]


def test_the_first_token_and_those_after_it_are_timed_apart(clock: Time) -> None:
    texts: Any = Texts(clock, slower=1.0)
    found = measure_generation(texts, batch_size=2, text_tokens=1, new_tokens=5, repeats=3)
    assert found == {
        "prefill_ms": 2000.0,
        "prefill_ms_low": 2000.0,
        "prefill_ms_high": 3000.0,
        "ms_per_token": 500.0,
        "ms_per_token_low": 500.0,
        "ms_per_token_high": 500.0,
        "tokens_per_s": 10 / 4,
        "tokens_per_s_low": 10 / 5,
        "tokens_per_s_high": 10 / 4,
        "tokens": 5,
        "peak_rss_gib": 1.5,
    }
    assert texts.asked == [(0, 1), (1, 5), (2, 1), (3, 5), (4, 1), (5, 5), (6, 1), (7, 5)], "a warm-up, then new pages"
    assert set(texts.stops) == {(99,)}
    assert texts.module.generation == texts.settings
    assert texts.module.text_generator.stops is None
    assert texts.module.training


def test_pages_that_end_early_count_with_what_they_have(clock: Time) -> None:
    found = measure_generation(Texts(clock, (2, 4)), batch_size=2, text_tokens=1, new_tokens=5, repeats=1)  # type: ignore[arg-type]
    assert found["tokens"] == 3
    assert found["ms_per_token"] == 500.0
    assert found["tokens_per_s"] == 6 / 3.5
    texts: Any = Texts(clock, (1, 1))
    with pytest.raises(NotMeasured, match=r"^every page ended after its first token \(new_tokens=5\)"):
        measure_generation(texts, batch_size=2, text_tokens=1, new_tokens=5, repeats=1)
    assert texts.module.generation == texts.settings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": "random"}, "model.weights is random"),
        ({"validation": False}, "there is no validation set: set data.val_fraction or data.val_source"),
        ({"samples": 0}, "model.generation.samples is 0"),
    ],
)
def test_quality_is_measured_where_there_is_some(change: Any, reason: str, clock: Time) -> None:
    texts: Any = Texts(clock)
    texts.module.weights = change.get("weights", "pretrained")
    texts.data.holds_out_validation = change.get("validation", True)
    texts.module.generation = SimpleNamespace(samples=change.get("samples", 1))
    with pytest.raises(NotMeasured, match=f"^{reason}"):
        measure_quality(texts, steps=1, batch_size=1)


def test_quality_is_what_was_logged_before_and_after(clock: Time) -> None:
    texts: Any = Texts(clock)
    logged = iter([{"cer": 0.5, "loss": 2.0, "loop_rate": 0.1}, {"cer": 0.25, "loss": 1.0, "wer": 0.5}])

    def validate(module: Any, datamodule: Any, verbose: bool) -> list[dict[str, float]]:
        assert verbose is False
        return [{f"val/{name}": value for name, value in next(logged).items()}]

    fitted: list[Any] = []

    def trainer(**options: Any) -> Any:
        def fit(module: Any, datamodule: Any) -> None:
            fitted.append((options, datamodule.batch_size))
            clock.passes(8.0)

        return SimpleNamespace(validate=validate, fit=fit)

    texts.trainer = trainer
    assert measure_quality(texts, steps=6, batch_size=3) == {
        "quality_steps": 6,
        "samples": 18,
        "fit_s": 8.0,
        "loss_before": 2.0,
        "loss_after": 1.0,
        "cer_before": 0.5,
        "cer_after": 0.25,
    }
    assert fitted == [({"max_steps": 6, "limit_val_batches": 0}, 3)]
    logged = iter([{"loss": 2.0}, {"loss": 1.0}])
    with pytest.raises(NotMeasured, match="the validation documents have no known text"):
        measure_quality(texts, steps=6, batch_size=3)


# ---------------------------------------------------------------------- runs


class Counted:
    """Operations that are easily counted: 10 for a token, 5 for a page."""

    window = None

    def __init__(self, model: Any) -> None:
        pass

    @classmethod
    def of_module(cls, module: Any) -> Any:
        return cls(module.model) if module.model.is_counted else None

    @staticmethod
    def amounts(tokens: dict[str, torch.Tensor], window: int | None) -> torch.Tensor:
        return tokens["attention_mask"].sum()[None]

    def of_text(self, amounts: torch.Tensor) -> float:
        return 10 * float(amounts.sum())

    def of_images(self, images: dict[str, torch.Tensor]) -> int:
        return 5 * len(images["pixel_values"])


class Samples:
    """A batch of samples of these lengths, with a page each, and maybe tiles."""

    def __init__(self, lengths: list[int], tiles: int = 0) -> None:
        self.lengths = lengths
        mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        self.tokens = {"attention_mask": mask}
        self.images = {"pixel_values": torch.zeros(len(lengths), 1), "pixel_values_local": torch.zeros(tiles, 1)}
        self.inputs = {**self.tokens, **self.images}

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Work:
    """Synthetic batches."""

    sample: Any = field(default_factory=partial(SimpleNamespace, prompt_length=3))
    positions: int = 9
    pages: str = "new"
    replayed: Any = ()
    pad_to_multiple_of: int = 1

    def take(self, count: int) -> Any:
        return self, count

    def __getitem__(self, index: int) -> Samples:
        return Samples([7, 5])


#: Of the steps of a run: lengths of the samples, seconds, and how many of them the step waited for its batch.
STEPS = [([5, 7], 4.0, 1.0), ([4, 9], 1.0, 0.5), ([6], 2.0, 0.25), ([8, 8], 3.0, 0.25), ([5, 10], 5.0, 0.5)]


class Runs:
    """A harness whose runs on documents take ``STEPS``, and those on synthetic batches half a second a step."""

    def __init__(self, clock: Time, loss: float = 2.0, tiles: int = 0, is_counted: bool = True) -> None:
        self.clock, self.loss, self.tiles = clock, loss, tiles
        workers = SimpleNamespace(count=2)
        self.data = SimpleNamespace(packing=False, batch_size=1, pad_to_multiple_of=4, workers=workers)
        model = SimpleNamespace(is_counted=is_counted)
        self.module = SimpleNamespace(model=model, resolved_dtype=torch.float32, engine=make_module().engine)
        self.device = torch.device("cpu")
        self.options: list[dict[str, Any]] = []
        self.works: list[tuple[Work, int]] = []
        self.sizes: list[int] = []
        self.released = 0

    def load(self) -> None:
        pass

    synchronize = look_at_memory = restart_peak = load

    def release(self) -> None:
        self.released += 1

    def peak(self) -> dict[str, float]:
        return {"peak_rss_gib": 1.5}

    def batches(self, batch_size: int, text_tokens: int, pages: str = "new") -> Work:
        return Work(pages=pages)

    def trainer(self, callback: Any, **options: Any) -> Any:
        self.options.append(options)
        return SimpleNamespace(fit=partial(self.fit, callback))

    def fit(self, callback: Any, module: Any, work: tuple[Work, int] | None = None, datamodule: Any = None) -> None:
        trainer = SimpleNamespace(train_dataloader=SimpleNamespace(waited_s=0.0))
        if work is not None:
            self.works.append(work)
        else:
            self.sizes.append(datamodule.batch_size)
        steps = STEPS if work is None else [([4], 0.5, 0.0)] * work[1]
        self.clock.passes(2.0)
        callback.on_train_start(trainer, None)
        for number, (lengths, seconds, waited) in enumerate(steps):
            self.clock.passes(seconds)
            trainer.train_dataloader.waited_s += waited
            callback.on_train_batch_start(trainer, None, None, number)
            loss = {"loss": torch.tensor(self.loss - number)}
            callback.on_train_batch_end(trainer, None, loss, Samples(lengths, self.tiles), number)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (real_run, training):
        monkeypatch.setattr(module, "TrainingFlops", Counted)
        monkeypatch.setattr(module, "device_peak", lambda device, dtype: 100.0)


@pytest.mark.usefixtures("counted")
def test_a_run_on_documents_is_set_beside_its_replay(clock: Time) -> None:
    runs: Any = Runs(clock)
    found = measure_fit(runs, batch_size=2, steps=2, warmup_steps=1, repeats=2)
    tokens, pages = 13 + 6 + 16 + 15, 7  # after the warm-up
    assert found == {
        "samples_per_s": pytest.approx((3 / 3 + 4 / 8) / 2),
        "samples_per_s_low": 0.5,
        "samples_per_s_high": 1.0,
        "replayed_samples_per_s": 3.5,
        "replayed_samples_per_s_low": 3.0,
        "replayed_samples_per_s_high": 4.0,
        "share": pytest.approx(0.75 / 3.5),
        "data_wait": pytest.approx(1.5 / 11),
        "start_s": 6.0,
        "positions": 7,
        "peak_rss_gib": 1.5,
        "mfu": pytest.approx((10 * tokens + 5 * pages) / 11 / 100),
        "num_workers": 2,
        "steps": 4,
        "loss_first": 2.0,
        "loss_last": -2.0,
    }
    assert runs.options[0] == {"max_steps": 5, "max_epochs": -1, "limit_val_batches": 0}
    assert (runs.sizes, runs.data.batch_size, runs.released) == ([2], 1, 2)
    ((work, steps),) = runs.works
    assert work.replayed == [[length - 3 for length in lengths] for lengths, _, _ in STEPS]
    assert (work.pad_to_multiple_of, steps) == (4, 5)
    plain = measure_fit(Runs(clock, is_counted=False), batch_size=2, steps=2, warmup_steps=1, repeats=2)  # type: ignore[arg-type]
    assert "mfu" not in plain


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"loss": float("nan")}, "the loss is no number in a step on documents"),
        ({"tiles": 1}, "a sample is not one page without tiles"),
    ],
)
def test_runs_without_a_figure_say_why(settings: dict[str, Any], reason: str, clock: Time) -> None:
    runs: Any = Runs(clock, is_counted=False, **settings)
    with pytest.raises(NotMeasured, match=f"^{reason}"):
        measure_fit(runs, batch_size=2, steps=2, warmup_steps=1, repeats=2)
    assert runs.data.batch_size == 1


@pytest.mark.usefixtures("counted")
def test_training_on_synthetic_batches_has_its_rate_and_its_utilization(clock: Time) -> None:
    runs: Any = Runs(clock)
    found = measure_training(runs, batch_size=2, text_tokens=6, steps=3, warmup_steps=1, repeats=2)
    of_a_sample = (10 * 12 + 5 * 2) / 2
    assert found == {
        **dict.fromkeys(("samples_per_s", "samples_per_s_low", "samples_per_s_high"), 4.0),
        **dict.fromkeys(("tokens_per_s", "tokens_per_s_low", "tokens_per_s_high"), 36.0),
        "peak_rss_gib": 1.5,
        "tflop_per_sample": of_a_sample / 1e12,
        "mfu": 4.0 * of_a_sample / 100,
        "positions": 9,
        "steps": 6,
        "loss_first": 2.0,
        "loss_last": -4.0,
    }
    assert runs.options == [{"max_steps": 7, "max_epochs": 1}]
    assert [steps for _, steps in runs.works] == [7]
    runs.module.engine = make_module(vision_cache="memory").engine
    cached = measure_training(runs, batch_size=2, text_tokens=6, steps=3, warmup_steps=1, repeats=2, pages="repeated")
    assert cached["tflop_per_sample"] == 60 / 1e12


@pytest.mark.parametrize(("batches", "wanted"), [([2.0, 3.0, 4.0, 9.0], 4), ([2.0, 3.0, 9.0], 2)])
def test_the_rate_of_a_source_is_that_between_its_ends(batches: list[float], wanted: int, clock: Time) -> None:
    module = make_module()
    before = module.generation
    runs: Any = Runs(clock)
    runs.module, runs.data = module, SimpleNamespace(eval_batch_size=1)

    def predict(callback: Any, own: Any, datamodule: Any, return_predictions: bool) -> None:
        assert (own, return_predictions, datamodule.eval_batch_size) == (module, False, 2)
        assert (module.generation.max_new_tokens, module.generation.stop_on_repetition) == (5, False)
        callback.on_predict_start(None, None)
        for number, seconds in enumerate(batches):
            clock.passes(seconds)
            callback.on_predict_batch_end(None, None, [{"tokens": 3}, {"tokens": 4 + number}], None, number)

    def trainer(callback: Any, **options: Any) -> Any:
        runs.options.append(options)
        return SimpleNamespace(predict=partial(predict, callback))

    runs.trainer = trainer
    found = measure_source(runs, batch_size=2, num_pages=wanted - 1, new_tokens=5)
    seconds = sum(batches[1:-1])
    tokens = sum(7 + number for number in range(1, len(batches) - 1))
    assert found == {
        "pages_per_s": wanted / seconds,
        "tokens_per_s": tokens / seconds,
        "pages": wanted,
        "start_s": 2.0,
        "peak_rss_gib": 1.5,
    }
    assert runs.options == [{"limit_predict_batches": len(batches)}]
    assert (runs.data.eval_batch_size, module.generation, runs.released) == (1, before, 1)


# ---------------------------------------------------------------------- what fits


class Gpu:
    """A harness on a GPU of 80 GiB with room for so many text tokens of a batch."""

    def __init__(self, room: int, activation_memory: str = "auto") -> None:
        self.device = SimpleNamespace(type="cuda")
        self.module: Any = SimpleNamespace(engine=make_module(activation_memory=activation_memory).engine)
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=8192))
        self.room = room
        self.released = 0

    def load(self) -> None:
        pass

    def release(self) -> None:
        self.released += 1

    def batches(self, batch_size: int, text_tokens: int) -> Any:
        return SimpleNamespace(size=batch_size * text_tokens, positions=100 + text_tokens)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The limits that were set."""
    limits: list[Any] = []
    total = SimpleNamespace(total_memory=80 * training.GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: limits.append(share))

    def fit(harness: Any, callback: Any, work: Any, steps: int) -> None:
        assert steps == 2
        if work.size == 13:
            raise RuntimeError("a bug")
        if work.size > harness.room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "fit", fit)
    return limits


@pytest.mark.parametrize(
    ("room", "limit", "found", "too_large"),
    [
        (1000, 512, 100, 104),
        (10, 512, 1, 2),
        (9, 512, 0, 1),
        (10**6, 512, 512, "none tried"),
        (10**6, 8, 8, "none tried"),
    ],
)
def test_the_largest_batch_is_found_to_within_a_sixteenth(
    room: int, limit: int, found: int, too_large: Any, gpu: list[Any]
) -> None:
    harness: Any = Gpu(room)
    result = measure_largest_batch(harness, text_tokens=10, memory_gib=20.0, limit=limit)
    assert result["memory_gib"] == 20.0
    assert gpu == [0.25]
    assert harness.module.engine.memory_budget_gib == 18.0
    if isinstance(too_large, str):
        assert (result["largest_batch"], result["too_large"]) == (found, too_large)
    else:
        good, bad = int(result["largest_batch"]), int(result["too_large"])
        assert 10 * good <= room < 10 * bad
        assert bad - good <= max(1, good / 16)
    assert harness.released > 0


@pytest.mark.parametrize(
    ("room", "context", "too_long"),
    [(10**6, 8192, "none: all of the model's positions fit"), (511, None, None), (0, 0, 101)],
)
def test_the_longest_context_counts_the_page_too(room: int, context: Any, too_long: Any, gpu: list[Any]) -> None:
    harness: Any = Gpu(room, "full")
    result = measure_longest_context(harness, memory_gib=None)
    assert result["memory_gib"] == 80.0
    assert gpu == [1.0]
    assert harness.module.engine.memory_budget_gib is None, "there is no plan to tell"
    if context is None:
        good, bad = int(result["longest_context"]), int(result["too_long"])
        assert good - 100 <= room < bad - 100
        assert bad - good <= (good - 100) / 16 + 1
    else:
        assert (result["longest_context"], result["too_long"]) == (context, too_long)


def test_more_memory_than_there_is_is_all_of_it(gpu: list[Any]) -> None:
    assert measure_largest_batch(Gpu(99), text_tokens=1, memory_gib=200.0)["memory_gib"] == 80.0  # type: ignore[arg-type]
    assert gpu == [1.0]


def test_another_error_is_no_lack_of_memory(gpu: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        measure_largest_batch(Gpu(10**6), text_tokens=13, memory_gib=1.0)  # type: ignore[arg-type]
