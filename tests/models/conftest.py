"""The reference numbers of DeepSeek-OCR, and the tiny model that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepsynth.models import register

register()

REFERENCE = Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference numbers."""
    return REFERENCE


@pytest.fixture(scope="session")
def tensors() -> Callable[[str], Tensors]:
    """Read a file of the reference, pixels as the model takes them."""

    def read(name: str) -> Tensors:
        found = load_file(REFERENCE / f"{name}.safetensors")
        return {k: (v.float() / 255 - 0.5) / 0.5 if k.endswith("pixels") else v for k, v in found.items()}

    return read


@pytest.fixture(scope="session")
def model_inputs() -> Callable[[Tensors], Tensors]:
    """Turn a reference batch into what the native model takes."""

    def convert(batch: Tensors) -> Tensors:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        samples = [index for index in range(2) if f"s{index}.global.pixels" in batch]
        if samples:
            grids = batch["images_spatial_crop"].reshape(-1, 2)
            inputs["pixel_values"] = torch.cat([batch[f"s{index}.global.pixels"] for index in samples])
            inputs["patches_grid"] = grids
            inputs["num_local_patches"] = grids.prod(1) * (grids.prod(1) > 1)
            tiles = [batch[f"s{index}.local.pixels"] for index in samples if f"s{index}.local.pixels" in batch]
            if tiles:
                inputs["pixel_values_local"] = torch.cat(tiles)
        return inputs

    return convert


def load(**kwargs: Any) -> Any:
    """Load the tiny reference model."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(REFERENCE / "model", dtype=torch.float32, **kwargs)


@pytest.fixture(scope="session")
def loader() -> Callable[..., Any]:
    """Load a fresh copy of the tiny reference model."""
    return load


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """The tiny reference model in eval mode; not to be changed."""
    return load().eval()


@pytest.fixture(scope="session")
def tiny_processor() -> Any:
    """Its processor."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(REFERENCE / "model")
