"""Operations of models that read images at their own size, counted by hand and by PyTorch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.registry import load_pretrained
from deepsynth.modules import FullModule
from deepsynth.profiling.flops import TrainingFlops
from tests.helpers.training import grouped, make_module, seed_everything
from tests.models.families.native import NAMES, sample

#: Operations of the frozen encoder for a page of 72 x 72 patches, by hand: of each patch and pair of patches, and of
#: each token from the merger on.
PATCHES, TOKENS = 72 * 72, 36 * 36
GLM = 3 * 2 * 14 * 14 * 1024 + 24 * (4 * 1024 * 1024 + 3 * 1024 * 4096)
GLM_MERGER = 4 * 1024 * 1536 + 1536 * 1536 + 3 * 1536 * 4608
PADDLE, PADDLE_PROJECTOR = 3 * 14 * 14 * 1152 + 27 * (4 * 1152 * 1152 + 2 * 1152 * 4304), 4608 * 4608 + 4608 * 1024
QWEN, QWEN_MERGER = 3 * 2 * 14 * 14 * 1280 + 32 * (4 * 1280 * 1280 + 3 * 1280 * 3420), 5120 * 5120 + 5120 * 2048
#: Windows of 8 x 8 patches, 81 of them, in 28 of 32 layers.
QWEN_PAIRS = 4 * 1280 * (4 * PATCHES**2 + 28 * 81 * 64**2)
QWEN3 = 3 * 2 * 16 * 16 * 1024 + 24 * (4 * 1024 * 1024 + 2 * 1024 * 4096)
#: One behind the last layer, three behind others.
QWEN3_MERGERS = 4 * (4096 * 4096 + 4096 * 2048)
FROZEN = {
    "paddleocr-vl": 2 * PATCHES * PADDLE + 2 * TOKENS * PADDLE_PROJECTOR + 27 * 4 * 1152 * PATCHES**2,
    "glm-ocr": 2 * PATCHES * GLM + 2 * TOKENS * GLM_MERGER + 24 * 4 * 1024 * PATCHES**2,
    "qwen2.5-vl": 2 * PATCHES * QWEN + 2 * TOKENS * QWEN_MERGER + QWEN_PAIRS,
    "qwen3-vl": 2 * PATCHES * QWEN3 + 2 * TOKENS * QWEN3_MERGERS + 24 * 4 * 1024 * PATCHES**2,
}
#: Hidden, queries, keys and values, inner, layers, vocabulary.
DECODERS = {
    "paddleocr-vl": (1024, 2048, 256, 3072, 18, 103424),
    "glm-ocr": (1536, 2048, 1024, 4608, 16, 59392),
    "qwen2.5-vl": (2048, 2048, 256, 11008, 36, 151936),
    "qwen3-vl": (2048, 2048, 1024, 6144, 28, 151936),
}


@pytest.mark.parametrize("name", FROZEN)
def test_the_published_models_with_adapters_on_attention(name: str) -> None:
    from peft import get_peft_model

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, f"deepsynth/full-size-{name}"))
        flops = TrainingFlops(get_peft_model(model, lora_config(model, LoraSettings(), base_model_name="base")))
    assert flops.of_images({"image_grid_thw": torch.tensor([[1, 72, 72]])}) == FROZEN[name]
    hidden, queries, keys, inner, layers, vocabulary = DECODERS[name]
    first, attention = hidden * (queries + 2 * keys), hidden * (2 * queries + 2 * keys)
    # Forward, and back again through everything but the first layer's projections of what no weight has touched.
    matrices = 2 * 1000 * (2 * layers * (attention + 3 * hidden * inner) - first) + 2 * 10 * 2 * hidden * vocabulary
    adapters = 2 * 1000 * 16 * (layers * 3 * (4 * hidden + 2 * queries + 2 * keys) - 3 * hidden)
    assert flops.of_text([1000, 500_500, 10]) == matrices + adapters + layers * 3 * 4 * queries * 500_500


SCOPES: dict[str, dict[str, Any]] = {
    "attention": {},
    "projector": {"attention": False, "projector": True},
    "vision": {"vision": True, "projector": True, "mlp": True},
    "full": {},
}


FEW = [
    pytest.param(name, scope, marks=[] if scope == "vision" or name == NAMES[0] else [pytest.mark.slow])
    for name in (*NAMES, "qwen3_vl")
    for scope in SCOPES
]


@pytest.mark.parametrize(("name", "scope"), FEW)
def test_pytorch_counts_the_same_in_a_step(name: str, scope: str, tmp_path: Path) -> None:
    """Eager attention computes all pairs of the text, which is the one thing that a step does beyond what is needed."""
    folder = str(import_module(f"tests.helpers.tiny_models.{name}").make(tmp_path / "model"))
    seed_everything(0)
    settings: dict[str, Any] = {"model_name": folder, "attn_implementation": "eager", "activation_memory": "none"}
    if scope == "full":
        module: Any = FullModule(optimizer=torch.optim.AdamW, **grouped(loss="chunked", **settings))
    else:
        module = make_module(rank=8, loss="chunked", **SCOPES[scope], **settings)
    processor = OcrProcessor(folder)
    pages = ((112, 112), (300, 200), (30, 20), (57, 99))
    step = Collator(processor.pad_token_id)([sample(processor, *pages, text="a longer text of several pages")])
    module.configure_model()
    module.train()
    flops = TrainingFlops(module.model)
    tokens, _, labels = flops.amounts(step.inputs).tolist()
    with FlopCounterMode(display=False) as counter:
        module.compute_loss(step).backward()
    needed = flops.of_text([tokens, tokens**2, labels]) + flops.of_images(step.inputs)
    assert counter.get_total_flops() == pytest.approx(needed, rel=0.005)
