"""Run measurements one after another, and go on where a run was stopped.

A cell is one measurement: a name, and a function that returns numbers by name. Results are written after each cell, as
JSON with the environment that they were measured in, so that hours of work on a GPU survive what ends it.
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

Result = dict[str, float | int | str]
Setting = float | int | str | None

#: What may be another from one GPU of a name to the next, as a lent machine's is: all of them are written down.
_BESIDE_A_GPU = ("processor", "cores", "driver")

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
        only: the cells whose name holds one of these between its slashes, such as ``render``, ``render/1024`` or
            ``1024``; all when empty.
        resume: keep the results in ``output`` and measure what is missing; without it ``output`` is begun anew. Cells
            that ``only`` names and that could not be measured are tried again.
        output: JSON file, written after every cell.
        settings: what all cells have in common; results that were measured with other values are refused.
        report: called with each result as it comes, with kept ones too.

    Raises:
        ValueError: for a name in ``only`` that fits no cell, ``resume`` without a file, or results of another
            environment or with other settings. Beside the same GPU, processor and driver may be others.
    """
    names = [cell.name for cell in cells]
    for wanted in only:
        if not any(is_chosen(name, [wanted]) for name in names):
            raise ValueError(f"only names {wanted!r}, which is in no cell's name; the cells are {', '.join(names)}")
    if resume and output is None:
        raise ValueError("resume needs output, the file with the earlier results")
    here, settings = environment(), dict(settings or {})
    results: dict[str, Result] = {}
    if resume and output is not None:
        results, earlier, here = _earlier(output, here, settings)
        settings = {**earlier, **settings}
    for cell in cells:
        if not is_chosen(cell.name, only):
            continue
        if cell.name not in results or (only and NOT_MEASURED in results[cell.name]):
            results[cell.name] = cell.measure()
            if output is not None:
                _write(output, here, settings, results)
        report(cell.name, results[cell.name])
    return results


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Return whether a cell's name holds one of the names in ``only`` between its slashes; true when there is none."""
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


def _earlier(
    path: Path, here: Mapping[str, str], settings: Mapping[str, Setting]
) -> tuple[dict[str, Result], dict[str, Setting], dict[str, str]]:
    """Return the results and the settings of a file, both empty where there is none, and the environment of all."""
    both = dict(here)
    if not path.exists():
        return {}, {}, both
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        there, results, earlier = content["environment"], content["cells"], content.get("settings", {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of benchmark results ({error!r}); give another output") from error
    if here.get("gpu", "none") not in ("none", "") and there.get("gpu") == here["gpu"]:
        for key in _BESIDE_A_GPU:
            both[key] = "; ".join(dict.fromkeys([*str(there.get(key, "")).split("; "), here.get(key, "")]))
            there = {**there, key: here.get(key)}
    changed = [f"{key} was {there.get(key)}, is {here.get(key)}" for key in here if there.get(key) != here.get(key)]
    if changed:
        raise ValueError(f"{path} was measured elsewhere: {'; '.join(changed)}; give another output, or do not resume")
    other = [key for key in settings if key in earlier and earlier[key] != settings[key]]
    if other:
        listed = "; ".join(f"{key} was {earlier[key]}, is {settings[key]}" for key in other)
        raise ValueError(f"{path} was measured otherwise: {listed}; give another output, or do not resume")
    return dict(results), dict(earlier), both


def _write(path: Path, here: Mapping[str, str], settings: Mapping[str, Setting], results: Mapping[str, Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    content = {"environment": here, "settings": settings, "cells": results}
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(part, path)
