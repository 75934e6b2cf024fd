"""Tune the built-in model on long pages, and draw its compression curve before and after.

    python scripts/tune_for_compression.py FOLDER_OF_TXT --output DIR [--steps 400] [--num 40] [--seed 0]

The texts that come last by name are held out for the curve; the others give passages of 100 to 600 characters, from
places drawn by the seed. The renderer is that of the curve, with type of 9 to 12 px.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import yaml

SIZES, LENGTHS = (9, 10, 12), (100, 600)


def write_passages(files: list[Path], count: int, draw: random.Random, target: Path) -> None:
    """Write passages of the files in turn as JSON lines."""
    books = [file.read_text(encoding="utf-8").split() for file in files]
    rows = []
    for number in range(count):
        words = books[number % len(books)]
        length, place = draw.randint(*LENGTHS), draw.randrange(max(1, len(words) - LENGTHS[1]))
        text = ""
        while place < len(words) and len(text) + 1 + len(words[place]) <= length:
            text, place = f"{text} {words[place]}".strip(), place + 1
        if text:
            rows.append(json.dumps({"id": str(number), "text": text}, ensure_ascii=False))
    target.write_text("\n".join(rows) + "\n", encoding="utf-8")


def settings(output: Path, steps: int, batch: int, seed: int) -> dict[str, object]:
    """Return the configuration of the run."""
    renderer = {
        "page_width_px": 256, "page_height_px": 256, "font_size_px": [SIZES[0], SIZES[-1]], "on_overflow": "truncate"
    }  # fmt: skip
    model = {
        "model_name": "deepsynth/tiny",
        "lora": {"attention": True, "vision": True, "projector": True, "rank": 32},
        "warmup_steps": min(20, steps // 10),
        "schedule": "linear",
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-3}},
    }
    data = {
        "source": {"class_path": "JsonlSource", "init_args": {"path": str(output / "train.jsonl")}},
        "renderer": {"class_path": "TextRenderer", "init_args": renderer},
        "text": {"line_breaks": "source"},
        "batch_size": batch,
        "val_fraction": 0.0,
        "test_fraction": 0.0,
    }
    trainer = {"max_steps": steps, "gradient_clip_val": 1.0, "log_every_n_steps": 10, "enable_progress_bar": False}
    return {
        "seed_everything": seed,
        "model": {"class_path": "PeftModule", "init_args": model},
        "data": {"class_path": "TextImageDataModule", "init_args": data},
        "trainer": {**trainer, "default_root_dir": str(output / "runs")},
    }


def main() -> None:
    """Tune, and draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--held", type=int, default=2, help="texts that the model is not tuned on")
    parser.add_argument("--passages", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--num", type=int, default=40, help="pages of each condition of the curve")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.txt"))
    held = args.output / "held"
    held.mkdir(parents=True, exist_ok=True)
    for file in files[-args.held :]:
        (held / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    draw = random.Random(args.seed)
    write_passages(files[: -args.held], args.passages, draw, args.output / "train.jsonl")
    config = args.output / "tune.yaml"
    config.write_text(yaml.safe_dump(settings(args.output, args.steps, args.batch, args.seed)), encoding="utf-8")
    command = [sys.executable, "-m", "deepsynth"]
    subprocess.run([*command, "fit", "--config", str(config), "--run_name=tuned"], check=True)
    adapter = args.output / "runs" / "tuned" / "adapter"
    curve = [
        "evaluate", "compression", "--model.model_name=deepsynth/tiny", f"--ckpt_path={adapter}",
        "--data.source=TextFolderSource", f"--data.source.path={held}", f"--text_tokens={list(LENGTHS)}",
        f"--font_sizes={list(SIZES)}", f"--num={args.num}", f"--output={args.output / 'curve'}",
        "--data.eval_batch_size=20", f"--seed_everything={args.seed}",
    ]  # fmt: skip
    subprocess.run([*command, *curve], check=True)


if __name__ == "__main__":
    main()
