"""The mission's checklist: each line passed, failed or not measured, with the figure and the baseline's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from deepsynth.measurement.cells import NOT_MEASURED
from deepsynth.measurement.tables import Comparison

State = Literal["passed", "failed", "not measured"]


@dataclass(frozen=True)
class Line:
    """One line of the checklist.

    Attributes:
        claim: what the mission asks for.
        subject: the backend that it is said of, or "DeepSynth".
        state: passed, failed or not measured.
        figure: the number with its baseline, or why there is none and how to have it.
    """

    claim: str
    subject: str
    state: State
    figure: str


def checklist(c: Comparison, junit_xml: Path | None = None, onboarding_s: float | None = None) -> list[Line]:
    """Return the lines, those about ratios once for every backend but the baseline.

    Speed, memory and latency are claims about a GPU: on a CPU they are not measured, and the line says what the CPU
    showed.

    Args:
        c: what was measured.
        junit_xml: what ``pytest --junitxml=FILE`` wrote.
        onboarding_s: seconds of the README's two commands in a fresh checkout.

    Raises:
        ValueError: when that file is none.
    """
    others = [backend for backend in c.backends if backend != c.baseline]
    lines = [_loads(c)]
    peak = "peak_allocated_gib" if c.on_gpu else "peak_rss_gib"
    for backend in others:
        claim = "training at least 1.3 times as fast"
        lines.append(_ratio(c, claim, backend, "train", "samples_per_s", "samples/s", 1.3, at_least=True))
    lines += [_ratio(c, "VRAM −35 % or more", b, "train", peak, "peak GiB", 0.65, at_least=False) for b in others]
    lines += [_cer(c, "CER −50 % or more on the validation set", backend) for backend in c.backends]
    for backend in others:
        claim = "inference latency −40 % or more"
        lines.append(_ratio(c, claim, backend, "generate", "ms_per_token", "ms a token", 0.6, at_least=False))
    lines += [_no_regression(c, "no regression in ROUGE and BLEU", backend) for backend in c.backends]
    return [*lines, *_tests(junit_xml), _documented(), _onboarding(onboarding_s)]


def _loads(c: Comparison) -> Line:
    claim = "FastVisionModel loads"
    for backend in c.backends:
        result = c.get("load", backend)
        if result.get("module") == "UnslothModule":
            gib, seconds = c.value("load", backend, "weights_gib"), c.value("load", backend, "load_s")
            return Line(claim, backend, "passed", f"{gib:.2f} GiB of weights in {seconds:.1f} s")
    tried = [backend for backend in c.backends if "unsloth" in backend.lower()]
    reasons = [f"{backend}: {c.get('load', backend).get(NOT_MEASURED)}" for backend in tried]
    how = "; ".join(reasons) or "no backend with UnslothModule was given"
    # Where Unsloth could load and did not, that is a failure; without GPU or package nothing is known.
    could = c.on_gpu and "unsloth" in c.environment and any(f"load/{backend}" in c.results for backend in tried)
    return Line(claim, ", ".join(tried) or "–", "failed" if could else "not measured", how)


def _ratio(
    c: Comparison, claim: str, backend: str, measure: str, key: str, unit: str, bound: float, *, at_least: bool
) -> Line:
    """Judge a ratio to the baseline by the cell where it is least favourable."""
    found = [(ratio, cell) for cell in c.cells(measure) if (ratio := c.ratio(cell, backend, key)) is not None]
    if not found:
        return Line(claim, backend, "not measured", f"no cell was measured both here and for {c.baseline}")
    ratio, cell = min(found) if at_least else max(found)
    own, base = c.value(cell, backend, key), c.value(cell, c.baseline, key)
    shown = f"{ratio:.2f}×" if at_least else f"{100 * (ratio - 1):+.0f} %"
    work = cell.partition("/")[2].replace("=", " ")
    figure = f"{shown}: {own:.2f} {unit} to {base:.2f} of {c.baseline} ({work}, the least favourable of {len(found)})"
    if not c.on_gpu:
        return Line(claim, backend, "not measured", f"needs a GPU; this CPU showed {figure}")
    return Line(claim, backend, "passed" if (ratio >= bound if at_least else ratio <= bound) else "failed", figure)


def _cer(c: Comparison, claim: str, backend: str) -> Line:
    before, after = c.value("quality", backend, "cer_before"), c.value("quality", backend, "cer_after")
    if before is None or after is None:
        return Line(claim, backend, "not measured", str(c.get("quality", backend)[NOT_MEASURED]))
    fell = 1 - after / before if before else 0.0
    steps = c.get("quality", backend)["quality_steps"]
    figure = f"{-100 * fell:+.0f} %: {after:.3f} after {steps} steps, {before:.3f} before them"
    return Line(claim, backend, "passed" if fell >= 0.5 else "failed", figure)


def _no_regression(c: Comparison, claim: str, backend: str) -> Line:
    metrics = ("rouge1", "rouge2", "rougeL", "bleu")
    pairs = [
        (m, c.value("quality", backend, f"{m}_before"), c.value("quality", backend, f"{m}_after")) for m in metrics
    ]
    known = [(m, before, after) for m, before, after in pairs if before is not None and after is not None]
    if not known:
        return Line(claim, backend, "not measured", str(c.get("quality", backend).get(NOT_MEASURED, "no such metric")))
    fallen = [m for m, before, after in known if after < before]
    figure = ", ".join(f"{m} {before:.3f} → {after:.3f}" for m, before, after in known)
    return Line(claim, backend, "failed" if fallen else "passed", f"before → after fine-tuning: {figure}")


# ---------------------------------------------------------------------- what is said of DeepSynth itself


def _tests(junit_xml: Path | None) -> list[Line]:
    tests, readme = "tests pass", "the README's commands run"
    if junit_xml is None:
        how = "run `make test`, or hand in its results: `pytest --junitxml=tests.xml`, then `--junit_xml=tests.xml`"
        return [Line(tests, "DeepSynth", "not measured", how), Line(readme, "DeepSynth", "not measured", how)]
    try:
        cases = list(ElementTree.parse(junit_xml).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"junit_xml {junit_xml} is no result of pytest --junitxml: {error}") from error
    return [
        _cases(tests, cases),
        _cases(readme, [case for case in cases if "test_readme" in case.get("classname", "")]),
    ]


def _cases(claim: str, cases: list[ElementTree.Element]) -> Line:
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    ran = len(cases) - len(skipped)
    if not ran:
        return Line(claim, "DeepSynth", "not measured", f"no such test ran ({len(skipped)} skipped)")
    figure = f"{ran - len(bad)} of {ran} passed, {len(skipped)} skipped"
    return Line(claim, "DeepSynth", "failed" if bad else "passed", figure)


def _documented() -> Line:
    names = list(public_names(Path(__file__).parents[1]))
    documented = sum(has for _, has in names)
    bare = [name for name, has in names if not has]
    listed = f"; without: {', '.join(bare[:3])}{', …' if len(bare) > 3 else ''}" if bare else ""
    figure = f"{documented / len(names):.1%}: {documented} of {len(names)} public names have a docstring{listed}"
    return Line("documentation complete", "DeepSynth", "failed" if bare else "passed", figure)


def public_names(package: Path) -> Iterator[tuple[str, bool]]:
    """Yield every public module, class, function and method of a package, and whether it has a docstring.

    Args:
        package: its folder.
    """
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        if file.stem.startswith("_") and file.stem not in ("__init__", "__main__"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield module, ast.get_docstring(tree) is not None
        yield from _public(tree, module)


def _public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, bool]]:
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        name = f"{prefix}.{child.name}"
        yield name, ast.get_docstring(child) is not None
        if isinstance(child, ast.ClassDef):
            yield from _public(child, name)


def _onboarding(seconds: float | None) -> Line:
    claim = "onboarding (the two commands, timed)"
    if seconds is None:
        how = "in a fresh checkout: `time make quickstart`, which installs, trains, validates and reads; then "
        return Line(claim, "DeepSynth", "not measured", f"{how}`--onboarding_s=SECONDS`")
    return Line(claim, "DeepSynth", "passed", f"{seconds / 60:.1f} minutes from a checkout to texts that were read")
