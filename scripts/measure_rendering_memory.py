"""Measure the memory of a process that draws pages of five scripts, each page of new words.

    python scripts/measure_rendering_memory.py [--pages 5000] [--seed 0]

A line for each fifth: pages drawn, resident memory.
"""

from __future__ import annotations

import argparse

import numpy as np

from deepsynth.data import TextRenderer
from deepsynth.profiling.memory import ProcessMemory
from deepsynth.types import Document

#: First and last letter of English, Arabic, Hindi, Russian and Chinese.
LETTERS = (("a", "z"), ("ب", "ي"), ("क", "ह"), ("а", "я"), ("一", "龥"))
#: Words of a page, and letters of a word.
WORDS, LENGTH = 60, (2, 9)


def words(rng: np.random.Generator, first: str, last: str) -> str:
    """Return random words of the letters of a script."""
    lengths = rng.integers(*LENGTH, WORDS)
    return " ".join("".join(map(chr, rng.integers(ord(first), ord(last) + 1, length))) for length in lengths)


def main() -> None:
    """Draw the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    renderer = TextRenderer(
        page_width_px=512,
        page_height_px=512,
        margin_px=16,
        font_size_px=(10.0, 20.0),
        fonts=("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"),
        on_missing_glyph="replace",  # ranges of letters have places without one
        on_overflow="truncate",
    )
    memory = ProcessMemory()
    for number in range(args.pages):
        rng = np.random.default_rng([args.seed, number])
        renderer(Document(str(number), words(rng, *LETTERS[number % len(LETTERS)])), rng)
        if (number + 1) % max(1, args.pages // 5) == 0:
            print(f"{number + 1:7,} pages  {memory.usage().allocated / 2**20:7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
