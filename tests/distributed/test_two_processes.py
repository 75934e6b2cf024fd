"""All callbacks in a real run of two processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
from pathlib import Path
import torch
from lightning.pytorch.loggers import CSVLogger
from deepsynth.callbacks import AdapterCheckpoint, PredictionWriter, SampleGallery, TextMetrics, Throughput, VramMonitor
from tests.helpers.training import make_data, make_module, make_trainer

folder = Path(sys.argv[1])
data = make_data(folder / "docs.jsonl", batch_size=1, val_fraction=0.5)
callbacks = [
    VramMonitor(), Throughput(1, peak_tflops=1.0), TextMetrics(["none"], resamples=9), SampleGallery(2),
    AdapterCheckpoint(), PredictionWriter(),
]
trainer = make_trainer(
    folder, callbacks=callbacks, logger=CSVLogger(folder, name="", version=""), devices=2, strategy="ddp",
    max_steps=1, accumulate_grad_batches=2, log_every_n_steps=1, num_sanity_val_steps=1,
)
module = make_module(max_new_tokens=3)
trainer.fit(module, data)
trainer.validate(module, data, verbose=False)
progress = trainer.fit_loop.epoch_loop.batch_progress
progress.current.ready, progress.is_last_batch = 1, False  # as in the middle of an accumulation
for parameter in module.parameters():
    if parameter.requires_grad:
        parameter.grad = torch.full_like(parameter, float(trainer.global_rank))
trainer.save_checkpoint(folder / "last.ckpt")
if trainer.is_global_zero:
    (folder / "val_cer").write_text(str(float(trainer.callback_metrics["val/cer"])))
trainer.predict(module, data)
"""


@pytest.mark.slow
def test_two_ranks(tmp_path: Path, jsonl: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    newest = {name: value for row in rows for name, value in row.items() if value}
    assert float(newest["ram/peak_gib"]) == max(float(newest[f"ram/rank{rank}/peak_gib"]) for rank in (0, 1))
    assert float(newest["train/mfu"]) > 0
    assert float(newest["val/cer/none"]) == pytest.approx(float((tmp_path / "val_cer").read_text()), abs=1e-6)
    assert "RAM of rank 1: peak" in done.stderr
    assert "2 samples, the same in every validation" in (tmp_path / "gallery.html").read_text()
    read = [json.loads(line)["id"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert read == [f"d{i}" for i in range(8)]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["deepsynth"]["partial_gradients"]
    assert len(saved) > 0
    assert all((gradient == 0.5).all() for gradient in saved.values())  # what the step would have seen
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
