"""Counts of operations against hand counts and against PyTorch's counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.registry import load_pretrained
from deepsynth.modules import FullModule
from deepsynth.profiling.flops import TrainingFlops, device_peak, peak_flops
from tests.helpers.training import grouped, make_data, make_module, seed_everything

FAMILIES = [str(Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1/model"), "deepsynth/tiny-random"]
#: Width 1280, one dense layer of 6848 and eleven with 6 of 64 experts of 896 and two shared ones.
ATTENTION, DENSE, SPARSE = 4 * 1280 * 1280, 3 * 1280 * 6848, 1280 * 64 + (6 + 2) * 3 * 1280 * 896
DECODER, HEAD = 12 * ATTENTION + DENSE + 11 * SPARSE, 1280 * 129280


def batch(lengths: list[int], *, packed: bool = False, images: int = 0) -> dict[str, torch.Tensor]:
    """Return inputs of sequences whose last ten tokens have labels, on the meta device where pixels are concerned."""
    most = sum(lengths) if packed else max(lengths)
    rows = 1 if packed else len(lengths)
    mask, labels = torch.zeros(rows, most, dtype=torch.long), torch.full((rows, most), -100)
    positions, start = torch.zeros(1, most, dtype=torch.long), 0
    for index, length in enumerate(lengths):
        row, begin = (0, start) if packed else (index, 0)
        mask[row, begin : begin + length] = 1
        labels[row, begin + length - 10 : begin + length] = 1
        positions[0, begin : begin + length] = torch.arange(length)
        start += length
    inputs = {
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.empty(images, 3, 1024, 1024, device="meta"),
    }
    return {**inputs, "position_ids": positions} if packed else inputs


def published(name: str, **scope: Any) -> TrainingFlops:
    from peft import get_peft_model

    config = load_pretrained(AutoConfig, name)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        adapter = lora_config(model, LoraSettings(**scope), base_model_name="base")
        return TrainingFlops(get_peft_model(model, adapter))


@pytest.mark.parametrize("name", ["deepsynth/full-size-ocr", "deepsynth/full-size-ocr-2"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_published_decoder_with_adapters_on_attention(name: str, packed: bool) -> None:
    flops = published(name)
    amounts = flops.amounts(batch([1000, 600], packed=packed))
    assert amounts.tolist() == [1600, 1000 * 1001 // 2 + 600 * 601 // 2, 20]
    # Forward, and back again through everything but the first layer's projections of what no weight has touched.
    matrices = 2 * 1600 * (2 * DECODER - 3 * 1280 * 1280) + 2 * 20 * 2 * HEAD
    # Scores and values of each layer, and two gradients of both.
    attention = 12 * 3 * (2 * 1280 + 2 * 1280) * (500_500 + 180_300)
    adapters = 2 * 1600 * 16 * (12 * 4 * 3 * (1280 + 1280) - 3 * 1280)
    assert flops.of_text(amounts) == matrices + attention + adapters


@pytest.mark.parametrize("packed", [False, True])
def test_pairs_beyond_a_window_behind_the_prompt_are_not_needed(packed: bool) -> None:
    """Of ten written tokens the fifth to the tenth do not see the first one to six of them."""
    inputs = batch([100, 30], packed=packed)
    assert TrainingFlops.amounts(inputs, 4).tolist() == [130, 5050 + 465 - 2 * 21, 20]
    assert TrainingFlops.amounts(inputs, 10).tolist() == [130, 5050 + 465, 20]


@pytest.mark.parametrize(("name", "packed"), [("deepsynth/full-size-ocr", False), ("deepsynth/full-size-ocr-2", True)])
def test_the_published_decoder_with_adapters_on_experts(name: str, packed: bool) -> None:
    flops = published(name, attention=False, experts="routed")
    # Nothing is trained before the second layer's experts: no gradient goes further down.
    once = 2 * ATTENTION + DENSE + 1280 * 64 + 6 * 1280 * 2 * 896 + 2 * 3 * 1280 * 896
    adapters = 11 * 6 * 3 * 16 * ((1280 + 2 * 896) + (896 + 1280)) - 6 * 16 * 1280
    expected = 2 * 160 * (2 * DECODER - once + adapters)
    expected += 2 * 2 * HEAD * 20 + 4 * 1280 * (5050 + 1830) * (2 + 10 * 3)
    assert flops.of_text(flops.amounts(batch([100, 60], packed=packed))) == expected


def sam_by_hand() -> tuple[int, int]:
    """Return the operations of SAM for one image of 1024 pixels, and what adapters of rank 16 add beside a second pass.

    It has 4,096 patches of width 768 and 12 heads of 64; eight layers have 25 windows of 14 x 14, filled up.
    """
    rows, attended = 8 * 25 * 196 + 4 * 4096, 12 * 64 * (8 * 25 * 196 * 196 + 4 * 4096 * 4096)
    # A query with the positions of its row and of its column.
    positions = 12 * 64 * 2 * (8 * 25 * 196 * 14 + 4 * 4096 * 64)
    patches, mlp = 2 * 4096 * 768 * 3 * 16 * 16, 12 * 4096 * 2 * 768 * 3072
    forward = patches + 2 * rows * 4 * 768 * 768 + 2 * positions + 4 * attended + 2 * mlp
    adapters = 3 * 2 * 16 * (rows * (768 + 2304 + 768 + 768) + 12 * 4096 * 2 * (768 + 3072))
    # Nothing goes back through the patches, nor through the first projection.
    unneeded = patches + 2 * 25 * 196 * 768 * (2304 + 16)
    return forward, 4 * attended + adapters - unneeded


def v1_vision_by_hand() -> tuple[int, int]:
    """Return those of SAM's convolutions, CLIP's 24 layers of width 1024 on 257 tokens, and the projector."""
    convolutions = 2 * 4096 * 256 * (768 + 9 * 256) + 2 * 1024 * 512 * 9 * 256 + 2 * 256 * 1024 * 9 * 512
    attention = 24 * 4 * 257 * 257 * 1024
    adapters = 3 * 2 * 16 * (24 * 257 * (4 * 2048 + 2 * 5120) + 256 * (2048 + 1280))
    forward = convolutions + attention + 24 * 2 * 257 * 12 * 1024 * 1024 + 2 * 256 * 2048 * 1280
    return forward, attention + adapters


def v2_vision_by_hand() -> tuple[int, int]:
    """Return those of SAM's convolutions, 24 layers of width 896 with 14 and 2 heads on 512 tokens, the projector."""
    convolutions = 2 * 4096 * 256 * (768 + 9 * 256) + 2 * 1024 * 512 * 9 * 256 + 2 * 256 * 896 * 9 * 512
    attention = 24 * 4 * 512 * 512 * 896
    products = 24 * 2 * 512 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    adapters = 3 * 2 * 16 * (24 * 512 * (2 * 1792 + 2 * 1024 + 3 * 5760) + 256 * (896 + 1280))
    return convolutions + attention + products + 2 * 256 * 896 * 1280, attention + adapters


