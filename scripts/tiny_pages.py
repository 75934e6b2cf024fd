"""Pages for ``scripts/pretrain_tiny.py``: endless made-up text, and where on the page each character stands."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import ImageFont
from torch.utils.data import Dataset

from deepsynth.data import Augmenter, PythonDocsSource, Renderer, TextImageDataModule, TextRenderer
from deepsynth.data.fonts.files import bundled_folder
from deepsynth.data.loading.dataset import PageDataset
from deepsynth.data.loading.loader import ResumableLoader
from deepsynth.data.loading.workers import Workers
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.types import Document, Page, Sample

#: Characters of a feature's cell that the encoder is taught.
SLOTS = 8
#: Most tokens of a target whose places are taught.
PLACES = 768

_FONTS = (
    ("DejaVuSans", 4), ("DejaVuSerif", 4), ("DejaVuSansMono", 3), ("DejaVuSans-Bold", 2), ("DejaVuSerif-Bold", 1),
    ("DejaVuSans-Oblique", 1), ("DejaVuSerif-Italic", 1), ("DejaVuSansMono-Bold", 1), ("DejaVuSansMono-Oblique", 1),
    ("STIXGeneral", 2), ("STIXGeneralBol", 1),
)  # fmt: skip
FONTS = tuple(str(bundled_folder() / f"{name}.ttf") for name, share in _FONTS for _ in range(share))
_INKS = ("black", "black", "black", "#202020", "#303050", "#402010", "#505050")
_PAPERS = ("white", "white", "white", "#fffff0", "#f4ecd8", "#eeeeee")


# ---------------------------------------------------------------------- text

_SYMBOLS = "0123456789" * 3 + ".,;:!?()[]{}<>/\\|@#$%&*+-=_~^'\"`“”‘’—–…•€£§©®°±·«»¿¡×÷½¼¾²³µ¶™"
_ACCENTED = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿœŒŸ"
_ACCENTS = {"a": "àáâãäåæ", "c": "ç", "e": "èéêë", "i": "ìíîï", "n": "ñ", "o": "òóôõöøœ", "u": "ùúûü", "y": "ýÿ"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CAPITALS = _LETTERS.upper()
_ROMAN = (
    "I",
    "II",
    "III",
    "IV",
    "V",
    "VI",
    "VII",
    "VIII",
    "IX",
    "X",
    "XI",
    "XII",
    "XIV",
    "XIX",
    "XX",
    "XXIV",
    "XL",
    "LX",
    "XC",
    "CXI",
)
_TITLES = ("Mr.", "Mrs.", "Miss", "Dr.", "Sir", "Lady", "M.", "St.", "Colonel", "Captain")
_SAID = ("said", "cried", "replied", "asked", "answered", "whispered", "returned", "continued")


@lru_cache(maxsize=1)
def corpus() -> tuple[str, ...]:
    """Return the paragraphs of the running Python's documentation, each on one line, in characters that we have."""
    seen: dict[str, None] = {}
    for document in PythonDocsSource(task="transcribe", min_chars=40):
        for paragraph in re.split(r"\n\s*\n", document.text):
            line = " ".join(paragraph.replace("``", '"').split())
            if len(line) > 30 and all(" " <= c <= "~" or "¡" <= c <= "ÿ" for c in line):
                seen[line] = None
    return tuple(seen)


