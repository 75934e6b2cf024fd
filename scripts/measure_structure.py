"""Measure how many pages a second are drawn with and without structure: python scripts/measure_structure.py.

Both kinds have about 1,500 characters on 1024 x 1024 pixels. Structured pages count as they are drawn, and with what
their target takes, which is written from them in Markdown. Pages of both take turns, and processor time counts, so that
what else runs on the machine does not. Garbage is collected as in the workers of a run; fonts are loaded before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from deepsynth.data.loading.workers import collect_seldom
from deepsynth.data.processing.targets import Targets
from deepsynth.data.rendering.renderer import TextRenderer, forget_drawn_text
from deepsynth.types import Document

ROUNDS, PAGES, CHARACTERS = 7, 30, 1500
FORMULAS = (r"x^2 + y^2 = r^2", r"\alpha_1", r"\frac{a}{b}", r"e^{i\pi}", r"\sqrt{2}", r"\sum_{k=1}^{n} k", r"\lambda")


def words(rng: np.random.Generator, count: int) -> str:
    """Return words of a vocabulary of 2,000."""
    letters = np.random.default_rng(0).integers(97, 123, size=(2000, 9))
    lengths = np.random.default_rng(1).integers(2, 10, size=2000)
    return " ".join(bytes(letters[k, : lengths[k]].tolist()).decode() for k in rng.integers(2000, size=count))


def structured(rng: np.random.Generator) -> str:
    """Return a document with headings, a list, two tables, formulas and a footnote."""
    rows = "".join(f"| {words(rng, 1)} | {words(rng, 2)} | {rng.integers(10_000)} |\n" for _ in range(5))
    spans = "".join(
        f"<tr><td>{words(rng, 1)}</td><td>{words(rng, 2)}</td><td>{words(rng, 1)}</td></tr>" for _ in range(3)
    )
    one, two, three = (str(FORMULAS[k]) for k in rng.integers(len(FORMULAS), size=3))
    items = "".join(f"- {words(rng, 5)}\n" for _ in range(3))
    return (
        f"# {words(rng, 4)}\n\n{words(rng, 30)} **{words(rng, 3)}** ${one}$ {words(rng, 20)}.[^1]\n\n{items}\n"
        f"| {words(rng, 1)} | {words(rng, 1)} | {words(rng, 1)} |\n|:--|:-:|--:|\n{rows}\n## {words(rng, 3)}\n\n"
        f"{words(rng, 30)} ${two}$ *{words(rng, 4)}* {words(rng, 25)}\n\n$${three}$$\n\n"
        f"<table><tr><th rowspan=2>{words(rng, 1)}</th><th colspan=2>{words(rng, 2)}</th></tr>"
        f"<tr><th>{words(rng, 1)}</th><th>{words(rng, 1)}</th></tr>{spans}</table>\n\n{words(rng, 60)}\n\n"
        f"[^1]: {words(rng, 8)}"
    )


def seconds(
    plain: TextRenderer, structured: TextRenderer, texts: Sequence[tuple[str, str]]
) -> tuple[float, float, float]:
    """Return the processor time of a plain page, of a structured one, and of that with its target.

    Args:
        plain: draws the plain pages.
        structured: draws the others.
        texts: a text for each, of one page.
    """
    markdown = Targets({"markdown": 1.0})
    spent = np.zeros(3)
    for number, (words_alone, source) in enumerate(texts):
        times = [time.process_time()]
        assert len(plain(Document(str(number), words_alone), np.random.default_rng(number))) == 1
        times.append(time.process_time())
        (page,) = structured(Document(str(number), source), np.random.default_rng(number))
        times.append(time.process_time())
        assert markdown.draw(page, np.random.default_rng(number))
        times.append(time.process_time())
        spent += np.diff(times)
    drawn_plain, drawn, written = (spent / len(texts)).tolist()
    return drawn_plain, drawn, drawn + written


def main() -> None:
    """Print the rates and their ratios."""
    size = {"page_width_px": 1024, "page_height_px": 1024, "font_size_px": 15.0, "system_fonts": False}
    plain = TextRenderer(**size)  # type: ignore[arg-type]
    renderer = TextRenderer(**size, markup="markdown")  # type: ignore[arg-type]
    seconds(plain, renderer, [("a word", "a $x$")])  # what is imported late
    collect_seldom()
    for first in (True, False):
        found = []
        for number in range(ROUNDS):
            rngs = [np.random.default_rng([number, page, int(first)]) for page in range(PAGES)]
            sources = [structured(rng) for rng in rngs]
            plains = [words(rng, CHARACTERS // 6)[:CHARACTERS] for rng in rngs]
            if first:
                forget_drawn_text()
            found.append(seconds(plain, renderer, list(zip(plains, sources, strict=True))))
        print("empty caches of words" if first else "new pages")
        for name, spent in zip(("plain", "structured", "with target"), zip(*found, strict=True), strict=True):
            ratio = statistics.median([own[0] / one for own, one in zip(found, spent, strict=True)])
            print(f"  {name}: {1 / statistics.median(spent):.0f} pages/s, ratio {ratio:.2f}")
        print(f"  {sum(map(len, sources)) / len(sources):.0f} characters of source in a structured document")


if __name__ == "__main__":
    main()
