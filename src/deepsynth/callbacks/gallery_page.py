"""A self-contained HTML page of pictures, targets and readings with what differs marked."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from rapidfuzz.distance import Levenshtein

from deepsynth.metrics.corpus import summarize
from deepsynth.metrics.scores import score_table

#: Characters in common between two differences that are fewer than this belong to the difference: chance.
LEAST_IN_COMMON = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model wrote for a sample after so many optimizer steps."""

    step: int
    prediction: str


@dataclass(slots=True)
class GalleryEntry:
    """One sample.

    Attributes:
        name: its id.
        target: what it should read.
        first: the earliest reading.
        latest: the newest reading; the first when there was only one.
        pictures: JPEG files of its pages.
    """

    name: str
    target: str
    first: Reading
    latest: Reading
    pictures: list[bytes] = field(default_factory=list)


def corpus_cer(readings: Sequence[Reading], targets: Sequence[str]) -> float:
    """Return the corpus CER of readings."""
    return summarize(score_table([reading.prediction for reading in readings], targets))["cer"]


def differences(prediction: str, target: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of what was read and what stands there, equal and differing in turn; together they are both texts."""
    read = right = ""
    for code in Levenshtein.opcodes(prediction, target):
        one, other = prediction[code.src_start : code.src_end], target[code.dest_start : code.dest_end]
        at_an_end = code.src_start == code.dest_start == 0 or (
            code.src_end == len(prediction) and code.dest_end == len(target)
        )
        if code.tag == "equal" and (len(one) >= LEAST_IN_COMMON or at_an_end):
            if read or right:
                yield read, right
            yield one, one
            read = right = ""
        else:
            read, right = read + one, right + other
    if read or right:
        yield read, right


def marked(prediction: str, target: str) -> str:
    """Return HTML of a prediction: what is wrong in it struck out, what is missing underlined."""
    parts = []
    for read, right in differences(prediction, target):
        if read == right:
            parts.append(escape(read))
            continue
        parts += [f"<del>{_visible(read)}</del>"] if read else []
        parts += [f"<ins>{_visible(right)}</ins>"] if right else []
    return "".join(parts)


def _visible(text: str) -> str:
    """Return HTML in which a wrong or missing line break can be seen."""
    return escape(text).replace("\n", "↵\n")


def gallery_page(title: str, entries: Sequence[GalleryEntry]) -> str:
    """Return the page: opens without a network, and reads well on a light and a dark screen."""
    targets = [entry.target for entry in entries]
    first, latest = (corpus_cer(r, targets) for r in ([e.first for e in entries], [e.latest for e in entries]))
    steps = f"step {entries[0].first.step}", f"step {max(entry.latest.step for entry in entries)}"
    body = "\n".join(_section(entry) for entry in entries)
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        count=f"{len(entries)} sample{'s' if len(entries) > 1 else ''}",
        before=f"{first:.1%}",
        after=f"{latest:.1%}",
        first=steps[0],
        latest=steps[1],
        body=body,
    )


def _section(entry: GalleryEntry) -> str:
    encoded = [base64.b64encode(data).decode() for data in entry.pictures]
    pictures = "".join(
        f'<img alt="page {number} of {escape(entry.name)}" src="data:image/jpeg;base64,{data}">'
        for number, data in enumerate(encoded, 1)
    )
    readings = [entry.first] if entry.latest == entry.first else [entry.first, entry.latest]
    blocks = "".join(
        f"<h3>Read at step {reading.step} <b>CER {corpus_cer([reading], [entry.target]):.1%}</b></h3>"
        f'<p dir="auto">{marked(reading.prediction.strip(), entry.target.strip())}</p>'
        for reading in readings
    )
    return (
        f"<section><figure>{pictures or 'no picture'}<figcaption>{escape(entry.name)}</figcaption></figure>"
        f'<div><h3>Target</h3><p dir="auto">{escape(entry.target)}</p>{blocks}</div></section>'
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #5a626b; --line: #d6dade; --box: #f4f6f8;
  --wrong: #b3261e; --wrong-box: #fde7e5; --missing: #0b6b3a; --missing-box: #ddf5e6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --paper: #16181b; --soft: #a5adb6; --line: #363b41;
  --box: #1f2226; --wrong: #ff9c93; --wrong-box: #4a1d1a; --missing: #7fdca6; --missing-box: #123d26 } }
body { margin: 0 auto; max-width: 1200px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 22px; margin: 0 } header p { color: var(--soft); margin: 4px 0 }
header strong { color: var(--ink) }
section { display: grid; grid-template-columns: minmax(200px, 5fr) 7fr; gap: 24px; padding: 24px 0;
  border-top: 1px solid var(--line); margin-top: 24px }
figure { margin: 0 } img { width: 100%; border: 1px solid var(--line); box-sizing: border-box }
figcaption, h3 { color: var(--soft); font-size: 13px; font-weight: 600; margin: 0 }
h3 b { color: var(--ink); float: right }
div > p { margin: 4px 0 16px; padding: 10px 12px; max-height: 320px; overflow: auto; background: var(--box);
  white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 6px }
del { color: var(--wrong); background: var(--wrong-box) }
ins { color: var(--missing); background: var(--missing-box); text-decoration: underline }
@media (max-width: 700px) { section { grid-template-columns: 1fr } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{count}, always the same. CER <strong>{before}</strong> at {first}, <strong>{after}</strong> at {latest}.</p>
<p>In what was read, <del>wrong</del> characters are struck out and <ins>missing</ins> ones underlined.</p>
</header>
{body}
</body>
</html>
"""
