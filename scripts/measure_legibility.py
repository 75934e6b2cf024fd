"""Measure whether text on degraded pages is still legible: the character error rate of Tesseract on each preset.

    python scripts/measure_legibility.py FOLDER_OF_TXT [--pages 20] [--presets none,scan,…] [--seed 0]

Passages of 1,500 characters, set in 20 px on pages of 1,024 x 1,024; ``tesseract --psm 6``. White space is folded
before texts are compared. A row per preset: pages, mean, median and worst CER.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import subprocess
from pathlib import Path

import numpy as np
from evaluate_tiny import font
from rapidfuzz.distance import Levenshtein

from deepsynth.data import PageAugmenter, TextRenderer
from deepsynth.types import Document

CHARACTERS = 1500


def read(image: object) -> str:
    """Return what Tesseract reads on an image."""
    file = io.BytesIO()
    image.save(file, "PNG")  # type: ignore[attr-defined]
    command = ["tesseract", "stdin", "stdout", "--psm", "6", "-l", "eng"]
    return subprocess.run(command, input=file.getvalue(), capture_output=True, check=True).stdout.decode()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--presets", default="none,scan,photo,fax,book,typescript,hard")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    books = [" ".join(file.read_text(encoding="utf-8").split()) for file in sorted(args.folder.glob("*.txt"))]
    renderer = TextRenderer(
        page_width_px=1024, page_height_px=1024, font_size_px=20, fonts=(font("DejaVuSerif"),), on_overflow="truncate"
    )
    texts = []
    for _ in range(args.pages):
        book = draw.choice(books)
        start = book.index(" ", draw.randrange(len(book) - 2 * CHARACTERS)) + 1
        texts.append(book[start : start + CHARACTERS].rpartition(" ")[0])
    for preset in args.presets.split(","):
        rates = []
        for number, text in enumerate(texts):
            (page,) = renderer(Document(str(number), text), np.random.default_rng([args.seed, number]))
            if preset != "none":
                page = PageAugmenter(preset)(page, np.random.default_rng([args.seed, number, 1]))
            target, found = (" ".join(words.split()) for words in (page.text, read(page.image)))
            rates.append(Levenshtein.distance(found, target) / len(target))
        print(
            f"{preset:6} {len(rates):3} pages  CER mean {statistics.mean(rates):.4f}  median "
            f"{statistics.median(rates):.4f}  worst {max(rates):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