class TextMaker:
    """Makes texts that must be read letter by letter: whatever can be guessed is rare enough.

    Args:
        rng: of this text.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def text(self, length: int) -> str:
        """Return a text of about ``length`` characters."""
        kind = self.rng.random()
        if kind < 0.45:
            text = self.prose(length)
        elif kind < 0.60:
            words = self.words(length * 2)
            self.rng.shuffle(words)
            text = " ".join(words)
        elif kind < 0.78:
            text = " ".join(self.shuffled(word) for word in self.words(length + 20))
        elif kind < 0.90:
            text = self.mixture(length)
        else:
            text = self.noise(length)
        text = text[:length]
        if self.rng.random() < 0.12:
            words = text.split(" ")
            for _ in range(self.rng.randint(1, 4)):
                place = self.rng.randrange(len(words))
                words[place] = self.rng.choice(("\n", "\n", "\n\n")) + words[place]
            text = " ".join(words).replace(" \n", "\n")
        return text.strip() or "—"

    def words(self, length: int) -> list[str]:
        """Return words of the corpus, about ``length`` characters of them, from one place."""
        texts = corpus()
        words: list[str] = []
        while length > 0:
            text = self.rng.choice(texts)
            start = self.rng.randrange(len(text)) if len(text) > length else 0
            part = text[start : start + length + 12].split(" ")
            part = part[1:] if start else part
            words += part
            length -= sum(map(len, part)) + len(part)
        return words or ["a"]

    def shuffled(self, word: str) -> str:
        """Return the word with its letters in another order, sometimes in other letters of the same kind."""
        letters = list(word)
        self.rng.shuffle(letters)
        if self.rng.random() < 0.4:
            letters = [self.like(letter) for letter in letters]
        return "".join(letters)

    def like(self, letter: str) -> str:
        """Return a random character of the same kind."""
        if letter.islower():
            return self.rng.choice(_LETTERS)
        if letter.isupper():
            return self.rng.choice(_CAPITALS)
        return self.rng.choice("0123456789") if letter.isdigit() else letter

    def prose(self, length: int) -> str:
        """Return sentences in the typography of a book."""
        rng = self.rng
        words = self.words(length + 20)
        if rng.random() < 0.25:
            return " ".join(words)
        book: list[str] = []
        open_quote = False
        for word in words:
            word = word.replace("'", "’")
            draw = rng.random()
            if draw < 0.03:
                word = f"{rng.choice(_TITLES)} {word.capitalize()}"
            elif draw < 0.05:
                word = f"{word}—{self.pseudo()}"
            elif draw < 0.065:
                word = rng.choice(_ROMAN) + rng.choice(("", ".", ","))
            elif draw < 0.08:
                word = f"_{word}_"
            elif draw < 0.10:
                word = "".join(rng.choice(_ACCENTS.get(c, c)) if rng.random() < 0.3 else c for c in word)
            elif draw < 0.14:
                word = self.pseudo() + rng.choice(("", ",", ".", ";", "!", "?", "…", "’s"))
            elif draw < 0.15:
                word = f"‘{word}’"
            elif draw < 0.17:
                word = word.upper()
            elif draw < 0.185:
                word = f"{word[: len(word) // 2 + 1]}-{self.pseudo()}"
            elif draw < 0.21:
                word = word.capitalize()
            if open_quote and draw > 0.88:
                word += rng.choice(
                    (",”", ".”", "!”", "?”", "”", "—”", "”", f",” {rng.choice(_SAID)} {self.pseudo().capitalize()}")
                )
                open_quote = False
            elif not open_quote and 0.84 < draw < 0.88:
                word, open_quote = "“" + word.capitalize(), True
            book.append(word)
        return " ".join(book)

    def pseudo(self) -> str:
        """Return a word that is none."""
        vowel = self.rng.random() < 0.5
        letters = []
        for _ in range(self.rng.randint(2, 10)):
            letters.append(self.rng.choice("aeiouy" if vowel else "bcdfghjklmnpqrstvwxz"))
            vowel = not vowel if self.rng.random() < 0.85 else vowel
        return "".join(letters)

    def mixture(self, length: int) -> str:
        """Return pseudo-words, numbers, dates, amounts and punctuation."""
        rng = self.rng
        parts: list[str] = []
        while length > 0:
            draw = rng.random()
            if draw < 0.5:
                part = self.pseudo()
                part = part.capitalize() if rng.random() < 0.3 else part.upper() if rng.random() < 0.15 else part
            elif draw < 0.7:
                part = str(rng.randrange(10 ** rng.randint(1, 7)))
            elif draw < 0.8:
                part = f"{rng.randint(1, 31)}.{rng.randint(1, 12)}.{rng.randint(1700, 2030)}"
            elif draw < 0.9:
                part = rng.choice("$£€#") + f"{rng.random() * 10 ** rng.randint(0, 5):,.2f}"
            else:
                part = "".join(rng.choice(_ACCENTED) for _ in range(rng.randint(1, 6)))
            part += rng.choice(("", "", "", ",", ".", ";", ":", "!", "?", ")", "”", "—", "…"))
            part = rng.choice(("", "", "", "", "(", "“", "‘", "«")) + part
            parts.append(part)
            length -= len(part) + 1
        return " ".join(parts)

    def noise(self, length: int) -> str:
        """Return random characters of all that we have."""
        rng = self.rng
        alphabet = rng.choice(
            (_LETTERS, _LETTERS + _CAPITALS, _LETTERS + _CAPITALS + _SYMBOLS, _SYMBOLS, _LETTERS + _ACCENTED)
        )
        parts = []
        while length > 0:
            size = rng.randint(1, 11)
            parts.append("".join(rng.choice(alphabet) for _ in range(size)))
            length -= size + 1
        return " ".join(parts)


# ---------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Layouts(Renderer):
    """Draws each document by one of several renderers.

    Args:
        renderers: with equal chances.
    """

    renderers: tuple[TextRenderer, ...]

    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages."""
        return self.renderers[int(rng.integers(len(self.renderers)))](document, rng)

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page."""
        return self(document, rng)[number]  # the only one, and laid out once


def layouts(side: int) -> Layouts:
    """Return the layouts of training: mostly small type, sometimes large."""

    def make(sizes: tuple[float, float], margins: tuple[int, int]) -> TextRenderer:
        return TextRenderer(
            page_width_px=side, page_height_px=side, margin_px=margins, font_size_px=sizes, line_height=(1.1, 1.6),
            justify=0.15, fonts=FONTS, system_fonts=False, on_overflow="truncate", text_color=_INKS,
            background_color=_PAPERS,
        )  # fmt: skip

    small = make((10.0, 14.0), (4, 16))
    return Layouts(
        (
            small,
            small,
            small,
            small,
            small,
            make((9.0, 12.0), (4, 12)),
            make((13.0, 18.0), (4, 24)),
            make((16.0, 26.0), (6, 48)),
        )
    )


@dataclass(frozen=True)
class Sometimes(Augmenter):
    """Degrades a share of the pages.

    Args:
        augmenter: of those.
        share: of the pages.
    """

    augmenter: Augmenter
    share: float

    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        """Return the page, degraded or as it is."""
        return self.augmenter(page, rng) if rng.random() < self.share else page


class GrayPages(DeepseekOcrImageProcessor):
    """Leaves pages as 8 bits of gray, a twelfth of the bytes; the module makes them what the model takes."""

    def __call__(self, images: Sequence[Any], **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return ``pixel_values`` (V, S, S) in uint8."""
        return {"pixel_values": np.stack([np.asarray(image.convert("L")) for image in images])}


