"""Measure backends side by side on the same work, and write a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.io.text import counted
from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting, environment
from deepsynth.measurement.process import BackendProcesses, Measurement, measure_all, named_backends
from deepsynth.measurement.report import html_page, markdown
from deepsynth.measurement.tables import Comparison


@dataclass(frozen=True, kw_only=True)
class CompareBackends:
    """Measure fit configurations side by side and write results.json, report.md and report.html.

    Every backend runs in separate processes. What cannot be measured (no GPU, a package that is missing, memory that
    runs out) is recorded with its reason, and the rest continues.

    Attributes:
        config: fit configurations of model and data, the same for all; later ones win.
        backends: fit configurations of one backend each, laid over ``config``; their file names are their names.
        output: folder for results.json, the reports and logs/.
        baseline: name of the backend that ratios are to; by default the first.
        batch_sizes: of training.
        generate_batch_sizes: of generation.
        text_tokens: of a synthetic sample, beside one page of the model's size.
        new_tokens: that are generated for a page.
        steps: of a repeat.
        warmup_steps: before the first repeat.
        repeats: how often to measure; the figures are medians.
        quality_steps: of fine-tuning on the configuration's data between two validations; 0 leaves that out.
        memory_gib: for the searches for the largest batch and the longest context; by default the whole GPU.
        price_per_gpu_hour: in any currency, for the cost of 50,000 samples.
        only: select cells by a part of their names: ``train``, ``train/batch=8``, the name of a backend, …
        resume: continue with the results in ``output``.
        cell_limit_s: seconds that one cell may take, loading included.
    """

    config: Sequence[Path]
    backends: Sequence[Path]
    output: Path
    baseline: str | None = None
    batch_sizes: Sequence[int] = (2, 8)
    generate_batch_sizes: Sequence[int] = (1, 16)
    text_tokens: int = 768
    new_tokens: int = 128
    steps: int = 10
    warmup_steps: int = 3
    repeats: int = 3
    quality_steps: int = 100
    memory_gib: float | None = None
    price_per_gpu_hour: float | None = None
    only: Sequence[str] = ()
    resume: bool = False
    cell_limit_s: float = 900.0

    def run(self, report: Callable[[str], None] = print) -> dict[str, Result]:
        """Measure, write the report, and return the results by cell.

        Args:
            report: takes a line for each cell.

        Raises:
            UserError: for backends of the same name, a baseline that is none of them, numbers out of range, or earlier
                results of other files, settings or another machine.
        """
        self._check()
        shared = [word for file in self.config for word in ("--config", str(file))]
        backends = named_backends(shared, self.backends)
        settings = self._settings()
        file = self.output / "results.json"
        with BackendProcesses(self.cell_limit_s, self.output / "logs") as processes:
            results = measure_all(
                processes,
                backends,
                self.measurements(),
                only=self.only,
                resume=self.resume,
                output=file,
                settings=settings,
                report=lambda name, result: report(one_line(name, result)),
            )
        names = [backend.name for backend in backends]
        comparison = Comparison(
            results={**results, **loaded(results)},
            backends=list(dict.fromkeys([*names, *(cell.rpartition("/")[2] for cell in results)])),
            baseline=self.baseline or names[0],
            environment=json.loads(file.read_text("utf-8"))["environment"] if file.exists() else environment(),
            settings=settings,
            price_per_gpu_hour=self.price_per_gpu_hour,
        )
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "report.md").write_text(markdown(comparison), encoding="utf-8")
        (self.output / "report.html").write_text(html_page(comparison), encoding="utf-8")
        report(f"{counted(len(results), 'cell')} in {file}; {self.output / 'report.html'}")
        return results

    def measurements(self) -> list[Measurement]:
        """Return what is measured of each backend, in an order that lets one process do it all.

        Quality comes before what trains on synthetic pages, and the searches, which limit the memory, come last.
        """
        work = {"text_tokens": self.text_tokens, "repeats": self.repeats}
        step = {"steps": self.steps, "warmup_steps": self.warmup_steps}
        memory = {"memory_gib": self.memory_gib}
        found = [Measurement("load", "load")]

        def add(measure: str, sizes: Sequence[int], **options: Any) -> None:
            found.extend(Measurement(f"{measure}/batch={n}", measure, {"batch_size": n, **options}) for n in sizes)

        add("generate", self.generate_batch_sizes, new_tokens=self.new_tokens, **work)
        if self.quality_steps:
            options = {"steps": self.quality_steps, "batch_size": self.batch_sizes[0]}
            found.append(Measurement("quality", "quality", options))
        add("train", self.batch_sizes, **work, **step)
        add("phases", self.batch_sizes, **step)
        found.append(Measurement("largest_batch", "largest_batch", {"text_tokens": self.text_tokens, **memory}))
        found.append(Measurement("longest_context", "longest_context", memory))
        return found

    def _check(self) -> None:
        for name in ("steps", "repeats", "text_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if not self.backends:
            raise UserError("backends is empty; it must name at least one fit configuration")
        names = [file.stem for file in self.backends]
        if self.baseline is not None and self.baseline not in names:
            raise UserError(f"baseline is {self.baseline!r}; it must be one of {', '.join(names)}")

    def _settings(self) -> dict[str, Setting]:
        """Return what all cells have in common: results that differ in it are not mixed."""
        names = ("text_tokens", "new_tokens", "steps", "warmup_steps", "repeats", "quality_steps", "memory_gib")
        return {
            "config": digest(*self.config),
            **{f"backend/{file.stem}": digest(file) for file in self.backends},
            **{name: getattr(self, name) for name in names},
        }


def loaded(results: dict[str, Result]) -> dict[str, Result]:
    """Return the cells ``load`` of backends of which any cell was measured: every cell has the figures of loading."""
    return {f"load/{name.rpartition('/')[2]}": result for name, result in results.items() if "module" in result}


def digest(*files: Path) -> str:
    """Return a short fingerprint of files: results of another content are not mixed in.

    Raises:
        UserError: when one cannot be read.
    """
    content = hashlib.sha256()
    for file in files:
        try:
            content.update(file.read_bytes())
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
    return content.hexdigest()[:12]


#: What a line says of a cell, in this order, with the digits after the point.
HEADLINES = {
    "samples_per_s": 2,
    "peak_allocated_gib": 2,
    "peak_rss_gib": 2,
    "mfu": 3,
    "load_s": 1,
    "weights_gib": 2,
    "step_ms": 1,
    "prefill_ms": 1,
    "ms_per_token": 2,
    "tokens_per_s": 1,
    "pages_per_s": 2,
    "start_s": 1,
    "largest_batch": 0,
    "longest_context": 0,
    "cer_before": 4,
    "cer_after": 4,
}


def one_line(name: str, result: Result) -> str:
    """Return a cell's main figures, or why there are none."""
    if NOT_MEASURED in result:
        return f"{name:<34}not measured: {result[NOT_MEASURED]}"
    found = [f"{key} {float(result[key]):,.{digits}f}" for key, digits in HEADLINES.items() if key in result]
    return f"{name:<34}{', '.join(found)}"