@pytest.mark.parametrize(
    ("name", "behind_sam", "angles"),
    [
        ("deepsynth/full-size-ocr", v1_vision_by_hand, 0),
        # The angles of rotation are a product in transformers 5.17, and none in later ones.
        ("deepsynth/full-size-ocr-2", v2_vision_by_hand, 2 * 32 * 512),
    ],
)
def test_the_published_vision(name: str, behind_sam: Callable[[], tuple[int, int]], angles: int) -> None:
    """Frozen it runs forward; with adapters, back again down to the first adapted layer.

    Attention has two gradients for each of its products.
    """
    forward, added = map(sum, zip(sam_by_hand(), behind_sam(), strict=True))
    frozen = published(name).of_images(batch([300], images=1))
    assert frozen in (forward, forward + angles)
    adapted = published(name, vision=True, projector=True).of_images(batch([300], images=2))
    assert adapted == 2 * (2 * forward + added + frozen - forward)


SCOPES: dict[str, dict[str, Any]] = {
    "attention": {},
    "experts": {"attention": False, "experts": "routed"},
    "vision": {"vision": True, "projector": True},
    "all": {"mlp": True, "experts": "all", "vision": True, "projector": True},
    "full": {},
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", FAMILIES, ids=["v1", "v2"])
def test_pytorch_counts_the_same_in_a_step(name: str, scope: str, jsonl: Path) -> None:
    """Eager attention computes all pairs, which is the one thing that a step does beyond what is needed."""
    seed_everything(0)
    settings: dict[str, Any] = {"model_name": name, "attn_implementation": "eager", "activation_memory": "none"}
    if scope == "full":
        module = FullModule(optimizer=torch.optim.AdamW, **grouped(loss="chunked", **settings))
    else:
        module = make_module(rank=8, loss="chunked", **SCOPES[scope], **settings)
    data = make_data(jsonl, model_name=name, batch_size=1, mode="tiny" if name == FAMILIES[0] else None)
    data.setup("fit")
    step = next(iter(data.train_dataloader()))
    module.configure_model()
    module.train()
    flops = TrainingFlops(module.model)
    tokens, pairs, labels = flops.amounts(step.inputs).tolist()
    with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter:
        module.compute_loss(step).backward()
    needed = flops.of_text([tokens, tokens**2, labels]) + flops.of_images(step.inputs)
    assert counter.get_total_flops() == pytest.approx(needed, rel=0.02)
    assert pairs == tokens * (tokens + 1) // 2


def grouped_product(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """Count ``_grouped_mm``, which PyTorch's counter does not know: rows or columns are dealt out to groups."""
    groups = a[0] if len(a) == len(b) == 3 else 1
    return int(2 * groups * a[-2] * a[-1] * b[-1])


GROUPED = {torch.ops.aten._grouped_mm: grouped_product}


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", 65.0),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(name: str, tflops: float | None) -> None:
    assert peak_flops(name, torch.bfloat16) == (None if tflops is None else tflops * 1e12)
    assert peak_flops(name, torch.float32) is None


def test_a_cpu_has_no_peak() -> None:
    assert device_peak(torch.device("cpu"), torch.bfloat16) is None
