"""Measure the CER of the built-in model against the number of real scans that it trains on.

    python scripts/measure_scan_count.py cut pages.jsonl CARDS
    python scripts/measure_scan_count.py train CARDS --counts 8 32 128 --steps 150

``cut`` needs tesseract. ``pages.jsonl`` has a row ``{"image", "text", "book"}`` for each scanned page of print.
Tesseract only says where words are; their texts come from the row, and a line counts where both agree on all its
words. Six halves of consecutive lines become a card of 256 x 256 pixels, the size of a page of the built-in model. The
cards of the last two pages of each book are held out. ``train`` runs ``deepsynth fit`` once for each number of cards,
with the same number of steps, and prints the CER of the held-out cards.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_SIDE_PX, _MARGIN_PX, _LINE_PX, _HALVES = 256, 8, 38, 6
Line = list[tuple[str, tuple[int, int, int, int]]]


def printed_lines(image: Path, text: str) -> Iterator[Line]:
    """Yield the lines of a page whose words tesseract and the text agree on, with the box of each word."""
    args = ["tesseract", str(image), "-", "--psm", "3", "tsv"]
    found = subprocess.run(args, check=True, capture_output=True, text=True, env={"OMP_THREAD_LIMIT": "1"}).stdout
    lines: dict[tuple[str, ...], Line] = defaultdict(list)
    for row in csv.DictReader(io.StringIO(found), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == "5" and row["text"].strip():
            left, top, width, height = (int(row[key]) for key in ("left", "top", "width", "height"))
            box = (left, top, left + width, top + height)
            lines[row["block_num"], row["par_num"], row["line_num"]].append((row["text"], box))
    known = f" {' '.join(text.split())} "
    for line in lines.values():
        if len(line) >= 4 and f" {' '.join(word for word, _ in line)} " in known:
            yield line


def halves(line: Line) -> Iterator[Line]:
    """Yield the two halves of a line."""
    middle = len(line) // 2
    yield line[:middle]
    yield line[middle:]


def draw_card(page: Image.Image, parts: list[Line]) -> Image.Image:
    """Return a card with the pixels of the parts, one below the other."""
    card = Image.new("RGB", (_SIDE_PX, _SIDE_PX), "white")
    for number, part in enumerate(parts):
        boxes = [box for _, box in part]
        edges = (min(b[0] for b in boxes) - 3, min(b[1] for b in boxes) - 3)
        strip = page.crop((*edges, max(b[2] for b in boxes) + 3, max(b[3] for b in boxes) + 3))
        strip.thumbnail((_SIDE_PX - 2 * _MARGIN_PX, _LINE_PX // 2), Image.Resampling.LANCZOS)
        card.paste(strip, (_MARGIN_PX, _MARGIN_PX + number * _LINE_PX))
    return card


def cut(pages: Path, output: Path) -> None:
    """Write the cards of all pages, those of the last two pages of each book into the folder ``held_out``."""
    rows = [json.loads(line) for line in pages.read_text(encoding="utf-8").splitlines()]
    books: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        books[row["book"]].append(row)
    count = {"train": 0, "held_out": 0}
    for of_book in books.values():
        for number, row in enumerate(of_book):
            folder = output / ("held_out" if number >= len(of_book) - 2 else "train")
            folder.mkdir(parents=True, exist_ok=True)
            file = pages.parent / row["image"]
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            parts = [half for line in printed_lines(file, row["text"]) for half in halves(line)]
            for start in range(0, len(parts) - _HALVES + 1, _HALVES):
                of_card = parts[start : start + _HALVES]
                name = folder / f"{file.stem}-{start:03}"
                draw_card(image, of_card).save(name.with_suffix(".png"))
                text = " ".join(word for part in of_card for word, _ in part)
                name.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
                count[folder.name] += 1
    print(f"{count['train']} cards to train on, {count['held_out']} held out, of {len(rows)} pages")


def train(cards: Path, counts: list[int], steps: int, held_out: int, seed: int, options: list[str]) -> None:
    """Score the model as it comes, train on each number of cards, and print a table."""
    args = ["--config", "finetune", "--config", "model/tiny", f"--seed_everything={seed}"]
    args += [f"--data.source.path={cards / 'train'}", "--data.val_fraction=0", "--data.eval_batch_size=8"]
    args += ["--data.val_source=DocumentSource", f"--data.val_source.path={cards / 'held_out'}"]
    args += [f"--data.max_eval_documents={held_out}", f"--trainer.default_root_dir={cards / 'runs'}"]
    args += ["--trainer.enable_progress_bar=false", "--model.generation.max_new_tokens=250", *options]
    before = _run("validate", args, "untrained")
    print(f"{steps} steps, seed {seed}\n\n| scans | CER |\n|---:|---:|\n| 0 | {before:.3f} |", flush=True)
    args += [f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1", f"--trainer.val_check_interval={steps}"]
    args += ["--trainer.check_val_every_n_epoch=null", "--trainer.num_sanity_val_steps=0"]
    for count in counts:
        after = _run("fit", [*args, f"--data.max_train_documents={count}"], f"scans-{count}-seed-{seed}")
        print(f"| {count} | {after:.3f} |", flush=True)


def _run(command: str, args: list[str], name: str) -> float:
    """Run a command of deepsynth and return the last CER that it prints."""
    line = [sys.executable, "-m", "deepsynth", command, *args, f"--run_name={name}"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    found = re.findall(r"val/cer\D+([0-9.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise SystemExit(done.stderr[-3000:])
    return float(found[-1])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("pages", type=Path)
    cutting.add_argument("output", type=Path)
    training = commands.add_parser("train")
    training.add_argument("cards", type=Path)
    training.add_argument("--counts", type=int, nargs="+", default=[8, 32, 128])
    training.add_argument("--steps", type=int, default=150)
    training.add_argument("--held_out", type=int, default=32, help="number of held-out cards that are scored")
    training.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()
    if args.command == "cut":
        cut(args.pages, args.output)
    else:
        train(args.cards, args.counts, args.steps, args.held_out, args.seed, options)


if __name__ == "__main__":
    main()
