"""Run measurements one after another, and resume an interrupted run.

A cell is one measurement: a name, and a function that returns numbers by name. Results are written after each cell, as
JSON with the environment that they were measured in, so that an interruption loses at most one cell.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from deepsynth._version import __version__
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file

Result = dict[str, float | int | str]
Setting = float | int | str | None

#: The key of a result that has no figure; its value says why.
NOT_MEASURED = "not_measured"

_PACKAGES = (
    *("torch", "triton", "transformers", "peft", "bitsandbytes", "unsloth", "liger-kernel", "flash-attn"),
    *("lightning", "Pillow", "opencv-python-headless"),
)


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
    settings: Mapping[str, Setting] | None = None,
    report: Callable[[str, Result], None] = lambda name, result: None,
) -> dict[str, Result]:
    """Measure the cells in order and return their results by name.

    Args:
        cells: what to measure.
        only: names that select cells: ``render``, ``render/1024`` or ``1024`` select ``render/1024``; empty selects
            all.
        resume: keep the results in ``output`` and measure what is missing; without it ``output`` is overwritten. Cells
            that ``only`` selects and that could not be measured are tried again.
        output: JSON file, written after every cell.
        settings: what all cells have in common; results that were measured with other values are refused.
        report: called with each result as it comes, and with those that were kept.

    Raises:
        UserError: for a name in ``only`` that selects no cell, ``resume`` without a file, or results of another
            environment or with other settings.
    """
    names = [cell.name for cell in cells]
    for wanted in only:
        if not any(is_chosen(name, [wanted]) for name in names):
            raise UserError(f"only is {wanted!r}, which selects no cell; the cells are {', '.join(names)}")
    if resume and output is None:
        raise UserError("resume needs output, the file with the earlier results")
    here, settings = environment(), dict(settings or {})
    results: dict[str, Result] = {}
    if resume and output is not None and output.exists():
        results, earlier = _read(output, here, settings)
        settings = {**earlier, **settings}
    for cell in cells:
        if not is_chosen(cell.name, only):
            continue
        if cell.name not in results or (only and NOT_MEASURED in results[cell.name]):
            results[cell.name] = cell.measure()
            if output is not None:
                content = {"environment": here, "settings": settings, "cells": results}
                with atomic_file(output) as file:
                    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        report(cell.name, results[cell.name])
    return results


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Return whether ``only`` selects a cell: it is empty, or has a part of the cell's name between slashes."""
    return not only or any(f"/{wanted}/" in f"/{name}/" for wanted in only)


def environment() -> dict[str, str]:
    """Return the versions and the machine that a measurement depends on."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "gpu": _gpu("name"),
        "driver": _gpu("driver_version"),
        "deepsynth": __version__,
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


@cache
def _gpu(key: str) -> str:
    """Return what the driver says of the first GPU; asking torch would take memory on it for good."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "0"
    command = [tool, f"--query-gpu={key}", "--format=csv,noheader", "-i", chosen]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "none"


def _read(
    path: Path, here: Mapping[str, str], settings: Mapping[str, Setting]
) -> tuple[dict[str, Result], dict[str, Setting]]:
    """Return the results and the settings of a file that was written here and with the same settings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        there, results, earlier = content["environment"], content["cells"], content.get("settings", {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of benchmark results ({error!r}); choose another output") from error
    changed = [f"{key} was {there.get(key)}, is {here[key]}" for key in here if there.get(key) != here[key]]
    changed += [
        f"{key} was {earlier[key]}, is {settings[key]}"
        for key in settings
        if earlier.get(key, settings[key]) != settings[key]
    ]
    if changed:
        raise UserError(
            f"{path} was measured differently: {'; '.join(changed)}; choose another output, or do not resume"
        )
    return dict(results), dict(earlier)
