"""Texts of single images, and how they look in a notebook."""

from deepsynth.serve.gallery import Gallery
from deepsynth.serve.predictor import Predictor, predict

__all__ = ["Gallery", "Predictor", "predict"]