@dataclass(frozen=True)
class PlaceProcessor(OcrProcessor):
    """Adds what the auxiliary losses teach: the characters of every feature's cell, and the cell of every character."""

    @cached_property
    def hf_processor(self) -> Any:
        """Return the model's processor with :class:`GrayPages`."""
        processor = super().hf_processor
        images = processor.image_processor
        processor.image_processor = GrayPages(size=dict(images.size), crop_to_patches=False)
        self.__dict__["vocabulary"] = processor.tokenizer.get_vocab()
        self.__dict__["kept"] = {}
        return processor

    def _encode(self, text: str) -> list[int]:
        kept: dict[str, list[int]] = self.__dict__.setdefault("kept", {})
        if text not in kept:
            kept[text] = super()._encode(text)
        return kept[text]

    def _target_ids(self, target: str) -> list[int]:
        vocabulary = self.__dict__["vocabulary"]
        return [vocabulary[character] for character in target]

    def __call__(self, document: Document, pages: Sequence[Page], *, prompt_only: bool = False) -> Sample | None:
        """Return the sample with ``cells`` (1, n*n, SLOTS) and ``places`` (1, PLACES), -100 where nothing is taught."""
        sample = super().__call__(document, pages, prompt_only=prompt_only)
        if sample is None:
            return None
        side = self.layout.features(self.layout.base_size)
        cells, places = locate(
            pages[0], sample.labels[sample.prompt_length :].tolist(), side, self.layout.base_size // side
        )
        images = {**sample.images, "cells": torch.from_numpy(cells)[None], "places": torch.from_numpy(places)[None]}
        return replace(sample, images=images)


@lru_cache(maxsize=1)
def _widths() -> tuple[dict[str, float], float]:
    font = ImageFont.truetype(str(bundled_folder() / "DejaVuSans.ttf"), 50, layout_engine=ImageFont.Layout.BASIC)
    return {c: font.getlength(c) for c in map(chr, (*range(33, 127), *range(161, 0x180)))}, font.getlength("n")


