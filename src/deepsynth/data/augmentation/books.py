"""Degradations of old books and typescripts: uneven letters, printed frames, stamps, pens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    ImageArray,
    Limits,
    as_uint8,
    background_color,
    draw,
    is_light,
    noise_window,
    shade,
    to_gray,
    to_rgb,
)

#: Components that are higher than this many letters are pictures or rules.
_TALLEST = 4.0
#: Part of a letter's height within which its parts, such as the dot of an i, belong together.
_LETTER_GAP = 0.4
_STAMP_TEXTS = ("RECEIVED", "COPY", "ARCHIVE", "PAID", "LIBRARY", "No. 4711", "APPROVED")
_INKS = ((40, 50, 140), (150, 30, 40), (90, 40, 120), (30, 30, 40), (20, 90, 70))


@dataclass(frozen=True)
class LetterJitter(Degradation):
    """Set each letter a little higher or lower and blacker or paler, as typewriters and worn type do.

    Attributes:
        shift: range of the largest move up or down, as a share of the letters' height, 0 to 0.15; at least a pixel.
        fade: range of how much paler the palest letter is, 0 to 0.7.
    """

    probability: float = 1.0
    shift: tuple[float, float] = (0.03, 0.1)
    fade: tuple[float, float] = (0.1, 0.4)
    key: ClassVar[str] = "letter_jitter"
    limits: ClassVar[Limits] = {"shift": (0.0, 0.15), "fade": (0.0, 0.7)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with uneven letters; boxes grow by the largest move."""
        share, fade = draw(rng, self.shift), draw(rng, self.fade)
        paper = background_color(image)
        gray = to_gray(image)
        ink = as_uint8(cv2.absdiff(gray, np.full_like(gray, to_gray(np.full((1, 1, 3), paper, np.uint8))[0, 0])))
        mask = as_uint8(cv2.threshold(ink, 12, 255, cv2.THRESH_BINARY)[1])
        _, _, plain, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if len(plain) < 2:
            return image, boxes
        letter = float(np.median(plain[1:, cv2.CC_STAT_HEIGHT]))
        reach = round(_LETTER_GAP * letter) | 1  # an even window would be off by half a pixel
        joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((reach, 1), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        largest = max(1, round(share * letter)) if share else 0
        largest_sides = np.array([3 * _TALLEST * letter, _TALLEST * letter])
        moves = np.all(stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] <= largest_sides, axis=1)
        shifts = moves * rng.integers(-largest, largest, endpoint=True, size=(count,))
        fades = moves * rng.uniform(0.0, fade, size=(count,))
        rows, columns = np.nonzero(mask)
        own = labels[rows, columns]
        found = image[rows, columns].astype(np.float64)
        kept = fades[own] if image.ndim == 2 else fades[own][:, None]
        result = image.copy()
        result[rows, columns] = paper if image.ndim == 3 else paper[0]
        moved = np.clip(rows + shifts[own], 0, image.shape[0] - 1)
        result[moved, columns] = np.rint(found + (np.array(paper if image.ndim == 3 else paper[0]) - found) * kept)
        grown = boxes + np.array([0.0, -largest, 0.0, largest])
        return result, np.clip(grown, 0.0, [*image.shape[1::-1], *image.shape[1::-1]])


