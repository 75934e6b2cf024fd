"""Who may import whom: the order of the layers, and the libraries that stay out of the fast path."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "deepsynth"
FILES = sorted(PACKAGE.rglob("*.py"))

#: What a part of the package may import of the package besides itself.
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "lazy_imports": set(),
    "text_normalization": set(),
    "text_scores": {"text_normalization"},
    "metrics": {"text_scores", "text_normalization"},
    "models": {"types"},
    "optim": set(),
    "checkpoint_io": set(),
    "parallel": set(),
    "parallel_ranks": set(),
    "parallel_sharding": set(),
    "parallel_strategy": {"parallel", "parallel_ranks", "parallel_sharding"},
    "data": {"types", "lazy_imports", "models.tokens", "models.names"},
    "generation": {
        "types",
        "models.decoder_kernels",
        "models.frozen_experts",
        "models.layer_runner",
        "models.sam_attention",
        "models.vision_chunks",
    },
    "hub": {"types"},
    "modules": {
        "types",
        "generation",
        "metrics",
        "text_scores",
        "models",
        "optim",
        "checkpoint_io",
        "parallel_ranks",
        "parallel_sharding",
        "parallel_strategy",
        "unsloth_first",
    },
    "run_folder": set(),
    "callbacks": {"types", "metrics", "text_scores", "text_normalization", "hub", "modules"},
    "export_verification": {"models"},
    "export": {"export_verification", "models", "types", "modules"},
    "benchmark": {"types"},
    "benchmark_pages": {"benchmark", "data", "types"},
    "benchmark_data": {"benchmark", "benchmark_pages", "data"},
    "measure": {"benchmark", "callbacks", "data", "measure_batches", "modules", "types"},
    "measure_batches": {"data", "types"},
    "measure_flops": {"callbacks"},
    "measure_training": {"benchmark", "measure", "measure_batches", "measure_flops"},
    "measure_phases": {"benchmark", "measure"},
    "measure_fits": {"benchmark", "callbacks", "measure", "measure_training"},
    "measure_generation": {"benchmark", "generation", "measure", "measure_batches", "types"},
    "measure_cells": {
        "benchmark",
        "measure",
        "measure_fits",
        "measure_generation",
        "measure_phases",
        "measure_training",
    },
    "measure_process": {"benchmark"},
    "measure_backends": {"measure_process"},
    "benchmark_train": {"benchmark", "measure_backends", "measure_process"},
    "benchmark_generate": {"benchmark", "measure_backends", "measure_process"},
    "compare_tables": {"benchmark"},
    "compare_plots": {"compare_tables"},
    "compare_checklist": {"benchmark", "compare_tables"},
    "compare_report": {"compare_checklist", "compare_plots", "compare_tables"},
    "compare": {"benchmark", "compare_checklist", "compare_report", "compare_tables", "measure_process"},
    "cli_errors": {"parallel"},
    "console": set(),
    "unsloth_first": set(),
}
#: The top: wires everything. The worker is a process of its own, started by name.
FREE = {"cli", "commands", "__main__", "__init__", "measure_worker"}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Return the modules that a file imports; with ``top_level`` those outside of functions alone."""
    tree = ast.parse(path.read_text())
    inner = (
        {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)} if top_level else set()
    )
    typing = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
        for n in ast.walk(i)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in inner or id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_it_imports_only_what_its_layer_may(path: Path) -> None:
    own = part(path)
    if own in FREE:
        return
    assert own in ALLOWED, f"{own} is in no layer: add it to the table"
    allowed = ALLOWED[own] | {own}
    for name in imports(path):
        inside = name.removeprefix("deepsynth.")
        if inside == name or inside == "__version__":
            continue
        parents = {".".join(inside.split(".")[:depth]) for depth in (1, 2, 3)}
        assert parents & allowed or any(a.startswith(inside + ".") for a in allowed), (
            f"{own} imports deepsynth.{inside}"
        )


@pytest.mark.parametrize(
    ("libraries", "parts"),
    [
        ({"lightning", "torch", "yaml"}, {"hub", "__main__", "unsloth_first"}),
        (
            {"peft", "unsloth", "bitsandbytes", "datasets"},
            {"data", "modules", "models", "hub", "callbacks", "__main__", "cli"},
        ),
        ({"transformers"}, {"data", "hub", "__main__", "callbacks"}),
        ({"huggingface_hub"}, {"data", "modules", "models", "callbacks", "__main__", "cli"}),
        ({"torch", "transformers", "PIL"}, {"tokens"}),
    ],
)
def test_libraries_are_imported_inside_functions(libraries: set[str], parts: set[str]) -> None:
    for path in FILES:
        if part(path) in parts or path.stem in parts:
            top = {name.split(".")[0] for name in imports(path, top_level=True)}
            assert not top & libraries, f"{path.relative_to(PACKAGE)} imports {top & libraries} at its top"


def test_no_name_says_nothing() -> None:
    empty = {"utils", "helpers", "common", "manager", "v2", "new", "improved", "final"}
    assert not [path for path in FILES if empty & set(path.stem.split("_"))]
