"""Both backends at full size on a GPU, with random weights: what only a GPU can show.

    python -m pytest -m gpu tests/modules/test_full_size.py -s

Prints a RESULT line for each row: samples/s (median of steps after two), GiB of weights, peaks of loading and of
training, first and last loss. Memory of nf4 and its loss beside 16 bits are asserted; speed is not.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from deepsynth.models.registry import load_pretrained
from tests.helpers import unsloth_stand_in
from tests.helpers.full_size_run import measure
from tests.helpers.lora_counts import lora_parameters

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
on_gpu = [pytest.param("deepsynth/full-size-ocr-2", marks=gpu), pytest.param("deepsynth/full-size-ocr", marks=gpu)]

#: The "current" baseline and what stands beside it: settings of the module, by a name for the RESULT line.
ROWS: dict[str, dict[str, Any]] = {
    "current": {
        "init": {"kernels": "plain", "experts_implementation": "eager", "activation_memory": "full", "loss": "plain"}
    },
    "peft": {"init": {"activation_memory": "full"}},
    "peft auto": {"init": {}},
    "peft nf4": {"init": {"quantization": "nf4", "activation_memory": "full"}},
    "peft nf4 all experts": {"init": {"quantization": "nf4", "activation_memory": "full", "experts": "all"}},
    "unsloth": {"module": "UnslothModule"},
    "unsloth 4-bit": {"module": "UnslothModule", "init": {"quantization": "nf4"}},
    "unsloth all experts": {"module": "UnslothModule", "init": {"experts": "all"}},
}


@functools.cache
def measured(settings: str) -> dict[str, Any]:
    """Run in a new process, once for each combination of settings."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.full_size_run", settings],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


#: Texts of about 768 tokens in either tokenizer, so that T is about 1,040.
CHARS = {"deepsynth/full-size-ocr-2": 1220, "deepsynth/full-size-ocr": 765}


def row(name: str, **settings: Any) -> dict[str, Any]:
    found = measured(json.dumps({**ROWS[name], "text_chars": CHARS[settings["model"]], **settings}))
    figures = ", ".join(f"{key} {value:.2f}" for key, value in found.items() if isinstance(value, float))
    print(f"\nRESULT {name} {settings}: {figures}, T {found['positions']}, loss {found['losses'][0]:.3f} to "
          f"{found['losses'][-1]:.3f}")  # fmt: skip
    return found


def check(found: dict[str, Any], model: str, scopes: tuple[str, ...] = ("attention",)) -> None:
    from transformers import AutoConfig

    assert all(loss == loss and loss < 100 for loss in found["losses"])
    counts = lora_parameters(load_pretrained(AutoConfig, model))
    assert sum(found["trainable"].values()) == sum(counts[scope] for scope in scopes)
    assert found["generated"] > 0


@pytest.mark.parametrize("model", on_gpu)
@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("name", ["current", "peft", "peft auto"])
def test_sixteen_bits(model: str, batch_size: int, name: str) -> None:
    found = row(name, model=model, batch_size=batch_size)
    check(found, model)
    assert found["frozen_dtypes"] == ["torch.bfloat16"]


@pytest.mark.parametrize("model", on_gpu)
@pytest.mark.parametrize("batch_size", [2, 8])
def test_nf4_with_experts_is_small(model: str, batch_size: int) -> None:
    found = row("peft nf4", model=model, batch_size=batch_size)
    check(found, model)
    assert found["weights_gib"] <= 2.6
    assert found["allocated_gib"] <= 2.7  # what the allocator says, adapters included
    assert found["loading_peak_gib"] <= 4.0  # one layer in 16 bits at a time
    if batch_size == 2:
        assert found["peak_gib"] <= 4.5


@pytest.mark.parametrize("model", on_gpu)
def test_nf4_learns_like_sixteen_bits_from_the_same_start(model: str) -> None:
    runs = [row(name, model=model, steps=200, new_tokens=1) for name in ("peft", "peft nf4")]
    full, quantized = (fmean(run["losses"][-20:]) for run in runs)
    assert full < 0.9 * runs[0]["losses"][0]  # there was something to learn
    assert quantized == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize("model", on_gpu)
@pytest.mark.parametrize("name", ["peft nf4 all experts", "unsloth all experts"])
def test_adapters_on_all_experts(model: str, name: str) -> None:
    check(row(name, model=model), model, ("attention", "experts=shared", "experts=routed"))


@pytest.mark.parametrize("model", on_gpu)
@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("name", ["unsloth", "unsloth 4-bit"])
def test_unsloth(model: str, batch_size: int, name: str) -> None:
    pytest.importorskip("unsloth", reason="Unsloth is not installed (extra unsloth)")
    check(row(name, model=model, batch_size=batch_size), model)


# ---------------------------------------------------------------------- the same code, on the CPU with the tiny model

TINY = {"model": "deepsynth/tiny-random", "accelerator": "cpu", "workers": 0, "steps": 3, "documents": 8,
        "text_chars": 40, "page_px": 256, "new_tokens": 2}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "current",
        "peft nf4 all experts",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("peft", "unsloth all experts")),
    ],
)
def test_the_run_itself_works_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "nf4" in name:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra gpu)")
    if "unsloth" in name:
        unsloth_stand_in.install(monkeypatch)
    found = measure(**ROWS[name], **TINY)
    scopes = ("attention", "experts=shared", "experts=routed") if "all" in name else ("attention",)
    check(found, TINY["model"], scopes)
    assert len(found["losses"]) == 3
    assert 0 < found["weights_gib"] < 0.01


def test_nf4_and_full_precision_begin_with_the_same_weights() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra gpu)")
    first, second = (measure(**ROWS[name], **TINY)["losses"][0] for name in ("peft", "peft nf4"))
    assert first != second
    assert second == pytest.approx(first, rel=0.02)
