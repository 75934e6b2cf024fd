"""The base of every augmenter, and the one that degrades clean pages as scanners, cameras and faxes do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from deepsynth.data.augmentation.base import BoxArray, Degradation, ImageArray, as_uint8
from deepsynth.data.augmentation.books import LetterJitter, PenStrokes, PrintedFrame, Stamp
from deepsynth.data.augmentation.borders import Bitonal, BorderSpecks, NeighborPage, ScannerBackground
from deepsynth.data.augmentation.device import Fax, Grayscale, InverseVideo, Jpeg, PhotocopyLines, ScannerEdges
from deepsynth.data.augmentation.geometric import (
    GeometricDegradation,
    PageCurl,
    Perspective,
    Ripple,
    Rotation,
    Skew,
    move,
)
from deepsynth.data.augmentation.ink import BrokenStrokes, InkBleed, InkFade, SaltAndPepper
from deepsynth.data.augmentation.light import ColorCast, Shadow, UnevenLight
from deepsynth.data.augmentation.optics import DefocusBlur, GaussianBlur, MotionBlur, ResolutionLoss, SensorNoise
from deepsynth.data.augmentation.paper import BleedThrough, PaperTexture, Stains
from deepsynth.data.augmentation.presets import PRESETS, Preset
from deepsynth.errors import UserError
from deepsynth.types import Page, Word

#: Options that came later. Their draws follow those of the others, so that pages of the same seed stay as they were.
_LATER = (
    "letter_jitter",
    "printed_frame",
    "stamp",
    "pen_strokes",
    "scanner_background",
    "neighbor_page",
    "border_specks",
    "bitonal",
)


class Augmenter(ABC):
    """Degrades a page and keeps its text readable and whole."""

    @abstractmethod
    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        """Return the degraded page: same text, boxes moved along with the pixels."""


@dataclass(frozen=True)
class PageAugmenter(Augmenter):
    """Degrade pages by a preset, each degradation replaceable by its own options.

    The fields are in the order of application: ink, paper, camera, scanner, file. A field left ``None`` is as in the
    preset; one that is given replaces the preset's, with its own defaults for options that are not set;
    ``probability: 0`` turns it off. Each degradation has its own generator, so changing one changes no other.

    The image keeps its size, and every word stays on the page: word boxes are moved with the pixels, and a page whose
    words would leave it is shifted or shrunk. A page without boxes (a scan) stays visible as a whole.

    The same generator state gives the same pixels in any process. OpenCV's own threads are switched off in processes
    that augment (``cv2.setNumThreads(0)``): the loader's workers are the parallelism.

    Example:
        >>> PageAugmenter(preset="scan", rotation=Rotation(probability=0.5, degrees=(0.0, 1.0)))  # doctest: +SKIP

    Attributes:
        preset: ``none`` (pages stay as they are), ``scan`` (an office scanner), ``photo`` (a phone's camera), ``fax``,
            ``hard`` (a mix of everything, legible to people), ``book`` (old books in black and white) or ``typescript``
            (typed pages with stamps, scanned in gray).
    """

    preset: Preset = "scan"
    letter_jitter: LetterJitter | None = None
    printed_frame: PrintedFrame | None = None
    ink_bleed: InkBleed | None = None
    ink_fade: InkFade | None = None
    broken_strokes: BrokenStrokes | None = None
    salt_and_pepper: SaltAndPepper | None = None
    paper_texture: PaperTexture | None = None
    bleed_through: BleedThrough | None = None
    stains: Stains | None = None
    inverse_video: InverseVideo | None = None
    stamp: Stamp | None = None
    pen_strokes: PenStrokes | None = None
    ripple: Ripple | None = None
    page_curl: PageCurl | None = None
    skew: Skew | None = None
    rotation: Rotation | None = None
    perspective: Perspective | None = None
    scanner_background: ScannerBackground | None = None
    neighbor_page: NeighborPage | None = None
    shadow: Shadow | None = None
    uneven_light: UnevenLight | None = None
    color_cast: ColorCast | None = None
    motion_blur: MotionBlur | None = None
    defocus_blur: DefocusBlur | None = None
    gaussian_blur: GaussianBlur | None = None
    sensor_noise: SensorNoise | None = None
    grayscale: Grayscale | None = None
    scanner_edges: ScannerEdges | None = None
    photocopy_lines: PhotocopyLines | None = None
    border_specks: BorderSpecks | None = None
    resolution_loss: ResolutionLoss | None = None
    fax: Fax | None = None
    bitonal: Bitonal | None = None
    jpeg: Jpeg | None = None

    def __post_init__(self) -> None:
        """Check the preset's name.

        Raises:
            UserError: for a preset that does not exist.
        """
        if self.preset not in PRESETS:
            raise UserError(f"augmenter.preset is {self.preset!r}; it must be one of {', '.join(PRESETS)}")

    @cached_property
    def degradations(self) -> tuple[Degradation | None, ...]:
        """Degradations in order, with ``None`` for those that are off."""
        preset = {degradation.key: degradation for degradation in PRESETS[self.preset]}
        return tuple(getattr(self, name) or preset.get(name) for name in self._names)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self) if field.name != "preset")

    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        """Return the degraded page: same size and text, boxes moved along with the pixels."""
        drawn = list(self._draw(rng))
        if not drawn:
            return page
        cv2.setNumThreads(0)
        image = _pixels(page.image)
        before = boxes = _page_boxes(page)
        moves: list[tuple[GeometricDegradation, np.random.Generator]] = []
        for degradation, own_rng in drawn:
            if isinstance(degradation, GeometricDegradation):
                moves.append((degradation, own_rng))
                continue
            if moves:
                image, boxes = move(image, boxes, moves)
                moves = []
            image, boxes = degradation(image, boxes, own_rng)
        if moves:
            image, boxes = move(image, boxes, moves)
        page = replace(page, image=_picture(image))
        return page if boxes is before else _with_boxes(page, boxes)

    def _draw(self, rng: np.random.Generator) -> Iterator[tuple[Degradation, np.random.Generator]]:
        """Draw which degradations this page gets, and a generator for each."""
        drawn: dict[str, tuple[float, int]] = {}
        for names in ([name for name in self._names if name not in _LATER], _LATER):
            chances, seeds = rng.random(len(names)), rng.integers(2**63, size=len(names))
            drawn |= dict(zip(names, zip(chances.tolist(), seeds.tolist(), strict=True), strict=True))
        for name, degradation in zip(self._names, self.degradations, strict=True):
            chance, seed = drawn[name]
            if degradation is not None and chance < degradation.probability:
                yield degradation, np.random.default_rng(seed)


def _pixels(picture: Image.Image) -> ImageArray:
    """Return the pixels, as (H, W) when all three channels are equal."""
    if picture.mode == "L":
        return np.asarray(picture)
    image = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    red, green, blue = cv2.split(image)
    if cv2.norm(red, green, cv2.NORM_INF) == 0 and cv2.norm(green, blue, cv2.NORM_INF) == 0:
        return as_uint8(red)
    return image


def _picture(image: ImageArray) -> Image.Image:
    """Return the RGB picture of pixels (H, W) or (H, W, 3)."""
    picture = Image.fromarray(image)
    # Joining one channel three times takes a third of the time of converting, or of copying an array of three.
    return picture if image.ndim == 3 else Image.merge("RGB", (picture, picture, picture))


def _page_boxes(page: Page) -> BoxArray:
    """Return the boxes (n, 4) of lines and their words, then of blocks' areas; the whole page when there are none."""
    boxes = [box for line in page.lines for box in (line.box, *(word.box for word in line.words))]
    boxes += [box for block in page.blocks for box in block.areas]
    return np.array(boxes or [(0, 0, *page.image.size)], dtype=np.float64)


def _with_boxes(page: Page, boxes: BoxArray) -> Page:
    """Return the page with its boxes replaced, in the order of :func:`_page_boxes`."""
    moved = map(tuple, boxes.tolist())
    lines = []
    for line in page.lines:
        box = next(moved)  # a line's own box comes before its words'
        words = tuple(Word(word.text, next(moved)) for word in line.words)
        lines.append(replace(line, box=box, words=words))
    blocks = [replace(block, areas=tuple([next(moved) for _ in block.areas])) for block in page.blocks]
    return replace(page, lines=tuple(lines), blocks=tuple(blocks))
