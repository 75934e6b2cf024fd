"""Measure how well ``deepsynth/tiny`` reads texts that it has not seen.

    python scripts/evaluate_tiny.py FOLDER_OF_TXT [--pages 48] [--only NAME,…]

A row per condition: pages, characters a page, corpus CER, median CER, seconds a page.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from deepsynth.data import Collator, OcrProcessor, PageAugmenter, TextRenderer
from deepsynth.data.fonts.files import bundled_folder
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.generation import generate
from deepsynth.types import Document, Sample

SIDE = 256
TRAINED = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneral")


def font(name: str) -> str:
    """Return the path of a font of matplotlib's wheel."""
    return str(bundled_folder() / f"{name}.ttf")


def passages(folder: Path, count: int, least: int, most: int, seed: int = 1) -> list[str]:
    """Return passages of books, begun at a word, in characters that the tokenizer has."""
    rng = random.Random(seed)
    books = [
        " ".join(re.sub(r"\s+", " ", file.read_text(encoding="utf-8")).split()) for file in sorted(folder.glob("*.txt"))
    ]
    found: list[str] = []
    while len(found) < count:
        book = rng.choice(books)
        start = book.index(" ", rng.randrange(len(book) - most - 200)) + 1
        text = book[start : start + rng.randint(least, most)].strip()
        if all(" " <= c <= "~" or "¡" <= c <= "ÿ" or c in "–—‘’“”…œ" for c in text):
            found.append(text)
    return found


def shuffled(text: str, seed: int = 0) -> str:
    """Return the text with the letters of every word in another order."""
    rng = random.Random(seed)
    return " ".join("".join(rng.sample(word, len(word))) for word in text.split(" "))


def conditions() -> dict[str, tuple[TextRenderer, PageAugmenter | None, tuple[int, int], Callable[[str], str]]]:
    """Return renderer, augmenter, least and most characters of a page, and a change of the text, by name."""

    def renderer(*fonts: str, **options: object) -> TextRenderer:
        base = {
            "page_width_px": SIDE,
            "page_height_px": SIDE,
            "margin_px": 10,
            "font_size_px": (10.0, 14.0),
            "on_overflow": "truncate",
        }
        return TextRenderer(fonts=tuple(map(font, fonts)), **{**base, **options})  # type: ignore[arg-type]

    mix = renderer(*TRAINED)
    plain: Callable[[str], str] = lambda text: text  # noqa: E731
    return {
        "prose 150-200": (mix, None, (150, 200), plain),
        "prose 400": (renderer(*TRAINED, font_size_px=(10.0, 11.5), line_height=1.2), None, (400, 400), plain),
        "shuffled letters 150-200": (mix, None, (150, 200), shuffled),
        "scan": (mix, PageAugmenter("scan"), (150, 200), plain),
        "default layout 60": (renderer("DejaVuSans", margin_px=48, font_size_px=20), None, (40, 60), plain),
        "fax": (mix, PageAugmenter("fax"), (150, 200), plain),
        "photo": (mix, PageAugmenter("photo"), (150, 200), plain),
        "hard": (mix, PageAugmenter("hard"), (150, 200), plain),
        "cmr10": (renderer("cmr10", system_fonts=True), None, (150, 200), plain),
        "cmtt10": (renderer("cmtt10"), None, (150, 200), plain),
        "cmss10": (renderer("cmss10"), None, (150, 200), plain),
        "cmti10": (renderer("cmti10"), None, (150, 200), plain),
        "cmti10 9 px": (renderer("cmti10", font_size_px=9.0), None, (100, 130), plain),
        "STIX italic 9 px": (renderer("STIXGeneralItalic", font_size_px=9.0), None, (100, 130), plain),
        "STIX bold italic": (renderer("STIXGeneralBolIta"), None, (150, 200), plain),
        "STIX italic": (renderer("STIXGeneralItalic"), None, (150, 200), plain),
        "DejaVu Sans Display": (renderer("DejaVuSansDisplay"), None, (150, 200), plain),
        "white on black": (
            renderer(*TRAINED, text_color=("white",), background_color=("black",)), None, (150, 200), plain
        ),
        "8 px": (renderer("DejaVuSans", "DejaVuSerif", font_size_px=8.0), None, (150, 200), plain),
        "7 px": (renderer("DejaVuSans", "DejaVuSerif", font_size_px=7.0), None, (150, 200), plain),
        "two columns": (renderer("DejaVuSans", font_size_px=9.5, columns=2, column_gap_px=14), None, (150, 200), plain),
        "line height 1.0": (renderer(*TRAINED, line_height=1.0), None, (150, 200), plain),
        "upper case": (mix, None, (150, 200), str.upper),
    }  # fmt: skip


def evaluate(name: str, model: Any, processor: OcrProcessor, samples: list[Sample], max_new_tokens: int) -> None:
    """Print a row: pages, characters a page, CER of all, median CER, seconds a page; and the worst page."""
    begun, rows = time.perf_counter(), []
    for start in range(0, len(samples), 24):
        part = samples[start : start + 24]
        batch = Collator(processor.pad_token_id)(part)
        generations = generate(model, processor.hf_processor.tokenizer, batch, max_new_tokens=max_new_tokens)
        assert generations is not None
        rows += [(sample.target, generation.text) for sample, generation in zip(part, generations, strict=True)]
    seconds = (time.perf_counter() - begun) / len(samples)
    rates = [Levenshtein.normalized_distance(*row) for row in rows]
    edits, length = sum(Levenshtein.distance(*row) for row in rows), sum(len(target) for target, _ in rows)
    worst = rows[int(np.argmax(rates))]
    print(
        f"{name:26} {len(rows):3} pages, {length / len(rows):4.0f} chars  CER {edits / length:.4f}  "
        f"median {statistics.median(rates):.4f}  {seconds:.2f} s/page"
    )
    print(f"    worst: {worst[0][:110]!r}\n           {worst[1][:110]!r}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=48)
    parser.add_argument("--only", default="")
    parser.add_argument("--model", default="deepsynth/tiny")
    args = parser.parse_args()

    from transformers import AutoModelForImageTextToText

    from deepsynth.models import register
    from deepsynth.models.registry import resolve_model_name

    register()

    begun = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(resolve_model_name(args.model), dtype="float32").eval()
    print(f"load {time.perf_counter() - begun:.2f} s, {sum(p.numel() for p in model.parameters()):,} parameters")
    processor = OcrProcessor(args.model)
    for name, (draw, augmenter, (least, most), change) in conditions().items():
        if args.only and name not in args.only.split(","):
            continue
        pipeline = Pipeline(draw, augmenter, processor, seed=1, text=TextCleaning(line_breaks="source"))
        samples = []
        for number, text in enumerate(passages(args.folder, args.pages, least, most)):
            sample = pipeline.sample(Document(id=str(number), text=change(text)), 0, 0)
            assert sample is not None
            samples.append(sample)
        evaluate(name, model, processor, samples, int(most * 1.3) + 10)


if __name__ == "__main__":
    main()
