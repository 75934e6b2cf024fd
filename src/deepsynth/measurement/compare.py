"""Measure backends side by side on the same work, and write what came out as a page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from deepsynth.measurement.cells import NOT_MEASURED, Result, Setting, environment
from deepsynth.measurement.checklist import checklist
from deepsynth.measurement.process import Backend, Question, measure_all
from deepsynth.measurement.report import html_page, markdown
from deepsynth.measurement.tables import Comparison


def compare(
    config: Sequence[Path],
    backends: Sequence[Path],
    output: Path,
    baseline: str | None = None,
    batch_sizes: Sequence[int] = (2, 8),
    generate_batch_sizes: Sequence[int] = (1, 16),
    text_tokens: int = 768,
    new_tokens: int = 128,
    steps: int = 10,
    warmup_steps: int = 3,
    repeats: int = 3,
    quality_steps: int = 100,
    memory_gib: float | None = None,
    price_per_gpu_hour: float | None = None,
    junit_xml: Path | None = None,
    onboarding_s: float | None = None,
    only: Sequence[str] = (),
    resume: bool = False,
    cell_limit_s: float = 900.0,
    time_budget_s: float | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Result]:
    """Measure fit configurations side by side and write results.json, report.md and report.html.

    Every backend runs in processes of its own. What cannot be measured (no GPU, a package that is missing, memory that
    runs out) is recorded with its reason, and the rest goes on.

    Args:
        config: fit configurations of model and data, the same for all; later ones win.
        backends: fit configurations of one backend each, laid over ``config``; their file names are their names.
        output: folder for results.json, the reports and logs/.
        baseline: name of the backend that ratios are to; by default the first.
        batch_sizes: of training.
        generate_batch_sizes: of reading.
        text_tokens: of a synthetic sample, beside one page of the model's size.
        new_tokens: that are written for a page when reading is measured.
        steps: of a repeat.
        warmup_steps: before the first repeat.
        repeats: the figures are medians over them.
        quality_steps: of fine-tuning on the configuration's data between two validations; 0 leaves that out.
        memory_gib: for the searches for the largest batch and the longest context; by default the whole GPU.
        price_per_gpu_hour: in any currency, for the cost of 50,000 samples.
        junit_xml: what ``pytest --junitxml=FILE`` wrote, for the checklist.
        onboarding_s: seconds that ``make quickstart`` took in a fresh checkout, for the checklist.
        only: the cells whose name holds one of these: ``train``, ``train/batch=8``, the name of a backend, …
        resume: go on with the results in ``output``.
        cell_limit_s: seconds that one cell may take, loading included.
        time_budget_s: begin no cell that could end later than this after the start; ``resume`` goes on.
        report: takes a line for each cell.

    Returns:
        The results by cell.

    Raises:
        ValueError: for backends of the same name, a baseline that is none of them, numbers out of range, or earlier
            results of other files, settings or another machine.
    """
    for name, value in (("steps", steps), ("repeats", repeats), ("text_tokens", text_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if onboarding_s is not None and onboarding_s <= 0:
        raise ValueError(f"onboarding_s is {onboarding_s}; it must be above 0")
    names = [file.stem for file in backends]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"backends are named {', '.join(names) or 'nothing'}; each file needs a name of its own")
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline is {baseline!r}; the backends are {', '.join(names)}")
    made = [
        Backend(name, tuple(word for each in (*config, file) for word in ("--config", str(each))))
        for name, file in zip(names, backends, strict=True)
    ]
    questions = list_questions(
        batch_sizes,
        generate_batch_sizes,
        text_tokens,
        new_tokens,
        steps,
        warmup_steps,
        repeats,
        quality_steps,
        memory_gib,
    )
    settings: dict[str, Setting] = {
        "config": digest(*config),
        **{f"backend/{name}": digest(file) for name, file in zip(names, backends, strict=True)},
        "text_tokens": text_tokens,
        "new_tokens": new_tokens,
        "steps": steps,
        "warmup_steps": warmup_steps,
        "repeats": repeats,
        "quality_steps": quality_steps,
        "memory_gib": memory_gib,
    }
    results_file = output / "results.json"
    results = measure_all(
        made,
        questions,
        line=one_line,
        report=report,
        only=only,
        resume=resume,
        output=results_file,
        logs=output / "logs",
        settings=settings,
        cell_limit_s=cell_limit_s,
        time_budget_s=time_budget_s,
    )
    comparison = Comparison(
        results={**results, **loaded(results)},
        backends=list(dict.fromkeys([*names, *(cell.rpartition("/")[2] for cell in results)])),
        baseline=baseline or names[0],
        environment=json.loads(results_file.read_text("utf-8"))["environment"]
        if results_file.exists()
        else environment(),
        settings=settings,
        price_per_gpu_hour=price_per_gpu_hour,
    )
    lines = checklist(comparison, junit_xml, onboarding_s)
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.md").write_text(markdown(comparison, lines), encoding="utf-8")
    (output / "report.html").write_text(html_page(comparison, lines), encoding="utf-8")
    report(f"{len(results)} cells in {results_file}; {output / 'report.html'}")
    return results


def loaded(results: dict[str, Result]) -> dict[str, Result]:
    """Return the cells ``load`` of backends of which any cell was measured: every one says what loading was."""
    return {f"load/{name.rpartition('/')[2]}": result for name, result in results.items() if "module" in result}


def list_questions(
    batch_sizes: Sequence[int],
    generate_batch_sizes: Sequence[int],
    text_tokens: int,
    new_tokens: int,
    steps: int,
    warmup_steps: int,
    repeats: int,
    quality_steps: int,
    memory_gib: float | None,
) -> list[Question]:
    """Return what is asked of each backend, in an order that lets one process answer it all.

    Quality comes before what trains on synthetic pages, and the searches, which limit the memory, come last.
    """
    asked = [Question("load", "load")]
    for size in generate_batch_sizes:
        options = {"batch_size": size, "text_tokens": text_tokens, "new_tokens": new_tokens, "repeats": repeats}
        asked.append(Question(f"generate/batch={size}", "generate", options))
    if quality_steps:
        asked.append(Question("quality", "quality", {"steps": quality_steps, "batch_size": batch_sizes[0]}))
    step = {"steps": steps, "warmup_steps": warmup_steps}
    for size in batch_sizes:
        options = {"batch_size": size, "text_tokens": text_tokens, "repeats": repeats, **step}
        asked.append(Question(f"train/batch={size}", "train", options))
    asked += [Question(f"phases/batch={size}", "phases", {"batch_size": size, **step}) for size in batch_sizes]
    asked.append(Question("largest_batch", "largest_batch", {"text_tokens": text_tokens, "memory_gib": memory_gib}))
    asked.append(Question("longest_context", "longest_context", {"memory_gib": memory_gib}))
    return asked


def digest(*files: Path) -> str:
    """Return a short fingerprint of files: results of another content are not mixed in.

    Raises:
        ValueError: when one cannot be read.
    """
    content = hashlib.sha256()
    for file in files:
        try:
            content.update(file.read_bytes())
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror}") from error
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
