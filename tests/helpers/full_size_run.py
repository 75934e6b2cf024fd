"""One training run whose memory, speed and losses are measured, in a process of its own:

    python -m tests.helpers.full_size_run '{"module": "UnslothModule", "init": {"quantization": "nf4"}, …}'

The last line that it prints is the answer, as JSON. Unsloth patches what it finds, so backends do not share a process.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deepsynth.unsloth_import import import_unsloth_first

SETTINGS: dict[str, Any] = {
    "module": "PeftModule",
    "init": {},
    "model": "deepsynth/full-size-ocr-2",
    "batch_size": 2,
    "steps": 8,
    "text_chars": 1150,
    "page_px": 1024,
    "documents": 80,
    "new_tokens": 8,
    "accelerator": "gpu",
    "workers": 4,
}
WORDS = "the of and page image text model learns letters from pictures quickly small large white black line"


def documents(count: int, chars: int) -> list[str]:
    """Return texts of known words in random order: something to learn within a few steps."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        text = ""
        while len(text) < chars:
            text += rng.choice(WORDS.split()) + " "
        texts.append(text.strip())
    return texts


def measure(**given: Any) -> dict[str, Any]:
    """Train with the settings, and return samples/s, GiB of weights and peak, losses and what was trained."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    import deepsynth
    from deepsynth.data import JsonlSource, TextImageDataModule, TextRenderer
    from deepsynth.models.quantization.weight_table import weight_table
    from tests.helpers.training import grouped

    settings = {**SETTINGS, **given}
    gpu = settings["accelerator"] == "gpu"

    class Steps(Callback):
        times: list[float] = []  # noqa: RUF012 - one run a process
        losses: list[float] = []  # noqa: RUF012
        loaded: dict[str, float] = {}  # noqa: RUF012

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.times, self.losses = [], []
            rows = [row for row in weight_table(module.model, module.resolved_dtype) if row.group != "adapters"]
            self.loaded = {"weights_gib": sum(row.bytes_after for row in rows) / 2**30}
            if gpu:
                torch.cuda.synchronize()
                self.loaded["allocated_gib"] = torch.cuda.memory_allocated() / 2**30
                self.loaded["loading_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
                torch.cuda.reset_peak_memory_stats()
            self._start = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.losses.append(float(outputs["loss"]))  # waits for the device
            now = time.perf_counter()
            self.times.append(now - self._start)
            self._start = now

    seed_everything(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docs.jsonl"
        texts = documents(settings["documents"], settings["text_chars"])
        path.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
        data = TextImageDataModule(
            JsonlSource(str(path)),
            TextRenderer(page_width_px=settings["page_px"], page_height_px=settings["page_px"]),
            model_name=settings["model"],
            max_tokens=4096,
            batch_size=settings["batch_size"],
            num_workers=settings["workers"],
            val_fraction=0.0,
            test_fraction=0.0,
        )
        init = {
            "weights": "random",
            "max_new_tokens": settings["new_tokens"],
            "schedule": "constant",
            **settings["init"],
        }
        module = getattr(deepsynth, settings["module"])(settings["model"], **grouped(**init))
        steps = Steps()
        Trainer(
            max_steps=settings["steps"], accelerator=settings["accelerator"], devices=1, callbacks=[steps],
            logger=False, enable_checkpointing=False, default_root_dir=folder, enable_model_summary=False,
            enable_progress_bar=False,
        ).fit(module, data)  # fmt: skip
        peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else float("nan")
        device = torch.device("cuda" if gpu else "cpu")
        batch = data.transfer_batch_to_device(next(iter(data.train_dataloader())), device, 0)
        module.to(device).eval()
        generations = module.generate(batch)
    warm = sorted(steps.times[2:]) or steps.times
    return {
        "samples_per_s": settings["batch_size"] / warm[len(warm) // 2],
        "peak_gib": peak,
        **steps.loaded,
        "positions": int(batch.inputs["input_ids"].shape[1]),
        "losses": steps.losses,
        "trainable": {n: p.numel() for n, p in module.model.named_parameters() if p.requires_grad},
        "frozen_dtypes": sorted({str(p.dtype) for p in module.model.parameters() if not p.requires_grad}),
        "generated": len(generations or []),
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    import_unsloth_first([f"--model={asked.get('module', '')}"])
    print(json.dumps(measure(**asked)))
