"""``deepsynth evaluate olmocr`` and ``deepsynth evaluate omnidocbench``: the published benchmarks' scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deepsynth.data.formats.omnidocbench import read_annotations
from deepsynth.data.sources.benchmarks import annotation_file
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.text import counted
from deepsynth.measurement.published.olmocr import UnitTest, read_tests
from deepsynth.measurement.published.omnidocbench import by_attribute, score_page, summarize
from deepsynth.measurement.published.page_texts import page_name, read_page_texts

Item = TypeVar("Item")
_NAMES_SHOWN = 5


class _Benchmark:
    """What both commands share: where predictions come from, and where figures go."""

    def __init__(
        self,
        benchmark: Path,
        predictions: Path,
        *,
        output: Path | None = None,
        confidence: float = 0.95,
        resamples: int = 1000,
    ) -> None:
        if not 0.0 < confidence < 1.0:
            raise UserError(f"--confidence is {confidence}; it must be between 0 and 1")
        if resamples < 1:
            raise UserError(f"--resamples is {resamples}; it must be at least 1")
        self.benchmark, self.predictions, self.output = benchmark, predictions, output
        self.confidence, self.resamples = confidence, resamples

    def bounds(
        self, groups: Sequence[Sequence[Item]], figures: Callable[[Sequence[Sequence[Item]]], Mapping[str, float]]
    ) -> dict[str, tuple[float, float]]:
        """Return percentile bootstrap bounds of figures; items are drawn with replacement within each group."""
        draw = np.random.default_rng(0)
        drawn: dict[str, list[float]] = {}
        for _ in range(self.resamples):
            picked = [[group[i] for i in draw.integers(len(group), size=len(group))] for group in groups]
            for name, value in figures(picked).items():
                drawn.setdefault(name, []).append(value)
        tail = (1.0 - self.confidence) / 2.0
        return {name: tuple(np.quantile(values, [tail, 1.0 - tail]).tolist()) for name, values in drawn.items()}

    def write(self, record: Mapping[str, Any], print_line: Callable[[str], None]) -> None:
        """Write ``metrics.json`` where a folder was given."""
        if self.output is None:
            return
        with explain_write_errors(self.output, "the evaluation"):
            self.output.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.output / "metrics.json") as file:
                file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print_line(f"metrics.json in {self.output}")


class EvaluateOlmocr(_Benchmark):
    """Score predictions on olmOCR-bench: the share of unit tests that pass, a mean over its files.

    Example::

        deepsynth predict --config my.yaml --run_name mine --data.source=DocumentSource --data.source.path=bench/pdfs
        deepsynth evaluate olmocr bench runs/mine/predictions.jsonl

    Args:
        benchmark: folder with the ``*.jsonl`` of tests and ``pdfs``.
        predictions: of ``deepsynth predict`` on ``pdfs``, or a folder of Markdown files (``NAME_pg1_repeat1.md``).
        output: folder for ``metrics.json``, with each test.
        confidence: probability between the bounds.
        resamples: of the bootstrap over the tests of each file.
    """

    def run(self, print_line: Callable[[str], None]) -> None:
        """Run the tests and print the score."""
        texts = read_page_texts(self.predictions)
        tests = read_tests(self.benchmark)
        passed: dict[str, bool] = {}
        missing: dict[str, int] = {}
        for test in tests:
            pages = texts.get((page_name(test.pdf), test.page), ())
            passed[test.id] = sum(map(test.passes, pages)) * 2 > len(pages)
            if not pages:
                place = f"{test.pdf} page {test.page}"
                missing[place] = missing.get(place, 0) + 1
        if missing:
            shown = ", ".join(list(missing)[:_NAMES_SHOWN])
            failed, blank = counted(sum(missing.values()), "failed test"), counted(len(missing), "page")
            print_line(f"{failed} on {blank} without a prediction: {shown}")
        groups = _groups(tests, passed, lambda test: test.group)
        score = _mean_of_means(list(groups.values()))["score"]
        low, high = self.bounds(list(groups.values()), _mean_of_means)["score"]
        print_line(f"olmOCR-bench, {len(tests)} tests")
        print_line(f"{'score':32} {100 * score:5.1f}   {100 * low:5.1f} to {100 * high:.1f}")
        kinds = _groups(tests, passed, lambda test: test.type)
        for title, found in (("file", groups), ("type", kinds)):
            for name, values in found.items():
                print_line(f"{title} {name:27} {100 * sum(values) / len(values):5.1f}   of {len(values)} tests")
        record = {
            "benchmark": "olmOCR-bench",
            "predictions": str(self.predictions),
            "score": score,
            "bounds": [low, high],
            "confidence": self.confidence,
            "files": {name: sum(values) / len(values) for name, values in groups.items()},
            "types": {name: sum(values) / len(values) for name, values in kinds.items()},
            "passed": passed,
        }
        self.write(record, print_line)


def _groups(
    tests: Sequence[UnitTest], passed: Mapping[str, bool], key: Callable[[UnitTest], str]
) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for test in tests:
        groups.setdefault(key(test), []).append(float(passed[test.id]))
    return dict(sorted(groups.items()))


def _mean_of_means(groups: Sequence[Sequence[float]]) -> dict[str, float]:
    return {"score": float(np.mean([np.mean(group) for group in groups]))}


class EvaluateOmniDocBench(_Benchmark):
    """Score predictions on OmniDocBench: distances of texts, formulas and reading order, TEDS of tables.

    Example::

        deepsynth predict --config my.yaml --run_name mine --data.source=OmniDocBenchSource --data.source.path=bench
        deepsynth evaluate omnidocbench bench runs/mine/predictions.jsonl

    Args:
        benchmark: ``OmniDocBench.json``, or the folder with it.
        predictions: of ``deepsynth predict``, or a folder of Markdown files named as the images.
        output: folder for ``metrics.json``.
        confidence: probability between the bounds.
        resamples: of the bootstrap over pages.
    """

    def run(self, print_line: Callable[[str], None]) -> None:
        """Score all pages and print the figures."""
        texts = read_page_texts(self.predictions)
        pages = read_annotations(annotation_file(self.benchmark))
        missing = [page.name for page in pages if (page.name, 1) not in texts]
        scores = [score_page(page, texts[page.name, 1][0]) for page in pages if (page.name, 1) in texts]
        if not scores:
            raise UserError(
                f"{self.predictions}: no prediction of a page of {self.benchmark}, such as {pages[0].name!r}"
            )
        if missing:
            shown = ", ".join(missing[:_NAMES_SHOWN])
            print_line(f"left out: {len(missing)} of {len(pages)} pages, without a prediction: {shown}")
        figures = summarize(scores)
        bounds = self.bounds([scores], lambda drawn: summarize(drawn[0]))
        print_line(f"OmniDocBench, {counted(len(scores), 'page')}")
        for name, value in figures.items():
            low, high = bounds.setdefault(name, (float("nan"), float("nan")))  # in no drawn set
            print_line(f"{name:22} {value:8.4f}   {low:.4f} to {high:.4f}")
        groups = {name: summarize(group) for name, group in by_attribute(scores).items()}
        for name, found in groups.items():
            if "text_edit" in found:
                print_line(f"{name}: text_edit {found['text_edit']:.4f}")
        record = {
            "benchmark": "OmniDocBench",
            "predictions": str(self.predictions),
            "pages": len(scores),
            "left_out": missing,
            "metrics": figures,
            "bounds": bounds,
            "confidence": self.confidence,
            "groups": groups,
        }
        self.write(record, print_line)
