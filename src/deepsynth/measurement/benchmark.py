"""Measure how fast backends train and generate: a table, and JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

from deepsynth.errors import UserError
from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting
from deepsynth.measurement.process import Backend, BackendProcesses, Measurement, measure_all, named_backends

#: Title, key, width and digits of a column, and what its figure is multiplied by.
Column = tuple[str, str, int, int, float]

_PLAIN = (
    "--model=PeftModule",
    "--model.engine.kernels=plain",
    "--model.engine.loss=plain",
    "--model.engine.activation_memory=full",
)


#: Options of the benchmarks that count something.
_COUNTS = ("batch_sizes", "text_tokens", "steps", "repeats", "new_tokens", "num_pages", "source_batch_size")


@dataclass(frozen=True, kw_only=True)
class Benchmark(ABC):
    """Measurements of several backends; a subclass says which.

    Attributes:
        model_name: what to measure; ``deepsynth/full-size-ocr`` and ``deepsynth/full-size-ocr-2`` need no download.
        weights: ``random`` weights cost the same as published ones.
        config: a fit configuration, instead of ``model_name`` and ``weights``.
        backends: fit configurations of one backend each; by default plain transformers, DeepSynth, and Unsloth where it
            is installed.
        repeats: how often to measure; the figures are medians.
        only: select cells by a part of their names: ``batch=8``, ``deepsynth``, ``train/batch=8/deepsynth``, …
        resume: continue with the results in ``output``.
        output: JSON file for the results, written after each cell.
        cell_limit_s: seconds that one cell may take, loading included.
    """

    model_name: str = "deepsynth/tiny-random"
    weights: Literal["random", "pretrained"] = "random"
    config: Path | None = None
    backends: Sequence[Path] = ()
    repeats: int = 3
    only: Sequence[str] = ()
    resume: bool = False
    output: Path | None = None
    cell_limit_s: float = 900.0

    #: Options of ``deepsynth fit`` by name: what is measured without ``backends``.
    BUILT_IN: ClassVar[dict[str, tuple[str, ...]]]
    COLUMNS: ClassVar[tuple[Column, ...]]
    #: Options that all cells have in common.
    SETTINGS: ClassVar[tuple[str, ...]]

    @abstractmethod
    def measurements(self) -> list[Measurement]:
        """Return what is measured of each backend."""

    def run(self, report: Callable[[str], None] = print) -> dict[str, Result]:
        """Measure, and return the figures by cell.

        Args:
            report: takes the table, a line at a time.

        Raises:
            UserError: for a name in ``only`` that selects no cell, earlier results of other settings, a count below 1,
                or when no cell could be measured.
        """
        for name in _COUNTS:
            value = getattr(self, name, 1)
            if min(value if isinstance(value, Sequence) else [value], default=1) < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1")
        model = str(self.config) if self.config else f"{self.model_name}, {self.weights} weights"
        settings: dict[str, Setting] = {"model": model, **{name: getattr(self, name) for name in self.SETTINGS}}
        report(format_head(self.COLUMNS))
        logs = self.output.parent / "logs" if self.output else None
        with BackendProcesses(self.cell_limit_s, logs) as processes:
            found = measure_all(
                processes,
                self.chosen_backends(),
                self.measurements(),
                only=self.only,
                resume=self.resume,
                output=self.output,
                settings=settings,
                report=lambda name, result: report(format_row(name, result, self.COLUMNS)),
            )
        if all(NOT_MEASURED in result for result in found.values()):
            raise UserError("nothing was measured; the lines above say why")
        return found

    def chosen_backends(self) -> list[Backend]:
        """Return the backends of the files, or the built-in ones.

        Raises:
            UserError: for two files of the same name.
        """
        if self.config is not None:
            shared: tuple[str, ...] = ("--config", str(self.config))
            model: tuple[str, ...] = ()
        else:
            shared = ("--data=TextImageDataModule", "--data.source=PythonDocsSource", "--data.source.task=transcribe")
            model = (f"--model.model_name={self.model_name}", f"--model.weights={self.weights}")
        if self.backends:
            return named_backends(shared, self.backends, model)
        # The model's class comes before its options, and a class that is chosen again keeps those that it has.
        return [
            Backend(name, (*shared, options[0], *model, *options[1:]))
            for name, options in self.BUILT_IN.items()
            if name != "unsloth" or find_spec("unsloth") is not None
        ]


@dataclass(frozen=True, kw_only=True)
class TrainBenchmark(Benchmark):
    """Measure samples/s, memory and utilization of training steps on synthetic pages.

    A sample is one page of the model's size and ``text_tokens`` of text. Batches are made on the device, so that no
    data loader is in the figures. Operations and MFU are those of :mod:`deepsynth.profiling.flops`; a CPU has
    no MFU.

    Attributes:
        backends: fit configurations of one backend each; by default transformers with experts in a loop and as grouped
            products, DeepSynth, and Unsloth where it is installed.
        batch_sizes: samples a step.
        text_tokens: of a sample.
        pages: ``new`` in every batch, or the same ``repeated``, which ``engine.vision_cache`` finds again.
        steps: of a repeat.
        warmup_steps: before the first repeat.
    """

    batch_sizes: Sequence[int] = (2, 8, 32)
    text_tokens: int = 768
    pages: Sequence[Literal["new", "repeated"]] = ("new",)
    steps: int = 10
    warmup_steps: int = 3

    BUILT_IN: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformers-eager": (*_PLAIN, "--model.engine.experts_implementation=eager"),
        "transformers": (*_PLAIN, "--model.engine.experts_implementation=grouped_mm"),
        "deepsynth": ("--model=PeftModule",),
        "unsloth": ("--model=UnslothModule",),
    }
    COLUMNS = (
        ("samples/s", "samples_per_s", 11, 2, 1),
        ("tokens/s", "tokens_per_s", 11, 0, 1),
        ("peak GiB", "peak_gib", 10, 2, 1),
        ("MFU %", "mfu", 8, 1, 100),
    )
    SETTINGS = ("text_tokens", "steps", "warmup_steps", "repeats")

    def measurements(self) -> list[Measurement]:
        """Return training with each batch size and kind of pages."""
        return [
            Measurement(
                f"train/batch={size}" + ("/repeated" if pages == "repeated" else ""),
                "train",
                {"batch_size": size, "pages": pages, **{name: getattr(self, name) for name in self.SETTINGS}},
            )
            for size in self.batch_sizes
            for pages in self.pages
        ]


@dataclass(frozen=True, kw_only=True)
class FitBenchmark(Benchmark):
    """Measure samples/s of training on documents through the loader, and on synthetic batches of the same lengths.

    The first figure has all that a user's run has: rendering, augmentation and the loader's processes. The second
    replays the lengths that the first recorded on batches that cost nothing; the quotient is the share of the engine's
    speed that reaches the user. Neither validates or writes checkpoints.

    Attributes:
        backends: fit configurations of one backend each; by default DeepSynth, and Unsloth where it is installed.
        documents: JSON lines with ``id`` and ``text``; by default Python's own documentation.
        preset: of the augmenter.
        num_workers: processes of the loader; by default as ``data.num_workers``.
        batch_sizes: samples a step.
        steps: of a repeat.
        warmup_steps: before the first repeat; they should meet all lengths, for which kernels are planned.
    """

    documents: Path | None = None
    preset: Literal["none", "scan", "photo", "fax", "hard"] = "none"
    num_workers: int | None = None
    batch_sizes: Sequence[int] = (8,)
    steps: int = 20
    warmup_steps: int = 20
    repeats: int = 5

    BUILT_IN: ClassVar[dict[str, tuple[str, ...]]] = {
        "deepsynth": ("--model=PeftModule",),
        "unsloth": ("--model=UnslothModule",),
    }
    COLUMNS = (
        ("samples/s", "samples_per_s", 11, 2, 1),
        ("replayed", "replayed_samples_per_s", 10, 2, 1),
        ("share %", "share", 9, 1, 100),
        ("wait %", "data_wait", 8, 1, 100),
        ("peak GiB", "peak_gib", 10, 2, 1),
        ("MFU %", "mfu", 8, 1, 100),
    )
    SETTINGS = ("preset", "num_workers", "steps", "warmup_steps", "repeats")

    def chosen_backends(self) -> list[Backend]:
        """Return the backends, with the documents and the augmenter; no document is held out."""
        args: tuple[str, ...] = ("--data.val_fraction=0", "--data.test_fraction=0")
        if self.documents is not None:
            args += ("--data.source=JsonlSource", f"--data.source.path={self.documents}")
        if self.preset != "none":
            args += ("--data.augmenter=PageAugmenter", f"--data.augmenter.preset={self.preset}")
        if self.num_workers is not None:
            args += (f"--data.num_workers={self.num_workers}",)
        return [replace(backend, args=(*backend.args, *args)) for backend in super().chosen_backends()]

    def measurements(self) -> list[Measurement]:
        """Return training with each batch size."""
        options = {name: getattr(self, name) for name in ("steps", "warmup_steps", "repeats")}
        return [Measurement(f"fit/batch={size}", "fit", {"batch_size": size, **options}) for size in self.batch_sizes]


@dataclass(frozen=True, kw_only=True)
class GenerateBenchmark(Benchmark):
    """Measure the time to the first token and of each further token, tokens/s, pages/s and memory.

    The cells ``generate/batch=…`` generate from synthetic pages of the model's size; ``source`` generates from rendered
    pages of the configuration's source, as ``deepsynth predict`` does.

    Attributes:
        backends: fit configurations of one backend each; by default the generation of transformers, of DeepSynth, and
            of Unsloth where it is installed.
        batch_sizes: pages at once.
        new_tokens: most that are generated for a page.
        num_pages: of the source, between a first and a last batch; 0 leaves the source out.
        source_batch_size: pages of the source at once.
    """

    batch_sizes: Sequence[int] = (1, 4, 16, 64)
    new_tokens: int = 128
    num_pages: int = 64
    source_batch_size: int = 16

    BUILT_IN: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformers": ("--model=PeftModule", "--model.generation.implementation=transformers"),
        "deepsynth": ("--model=PeftModule",),
        "unsloth": ("--model=UnslothModule",),
    }
    COLUMNS = (
        ("prefill ms", "prefill_ms", 12, 1, 1),
        ("ms/token", "ms_per_token", 10, 2, 1),
        ("tokens/s", "tokens_per_s", 10, 1, 1),
        ("pages/s", "pages_per_s", 9, 2, 1),
        ("peak GiB", "peak_gib", 10, 2, 1),
    )
    SETTINGS = ("new_tokens", "num_pages", "source_batch_size", "repeats")

    def measurements(self) -> list[Measurement]:
        """Return generation with each batch size, and from the source."""
        options = {"text_tokens": 1, "new_tokens": self.new_tokens, "repeats": self.repeats}
        found = [
            Measurement(f"generate/batch={size}", "generate", {"batch_size": size, **options})
            for size in self.batch_sizes
        ]
        if self.num_pages:
            options = {"batch_size": self.source_batch_size, "num_pages": self.num_pages, "new_tokens": self.new_tokens}
            found.append(Measurement("source", "source", options))
        return found


def format_head(columns: Sequence[Column]) -> str:
    """Return the first line of a table of cells."""
    return f"{'cell':<44}" + "".join(f"{title:>{width}}" for title, _, width, _, _ in columns)


def format_row(name: str, result: Result, columns: Sequence[Column]) -> str:
    """Return a cell's figures under the columns, or why there are none."""
    if NOT_MEASURED in result:
        return f"{name:<44}not measured: {result[NOT_MEASURED]}"
    peak = result.get("peak_allocated_gib", result.get("peak_rss_gib"))
    figures = {**result, **({} if peak is None else {"peak_gib": peak})}
    return f"{name:<44}" + "".join(
        f"{scale * float(figures[key]):>{width},.{digits}f}" if key in figures else " " * width
        for _, key, width, digits, scale in columns
    )