@dataclass(frozen=True)
class PrintedFrame(Degradation):
    """Print rules around the text, single or double, on some or all sides, where the margin has room for them.

    Attributes:
        gap: range of the distance from the text, as a share of the margin, 0.1 to 0.9.
        width_px: widest rule in pixels, 1 to 6.
    """

    probability: float = 1.0
    gap: tuple[float, float] = (0.2, 0.6)
    width_px: int = 3
    key: ClassVar[str] = "printed_frame"
    limits: ClassVar[Limits] = {"gap": (0.1, 0.9), "width_px": (1, 6)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with rules in its margins; boxes stay."""
        height, width = image.shape[:2]
        room = (boxes[:, 0].min(), boxes[:, 1].min(), width - boxes[:, 2].max(), height - boxes[:, 3].max())
        share = draw(rng, self.gap)
        thickness = int(rng.integers(1, self.width_px, endpoint=True))
        inner = thickness + 2 if rng.random() < 0.4 else 0  # a second, thin rule within the first
        sides = range(4) if rng.random() < 0.6 else rng.permutation(4)[: int(rng.integers(1, 4))]
        level = 0 if is_light(background_color(image)) else 255
        result = image.copy()
        edges = [round(side * (1 - share)) for side in room]
        left, top, right, bottom = edges[0], edges[1], width - edges[2], height - edges[3]
        for side in sides:
            if room[side] * share < thickness + inner + 2:
                continue
            for offset, wide in ((0, thickness), (inner, 1))[: 2 if inner else 1]:
                if side in (0, 2):
                    x = left + offset if side == 0 else right - offset - wide
                    result[top:bottom, x : x + wide] = level
                else:
                    y = top + offset if side == 1 else bottom - offset - wide
                    result[y : y + wide, left:right] = level
        return result, boxes


@dataclass(frozen=True)
class Stamp(Degradation):
    """Stamp the page, over its text: a ring or a box with a word, in colored ink that lets the text through.

    Attributes:
        opacity: range of how much of the paper's light the ink takes, 0 to 0.7.
        size: range of its width, as a share of the page's width, 0.05 to 0.5.
    """

    probability: float = 1.0
    opacity: tuple[float, float] = (0.25, 0.5)
    size: tuple[float, float] = (0.12, 0.3)
    key: ClassVar[str] = "stamp"
    limits: ClassVar[Limits] = {"opacity": (0.0, 0.7), "size": (0.05, 0.5)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the stamped page, in color; boxes stay."""
        height, width = image.shape[:2]
        side = max(24, round(draw(rng, self.size) * width))
        text = _STAMP_TEXTS[int(rng.integers(len(_STAMP_TEXTS)))]
        stamp = np.zeros((side, side), np.uint8)
        middle, thick = side // 2, max(1, side // 50)
        (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)
        scale = 0.8 * side / wide
        if rng.random() < 0.5:
            cv2.circle(stamp, (middle, middle), middle - thick - 1, 255, thick)
            cv2.circle(stamp, (middle, middle), round(0.86 * middle), 255, max(1, thick // 2))
        else:
            half = max(round(14 * scale) + 2 * thick, side // 8)
            cv2.rectangle(stamp, (thick, middle - half), (side - thick - 1, middle + half), 255, thick)
        start = (round(0.1 * side), middle + round(11 * scale))
        cv2.putText(stamp, text, start, cv2.FONT_HERSHEY_DUPLEX, scale, 255, max(1, thick), cv2.LINE_AA)
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-25, 25)), 0.9)
        stamp = as_uint8(cv2.warpAffine(stamp, turn, (side, side)))
        worn = as_uint8(cv2.threshold(noise_window(stamp.shape, rng), 100, 255, cv2.THRESH_BINARY)[1])
        stamp = as_uint8(cv2.bitwise_and(stamp, worn))
        left = int(rng.integers(1 - side // 3, max(2, width - 2 * side // 3)))
        top = int(rng.integers(max(1, height - side)))
        whole = np.zeros((height, width), np.uint8)
        right, bottom = min(width, left + side), min(height, top + side)
        whole[top:bottom, max(0, left) : right] = stamp[: bottom - top, max(0, -left) : right - left]
        return _inked(image, whole, _INKS[int(rng.integers(len(_INKS)))], draw(rng, self.opacity)), boxes


@dataclass(frozen=True)
class PenStrokes(Degradation):
    """Write on the page with a pen: strokes under words, through them, or scribbled beside them.

    Attributes:
        count: range of the number of strokes, 1 to 12.
        opacity: range of how much of the paper's light the ink takes, 0 to 0.8.
    """

    probability: float = 1.0
    count: tuple[int, int] = (1, 5)
    opacity: tuple[float, float] = (0.3, 0.65)
    key: ClassVar[str] = "pen_strokes"
    limits: ClassVar[Limits] = {"count": (1, 12), "opacity": (0.0, 0.8)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with pen strokes, in color; boxes stay."""
        height, width = image.shape[:2]
        drawn = np.zeros((height, width), np.uint8)
        thick = max(1, round(width / 500))
        for _ in range(int(rng.integers(self.count[0], self.count[1], endpoint=True))):
            left, top, right, bottom = boxes[int(rng.integers(len(boxes)))]
            steps = np.linspace(0.0, 1.0, 24)
            tall = bottom - top
            if rng.random() < 0.6:  # along a line of text
                x = left + steps * (right - left)
                y = np.full_like(steps, bottom + 0.1 * tall) + rng.normal(0.0, 0.03 * tall, size=24).cumsum() / 2
            else:  # a word in a hand that nobody can read
                long = float(rng.uniform(0.08, 0.25)) * width
                x = rng.uniform(0, width) + steps * long + 0.04 * long * np.sin(40 * steps)
                waves = np.sin(30 * steps + rng.uniform(0, 6)) * rng.uniform(0.5, 1, 24)
                y = rng.uniform(0, height) + 0.08 * long * waves
            points = np.rint(np.stack([x, y], axis=1) * 16).astype(np.int32)
            cv2.polylines(drawn, [points], False, 255, thick, cv2.LINE_AA, 4)
        return _inked(image, drawn, _INKS[int(rng.integers(len(_INKS)))], draw(rng, self.opacity)), boxes


def _inked(image: ImageArray, mask: ImageArray, color: tuple[int, ...], opacity: float) -> ImageArray:
    """Return the image in color under translucent ink: light is taken where ``mask`` (H, W) is, never added."""
    light = np.empty((*mask.shape, 3), np.uint8)
    for channel, level in enumerate(color):
        table = np.rint(255 - opacity * (255 - level) * np.arange(256) / 255).astype(np.uint8)
        light[..., channel] = cv2.LUT(mask, table)
    return shade(to_rgb(image), light)
