"""Texts of single images, and how they look in a notebook."""

from deepsynth.inference.gallery import Gallery
from deepsynth.inference.predictor import Predictor, predict

__all__ = ["Gallery", "Predictor", "predict"]
