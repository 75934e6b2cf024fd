"""Attention among patches: each segment by itself, whatever the others' lengths."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from deepsynth.models.engine.fast_paths import install_training_paths
from deepsynth.models.kernels import patch_attention
from deepsynth.models.registry import load_pretrained


@pytest.mark.parametrize("lengths", [(6, 6, 6), (4, 9, 4, 1), (5,)], ids=str)
def test_each_segment_attends_to_itself(lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    own = [torch.randn(sum(lengths), 2, 8, generator=generator, requires_grad=True) for _ in range(3)]
    bounds = functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
    found = patch_attention.attend(*own, bounds, 0.3)
    gradients = torch.autograd.grad(found.square().sum(), own)
    parts = zip(*(torch.split(part, lengths) for part in own), strict=True)
    expected = torch.cat(
        [torch.einsum("qkh,khd->qhd", (torch.einsum("qhd,khd->qkh", q, k) * 0.3).softmax(1), v) for q, k, v in parts]
    )
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients, torch.autograd.grad(expected.square().sum(), own), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["paddleocr_vl", "glm_ocr", "qwen2_5_vl"])
def test_the_paths_of_a_model_are_listed(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    import_module(f"tests.helpers.tiny_models.{name}").make(tmp_path)
    model: Any = load_pretrained(AutoModelForImageTextToText, str(tmp_path))
    paths = install_training_paths(model)
    rows = {row.path: row for row in paths.rows}
    assert rows["patch attention"].modules == 2
    assert rows["vision norms"].reason == rows["norms"].reason != ""
    assert not any(path.startswith("SAM") for path in rows)
    model.set_attn_implementation("eager")
    paths.undo()
    [row] = [row for row in install_training_paths(model).rows if row.path == "patch attention"]
    assert row.reason == "patches attend by another implementation than sdpa"
