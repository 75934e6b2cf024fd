"""Run measurements one after another, and go on where a run was stopped.

A cell is one measurement: a name, and a function that returns numbers by name. Results are written after each cell, as
JSON with the environment that they were measured in, so that hours of work on a GPU survive what ends it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

Result = dict[str, float | int | str]

_PACKAGES = ("deepsynth", "torch", "transformers", "peft", "unsloth", "lightning", "Pillow", "opencv-python-headless")


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        name: unique, such as ``render/1024``.
        measure: returns numbers by name, units in the names (``pages_per_s``).
    """

    name: str
    measure: Callable[[], Result]


def run_cells(
    cells: Sequence[Cell],
    *,
    only: Sequence[str] = (),
    resume: bool = False,
    output: Path | None = None,
    report: Callable[[str, Result], None] = lambda name, result: None,
) -> dict[str, Result]:
    """Measure the cells in order and return their results by name.

    Args:
        cells: what to measure.
        only: the cells whose name begins with one of these; all when empty.
        resume: keep the results in ``output`` and measure what is missing; without it ``output`` is begun anew.
        output: JSON file, written after every cell.
        report: called with each result as it comes, with kept ones too.

    Raises:
        ValueError: for a name in ``only`` that fits no cell, ``resume`` without a file, or results of another
            environment.
    """
    names = [cell.name for cell in cells]
    for wanted in only:
        if not any(name.startswith(wanted) for name in names):
            raise ValueError(f"only names {wanted!r}, which begins no cell; the cells are {', '.join(names)}")
    if resume and output is None:
        raise ValueError("resume needs output, the file with the earlier results")
    here = environment()
    results = _earlier(output, here) if resume and output is not None else {}
    for cell in cells:
        if only and not cell.name.startswith(tuple(only)):
            continue
        if cell.name not in results:
            results[cell.name] = cell.measure()
            if output is not None:
                _write(output, here, results)
        report(cell.name, results[cell.name])
    return results


def environment() -> dict[str, str]:
    """Return the versions and the machine that a measurement depends on."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "gpu": _gpu(),
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _gpu() -> str:
    """Return the GPU's name when torch is loaded already; a measurement of data needs neither."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else "none"


def _earlier(path: Path, here: Mapping[str, str]) -> dict[str, Result]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        there, results = content["environment"], content["cells"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of benchmark results ({error!r}); give another output") from error
    changed = [f"{key} was {there.get(key)}, is {here.get(key)}" for key in here if there.get(key) != here.get(key)]
    if changed:
        raise ValueError(f"{path} was measured elsewhere: {'; '.join(changed)}; give another output, or do not resume")
    return dict(results)


def _write(path: Path, here: Mapping[str, str], results: Mapping[str, Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"environment": here, "cells": results}, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(part, path)
