"""One run of several processes for scripts/gpu_distributed.sh, started by torchrun, and how it compares with another.

    torchrun --nproc-per-node 1 scripts/gpu_distributed.py --out OUT --name one --batch 16
    torchrun --nproc-per-node 2 scripts/gpu_distributed.py --out OUT --name two --strategy ddp --against one

Each run adds a line to ``OUT/results.jsonl`` when it has ended; adapters are kept in ``--work``.
"""

# ruff: noqa: E402  (Unsloth wants to be imported before transformers)
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from deepsynth.unsloth_import import import_unsloth_first

import_unsloth_first(["--model=UnslothModule"] if "unsloth" in sys.argv else [])

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file

from deepsynth import FullModule, PeftModule, TextImageDataModule
from deepsynth.callbacks import AdapterCheckpoint, ProcessGuard
from deepsynth.data import PythonDocsSource
from deepsynth.distributed import FullyShardedStrategy
from deepsynth.modules.unsloth import UnslothModule
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
    """Losses, time and memory of a run, after warm-up; nothing waits for the GPU between its first and last step."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.losses, self.seconds = warmup, list[torch.Tensor](), 0.0
        self.samples, self.begun, self.held = 0, 0.0, 0

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the loaded model takes, and begin the peak anew."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the loss where it is, and look at the clock at the end of warm-up and of the run."""
        self.losses.append(trainer.callback_metrics["train/loss"].detach().clone())
        if batch_idx + 1 == self.warmup:
            self.begun = self._now()
        elif batch_idx + 1 > self.warmup:
            self.samples += len(batch) * trainer.world_size

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = self._now() - self.begun if self.samples else 0.0


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, and return what it took."""
    begun = time.time()
    seed_everything(0)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    seen = 4 if args.repeat else args.steps
    source = PythonDocsSource(task="transcribe", min_chars=args.chars // 5, max_chars=args.chars)
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
    if args.quantization != "none":
        settings["quantization"] = args.quantization
    module = MODULES[args.module](optimizer=lambda p: torch.optim.AdamW(p, lr=args.lr), **settings)
    strategy: Any = "auto"
    if args.strategy == "fsdp2":
        strategy = FullyShardedStrategy()
    elif args.strategy == "ddp":
        strategy = DDPStrategy(static_graph=args.static_graph)
    meter = Meter(min(args.warmup, args.steps - 1))
    work = Path(args.work) / args.name
    trainer = Trainer(
        accelerator=args.device,
        devices=processes,
        strategy=strategy,
        precision="bf16-mixed" if args.module == "full" else None,
        max_steps=args.steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=work,
        gradient_clip_val=1.0,
        callbacks=[meter, ProcessGuard(), AdapterCheckpoint()],
    )
    trainer.fit(module, data)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    sizes = torch.tensor([float(meter.held), float(peak)], device=trainer.strategy.root_device)
    sizes = trainer.strategy.reduce(sizes, reduce_op="max")
    if not args.repeat and args.module != "full":
        trainer.save_checkpoint(work / "end.ckpt")
    return {
        "name": args.name,
        "strategy": args.strategy,
        "module": args.module,
        "quantization": args.quantization,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": processes,
        "batch_per_process": args.batch,
        "static_graph": args.static_graph,
        "steps": len(meter.losses),
        "samples_per_s": meter.samples / meter.seconds if meter.seconds else None,
        "held_gib": float(sizes[0]) / GIB,
        "peak_gib": float(sizes[1]) / GIB,
        "wall_s": time.time() - begun,
        "losses": [float(loss) for loss in meter.losses],
    }


def compare(first: dict[str, Any], second: dict[str, Any], work: Path) -> dict[str, Any]:
    """Return how far two runs lie apart: their losses, their adapters, their speed and their memory."""
    found: dict[str, Any] = {"against": first["name"]}
    if first["batch_per_process"] * first["processes"] == second["batch_per_process"] * second["processes"]:
        pairs = list(zip(first["losses"], second["losses"], strict=False))
        found["loss_largest_relative_difference"] = max(abs(one - other) / one for one, other in pairs)
    files = [work / run["name"] / "adapter" / "adapter_model.safetensors" for run in (first, second)]
    if all(file.is_file() for file in files):
        one, other = (load_file(file) for file in files)
        norm = sum(float(tensor.square().sum()) for tensor in one.values()) ** 0.5
        difference = sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5
        found["adapter_relative_difference"] = difference / norm
    for name in ("samples_per_s", "held_gib", "peak_gib"):
        if first[name] and second[name]:
            found[f"{name}_ratio"] = second[name] / first[name]
    if first["held_gib"]:
        # Activations take what they take: the rest of the peak is weights, those gathered at the time included.
        activations = first["peak_gib"] - first["held_gib"]
        found["weights_at_peak_ratio"] = (second["peak_gib"] - activations) / first["held_gib"]
    return found


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the run")
    parser.add_argument("--out", required=True, help="folder of results.jsonl")
    parser.add_argument("--work", help="folder of adapters; by default --out")
    parser.add_argument("--against", help="name of an earlier run in results.jsonl to compare with")
    parser.add_argument("--strategy", choices=["one", "ddp", "fsdp2"], default="one")
    parser.add_argument("--module", choices=list(MODULES), default="peft")
    parser.add_argument("--model", default="deepsynth/full-size-ocr")
    parser.add_argument("--weights", choices=["random", "pretrained"], default="random")
    parser.add_argument("--quantization", choices=["none", "nf4", "int8"], default="none")
    parser.add_argument("--batch", type=int, default=8, help="samples per process")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--chars", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--experts", default="none")
    parser.add_argument("--activation_memory", default="none")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeat", action="store_true", help="the same four batches: speed without the data")
    parser.add_argument("--static_graph", action="store_true")
    args = parser.parse_args()
    args.work = args.work or args.out
    result = train(args)
    if int(os.environ.get("RANK", "0")) > 0:
        return
    results = Path(args.out) / "results.jsonl"
    earlier = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    for other in earlier:
        if other["name"] == args.against and "failed" not in other:
            result |= compare(other, result, Path(args.work))
    with results.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "losses"}), flush=True)


if __name__ == "__main__":
    main()
