"""One run of several processes for scripts/gpu_distributed.sh, started by torchrun; and the comparison of two runs.

    torchrun --standalone --nproc-per-node 2 scripts/gpu_distributed.py train --strategy ddp --batch 8 --out out/ddp2
    python scripts/gpu_distributed.py compare out/one out/ddp2

Every figure is a line ``RESULT {json}`` on standard output, from rank zero.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from deepsynth import FullModule, PeftModule, TextImageDataModule
from deepsynth.callbacks import AdapterCheckpoint, ProcessGuard
from deepsynth.data import PythonDocsSource
from deepsynth.modules.unsloth import UnslothModule
from deepsynth.parallel_strategy import FullyShardedStrategy
from deepsynth.types import Batch

GIB = 1024**3
MODULES = {"peft": PeftModule, "unsloth": UnslothModule, "full": FullModule}


class Repeated:
    """The same few batches again and again: the data costs nothing."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (self.batches[step % len(self.batches)] for step in range(self.steps))


class RepeatedData(TextImageDataModule):
    """Trains on four batches of every process."""

    steps = 0

    def train_dataloader(self) -> Any:
        """Return them."""
        return Repeated(list(islice(super().train_dataloader(), 4)), self.steps)


class Meter(Callback):
    """Losses, time and memory of a run, after warm-up."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.losses, self.seconds = warmup, list[float](), 0.0
        self.samples, self.begun, self.held = 0, 0.0, 0

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the loaded model takes, and begin the peak anew."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the loss, and the time since the end of warm-up."""
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        if batch_idx + 1 == self.warmup:
            self.begun = self._now()
        elif batch_idx + 1 > self.warmup:
            self.samples += len(batch) * trainer.world_size
            self.seconds = self._now() - self.begun


def train(args: argparse.Namespace) -> None:
    """Train, and print what it took."""
    seed_everything(0)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    seen = 4 if args.repeat else args.steps
    source = PythonDocsSource(task="transcribe", min_chars=args.chars // 2, max_chars=args.chars)
    kind = RepeatedData if args.repeat else TextImageDataModule
    data = kind(
        source,
        model_name=args.model,
        batch_size=args.batch,
        val_fraction=0.0,
        test_fraction=0.0,
        num_workers=args.workers,
        max_train_documents=seen * args.batch * processes,
    )
    RepeatedData.steps = args.steps
    settings: dict[str, Any] = {"model_name": args.model, "weights": args.weights, "schedule": "constant"}
    settings["activation_memory"] = args.activation_memory
    if args.experts != "none":
        settings["lora_experts"] = args.experts
    module = MODULES[args.module](optimizer=lambda p: torch.optim.AdamW(p, lr=args.lr), **settings)
    strategy: Any = "auto"
    if args.strategy == "fsdp2":
        strategy = FullyShardedStrategy()
    elif args.strategy == "ddp":
        strategy = DDPStrategy(static_graph=args.static_graph)
    meter = Meter(min(args.warmup, args.steps - 1))
    trainer = Trainer(
        accelerator=args.device,
        devices=processes,
        strategy=strategy,
        precision="bf16-mixed" if args.module == "full" and args.device != "cpu" else None,
        max_steps=args.steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=args.out,
        gradient_clip_val=1.0,
        callbacks=[meter, ProcessGuard(), AdapterCheckpoint()],
    )
    trainer.fit(module, data)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    sizes = torch.tensor([float(meter.held), float(peak)], device=module.device)
    sizes = trainer.strategy.reduce(sizes, reduce_op="max")
    if not args.repeat and args.module != "full":
        trainer.save_checkpoint(Path(args.out) / "end.ckpt")
    if trainer.is_global_zero:
        result = {
            "strategy": args.strategy,
            "module": args.module,
            "processes": processes,
            "batch_per_process": args.batch,
            "static_graph": args.static_graph,
            "steps": len(meter.losses),
            "samples_per_s": meter.samples / meter.seconds if meter.seconds else None,
            "held_gib": float(sizes[0]) / GIB,
            "peak_gib": float(sizes[1]) / GIB,
            "first_loss": meter.losses[0],
            "last_loss": meter.losses[-1],
        }
        Path(args.out).mkdir(parents=True, exist_ok=True)
        (Path(args.out) / "losses.json").write_text(json.dumps(meter.losses))
        (Path(args.out) / "result.json").write_text(json.dumps(result))
        print("RESULT", json.dumps(result), flush=True)


def compare(args: argparse.Namespace) -> None:
    """Print how far two runs lie apart: their losses, their adapters, their speed and their memory."""
    from safetensors.torch import load_file

    folders = [Path(args.first), Path(args.second)]
    first, second = (json.loads((folder / "result.json").read_text()) for folder in folders)
    losses = [torch.tensor(json.loads((folder / "losses.json").read_text())) for folder in folders]
    count = min(map(len, losses))
    found: dict[str, Any] = {"first": args.first, "second": args.second}
    if first["batch_per_process"] * first["processes"] == second["batch_per_process"] * second["processes"]:
        found["loss_largest_relative_difference"] = float(
            ((losses[0][:count] - losses[1][:count]).abs() / losses[0][:count]).max()
        )
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in folders]
    if all(file.is_file() for file in files):
        one, other = (load_file(file) for file in files)
        difference = sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5
        norm = sum(float(tensor.square().sum()) for tensor in one.values()) ** 0.5
        found["adapter_relative_difference"] = difference / norm
    for name in ("samples_per_s", "held_gib", "peak_gib"):
        if first[name] and second[name]:
            found[f"{name}_ratio"] = second[name] / first[name]
    print("RESULT", json.dumps(found), flush=True)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train")
    run.add_argument("--strategy", choices=["one", "ddp", "fsdp2"], default="one")
    run.add_argument("--module", choices=list(MODULES), default="peft")
    run.add_argument("--model", default="deepsynth/full-size-ocr")
    run.add_argument("--weights", choices=["random", "pretrained"], default="random")
    run.add_argument("--batch", type=int, default=8, help="samples per process")
    run.add_argument("--steps", type=int, default=50)
    run.add_argument("--warmup", type=int, default=5)
    run.add_argument("--lr", type=float, default=1e-4)
    run.add_argument("--chars", type=int, default=1500)
    run.add_argument("--workers", type=int, default=0)
    run.add_argument("--experts", default="none")
    run.add_argument("--activation_memory", default="none")
    run.add_argument("--device", default="cuda")
    run.add_argument("--repeat", action="store_true", help="the same four batches: speed without the data")
    run.add_argument("--static_graph", action="store_true")
    run.add_argument("--out", required=True)
    run.set_defaults(call=train)
    both = commands.add_parser("compare")
    both.add_argument("first")
    both.add_argument("second")
    both.set_defaults(call=compare)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
