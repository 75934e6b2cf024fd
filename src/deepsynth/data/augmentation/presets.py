"""The presets of the augmenter: which degradations a page of a kind gets, how often and how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deepsynth.data.augmentation.base import Degradation
from deepsynth.data.augmentation.books import LetterJitter, PenStrokes, PrintedFrame, Stamp
from deepsynth.data.augmentation.borders import Bitonal, BorderSpecks, NeighborPage, ScannerBackground
from deepsynth.data.augmentation.device import Fax, Grayscale, InverseVideo, Jpeg, PhotocopyLines, ScannerEdges
from deepsynth.data.augmentation.geometric import (
    PageCurl,
    Perspective,
    Ripple,
    Rotation,
    Skew,
)
from deepsynth.data.augmentation.ink import BrokenStrokes, InkBleed, InkFade, SaltAndPepper
from deepsynth.data.augmentation.light import ColorCast, Shadow, UnevenLight
from deepsynth.data.augmentation.optics import DefocusBlur, GaussianBlur, MotionBlur, ResolutionLoss, SensorNoise
from deepsynth.data.augmentation.paper import BleedThrough, PaperTexture, Stains

Preset = Literal["none", "scan", "photo", "fax", "hard", "book", "typescript"]

#: Degradations of each preset. Strengths were chosen by eye on pages of 16 px type at 1024 x 1024.
PRESETS: Mapping[str, tuple[Degradation, ...]] = {
    "none": (),
    "scan": (
        InkBleed(probability=0.15, amount=(0.1, 0.4)),
        InkFade(probability=0.1, amount=(0.05, 0.35)),
        PaperTexture(probability=0.25, depth=(0.02, 0.08)),
        BleedThrough(probability=0.1, strength=(0.03, 0.1)),
        Skew(probability=0.1, degrees=(0.1, 0.4)),
        Rotation(probability=0.5, degrees=(0.1, 1.0)),
        GaussianBlur(probability=0.3, sigma_px=(0.3, 0.7)),
        SensorNoise(probability=0.5, sigma=(1.0, 5.0)),
        Grayscale(probability=0.3),
        ScannerEdges(probability=0.1),
        PhotocopyLines(probability=0.05, strength=(0.05, 0.3)),
        ResolutionLoss(probability=0.1, scale=(0.7, 0.95)),
        Jpeg(probability=0.4, quality=(50.0, 90.0)),
    ),
    "photo": (
        PaperTexture(probability=0.5, depth=(0.03, 0.15)),
        Stains(probability=0.1, depth=(0.05, 0.25)),
        Ripple(probability=0.3, amplitude=(0.0005, 0.0025)),
        PageCurl(probability=0.3, height=(0.003, 0.02)),
        Rotation(probability=0.7, degrees=(0.2, 3.0)),
        Perspective(probability=0.8, shift=(0.0, 0.04), desk=(20.0, 140.0)),
        Shadow(probability=0.5),
        UnevenLight(probability=0.6),
        ColorCast(probability=0.7),
        MotionBlur(probability=0.15, length_px=(1.5, 2.5)),
        DefocusBlur(probability=0.2, radius_px=(0.5, 1.0)),
        SensorNoise(probability=0.8, sigma=(2.0, 8.0)),
        Jpeg(probability=0.9, quality=(45.0, 90.0)),
    ),
    "fax": (
        InkBleed(probability=0.3, amount=(0.1, 0.3)),
        BrokenStrokes(probability=0.2, share=(0.005, 0.03), amount=0.6),
        Skew(probability=0.2, degrees=(0.1, 0.5)),
        Rotation(probability=0.6, degrees=(0.1, 1.2)),
        SensorNoise(probability=0.5, sigma=(2.0, 10.0)),
        ScannerEdges(probability=0.2),
        PhotocopyLines(probability=0.3),
        Fax(probability=1.0, threshold=(0.45, 0.65)),
    ),
    "hard": (
        InkBleed(probability=0.3, amount=(0.2, 0.7)),
        InkFade(probability=0.3, amount=(0.1, 0.5)),
        BrokenStrokes(probability=0.2, share=(0.01, 0.05)),
        SaltAndPepper(probability=0.2),
        PaperTexture(probability=0.6, depth=(0.05, 0.25)),
        BleedThrough(probability=0.3, strength=(0.05, 0.2)),
        Stains(probability=0.3, depth=(0.1, 0.35)),
        InverseVideo(probability=0.05),
        Ripple(probability=0.3, amplitude=(0.0005, 0.003)),
        PageCurl(probability=0.3, height=(0.005, 0.03)),
        Skew(probability=0.2, degrees=(0.2, 2.0)),
        Rotation(probability=0.7, degrees=(0.5, 5.0)),
        Perspective(probability=0.4, shift=(0.0, 0.05), desk=(10.0, 160.0)),
        Shadow(probability=0.4, depth=(0.1, 0.5)),
        UnevenLight(probability=0.4, depth=(0.1, 0.5)),
        ColorCast(probability=0.4, strength=(0.05, 0.3)),
        MotionBlur(probability=0.15, length_px=(2.0, 3.0)),
        DefocusBlur(probability=0.15, radius_px=(0.6, 1.2)),
        GaussianBlur(probability=0.2, sigma_px=(0.4, 1.0)),
        SensorNoise(probability=0.7, sigma=(4.0, 14.0)),
        Grayscale(probability=0.3),
        ScannerEdges(probability=0.2),
        PhotocopyLines(probability=0.2),
        ResolutionLoss(probability=0.2, scale=(0.6, 0.9)),
        Jpeg(probability=0.8, quality=(25.0, 80.0)),
    ),
    "book": (
        LetterJitter(probability=0.5, shift=(0.0, 0.05), fade=(0.0, 0.3)),
        PrintedFrame(probability=0.2),
        InkBleed(probability=0.4, amount=(0.1, 0.5)),
        BrokenStrokes(probability=0.3, share=(0.01, 0.025)),
        PageCurl(probability=0.2, height=(0.002, 0.01)),
        Skew(probability=0.2, degrees=(0.1, 0.5)),
        Rotation(probability=0.6, degrees=(0.1, 1.5)),
        ScannerBackground(probability=0.3, scale=(0.85, 0.97)),
        NeighborPage(probability=0.25),
        BorderSpecks(probability=0.6),
        Bitonal(probability=1.0, threshold=(0.5, 0.68), roughness=(0.0, 15.0)),
    ),
    "typescript": (
        LetterJitter(probability=0.9),
        InkBleed(probability=0.2, amount=(0.1, 0.4)),
        InkFade(probability=0.5, amount=(0.05, 0.4)),
        PaperTexture(probability=0.6, depth=(0.03, 0.12)),
        BleedThrough(probability=0.3, strength=(0.05, 0.15)),
        Stains(probability=0.1, depth=(0.05, 0.2)),
        Stamp(probability=0.2),
        PenStrokes(probability=0.25),
        Rotation(probability=0.6, degrees=(0.1, 1.2)),
        GaussianBlur(probability=0.5, sigma_px=(0.3, 0.8)),
        SensorNoise(probability=0.6, sigma=(2.0, 7.0)),
        Grayscale(probability=0.7),
        ScannerEdges(probability=0.4),
        Jpeg(probability=0.8, quality=(50.0, 90.0)),
    ),
}