def locate(page: Page, ids: Sequence[int], side: int, cell_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the characters of every cell, and the cell of every character of the target.

    Within a word, characters stand where DejaVu Sans would put them: near enough for a cell of many pixels.

    Args:
        page: with its lines.
        ids: tokens of its text, one a character, and EOS.
        side: cells along a side.
        cell_px: side of a cell.
    """
    widths, usual = _widths()
    places = np.full(PLACES, -100, dtype=np.int64)
    cells = np.full((side * side, SLOTS), -100, dtype=np.int64)
    filled = [0] * (side * side)
    at, last, text, most = 0, 0, page.text, side - 1
    for line in page.lines:
        row = min(max(int((line.box[1] + line.box[3]) / 2 / cell_px), 0), most) * side
        mono = "Mono" in line.font
        for word in line.words:
            start = text.find(word.text, at)
            if start < 0:
                continue
            places[at : min(start, PLACES)] = last
            left, _, right, _ = word.box
            parts = [usual if mono else widths.get(c, usual) for c in word.text]
            scale = (right - left) / max(sum(parts), 1e-6)
            for number, part in enumerate(parts):
                last = row + min(max(int((left + part * scale / 2) / cell_px), 0), most)
                left += part * scale
                if start + number < PLACES:
                    places[start + number] = last
                if filled[last] < SLOTS:
                    cells[last, filled[last]] = ids[start + number]
                    filled[last] += 1
            at = start + len(word.text)
    if len(ids) <= PLACES:
        places[at : len(ids)] = last
    for cell, count in enumerate(filled):
        if count < SLOTS:
            cells[cell, count] = 0  # the end of the cell's characters
    return cells, places


# ---------------------------------------------------------------------- data


class EndlessPages(PageDataset):
    """Pages made up by number, never twice the same.

    Args:
        size: samples of the run.
        pipeline: draws them.
        lengths: (sample, most characters) points, between which the length grows.
    """

    def __init__(self, size: int, pipeline: Pipeline, lengths: Sequence[tuple[float, float]]) -> None:
        Dataset.__init__(self)
        self.size, self.pipeline, self.documents, self.dropped = size, pipeline, (), 0
        self.points = [point for point, _ in lengths]
        self.most = [most for _, most in lengths]
        corpus()  # read before the workers are forked

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return sample ``index``; its text depends on the seed, the epoch and the index alone."""
        epoch, index = key
        rng = random.Random(f"{self.pipeline.seed}:{epoch}:{index}")
        most = float(np.interp(index, self.points, self.most))
        length = rng.uniform(0.35 * most, most) if rng.random() < 0.75 else rng.uniform(3, most)
        text = TextMaker(rng).text(max(3, int(length)))
        sample = self.pipeline.sample(Document(id=f"{epoch}-{index}", text=text), 0, epoch)
        assert sample is not None
        return sample


class TinyData(TextImageDataModule):
    """Endless training pages, and validation pages of a source.

    Args:
        samples: of the run.
        lengths: see :class:`EndlessPages`.
        **kwargs: of the data module.
    """

    def __init__(self, samples: int, lengths: Sequence[tuple[float, float]], **kwargs: Any) -> None:
        # A line of the text is one line of the label, however often the page breaks it.
        super().__init__(**{"text": TextCleaning(line_breaks="source"), **kwargs})
        self.samples, self.lengths = samples, lengths
        # A forked worker starts at once, and does not touch the GPU.
        self.workers = Workers(self.workers.count, self.seed, start_method="fork")

    def setup(self, stage: str) -> None:
        """Make the training set; validation is as in any run."""
        if "train" not in self.datasets:
            self.datasets["train"] = EndlessPages(self.samples, self.pipeline(), self.lengths)
        if "val" not in self.datasets and self.val_source is not None:
            renderer = self.renderer or self._default_renderer()
            clean = Pipeline(renderer, None, self.processor, self.seed, text=self.text)
            self.datasets["val"] = PageDataset(self.reader.read(["val"], None)["val"], clean)

    def train_dataloader(self) -> ResumableLoader:
        """Return training batches in the order of their numbers, so that texts grow."""
        return self._loader("train", self.batch_size, shuffle=False, even=True)
