"""PeftModule at full size on a GPU, with random weights: what only a GPU can show.

    python -m pytest -m gpu tests/modules/test_full_size.py -s

Prints samples/s and peak memory of a step; asserts nothing about them.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from deepsynth import PeftModule, TextImageDataModule
from deepsynth.data import JsonlSource, TextRenderer
from deepsynth.models.names import resolve_model_name
from deepsynth.models.supported import lora_parameters

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

#: transformers has no defaults of the published sizes for DeepSeek-OCR-2: these are its config.json's.
V2 = {
    "image_token_id": 3,
    "vision_config": {
        "sam_config": {},
        "encoder_config": {
            "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
            "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    },
    "text_config": {
        "vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12,
        "num_attention_heads": 10, "num_key_value_heads": 10, "n_routed_experts": 64, "num_experts_per_tok": 6,
        "n_shared_experts": 2, "moe_intermediate_size": 896, "max_position_embeddings": 8192, "topk_method": "greedy",
        "mlp_layer_types": ["dense"] + ["sparse"] * 11, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip


def full_size_folder(family: str, folder: Path) -> Path:
    """Write configuration and processor of a full-size model that has no weights; small tokenizer."""
    from transformers import AutoProcessor, DeepseekOcr2Config

    if family == "deepseek_ocr2":
        shutil.copytree(resolve_model_name("deepsynth/tiny-random"), folder)
        (folder / "model.safetensors").unlink()
        DeepseekOcr2Config(**V2).save_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        processor.patch_size = 16
        processor.image_processor.size = {"height": 1024, "width": 1024}
        processor.image_processor.tile_size = 1024
        processor.save_pretrained(folder)
    else:
        from deepsynth.models.deepseek_ocr import DeepseekOcrConfig

        shutil.copytree(resolve_model_name("deepsynth/tiny"), folder)
        (folder / "model.safetensors").unlink()
        processor = AutoProcessor.from_pretrained(folder)
        text = {**V2["text_config"]}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            text[name] = getattr(processor.tokenizer, name)
        DeepseekOcrConfig(text_config=text, image_token_id=processor.image_token_id).save_pretrained(folder)
        processor.patch_size = 16
        processor.image_processor.size = {"height": 1024, "width": 1024}
        processor.save_pretrained(folder)
    return folder


class Steps(Callback):
    """Times steps after two of warm-up."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        torch.cuda.synchronize()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.synchronize()
        self.times.append(time.perf_counter() - self._start)
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("family", ["deepseek_ocr2", "deepseek_ocr"])
@pytest.mark.parametrize(
    ("batch_size", "experts", "activations"),
    [(2, "eager", "full"), (2, "grouped_mm", "full"), (8, "grouped_mm", "full"), (8, "grouped_mm", "none")],
)
def test_a_full_size_model_trains_and_writes(
    tmp_path: Path, family: str, batch_size: int, experts: str, activations: str
) -> None:
    folder = full_size_folder(family, tmp_path / "model")
    # About 768 text tokens in either tokenizer, so T is about 1,025.
    words = "The quick brown fox jumps over the lazy dog. " * (26 if family == "deepseek_ocr2" else 17)
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"id": str(i), "text": words}) + "\n" for i in range(80)))
    data = TextImageDataModule(
        JsonlSource(str(tmp_path / "docs.jsonl")),
        TextRenderer(page_width_px=1024, page_height_px=1024),
        model_name=str(folder),
        max_tokens=4096,
        batch_size=batch_size,
        num_workers=4,
        val_fraction=0.0,
        test_fraction=0.0,
    )
    module = PeftModule(
        str(folder),
        weights="random",
        experts_implementation=experts,
        activation_memory=activations,
        max_new_tokens=8,
    )
    steps = Steps()
    gc.collect()  # the model of the test before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(
        max_steps=8, accelerator="gpu", devices=1, callbacks=[steps], logger=False, enable_checkpointing=False,
        default_root_dir=tmp_path, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, data)
    peak = torch.cuda.max_memory_allocated() / 2**30
    median = sorted(steps.times[2:])[len(steps.times[2:]) // 2]
    batch = next(iter(data.train_dataloader()))
    print(
        f"\nRESULT {family} batch {batch_size} {experts} activations={activations}: "
        f"{batch_size / median:.2f} samples/s, peak {peak:.2f} GiB, T={batch.inputs['input_ids'].shape[1]}, "
        f"losses {[round(loss, 3) for loss in steps.losses]}"
    )
    assert all(loss == loss and loss < 100 for loss in steps.losses)
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert trainable == lora_parameters(module.model.config)["attention"] == 1_966_080
    assert {p.dtype for n, p in module.named_parameters() if not p.requires_grad} == {torch.bfloat16}
    module.to("cuda").eval()
    generations = module.generate(data.transfer_batch_to_device(batch, torch.device("cuda"), 0))
    assert generations is not None
    assert len(generations) == batch_size
