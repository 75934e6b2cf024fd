"""Measurements of speed, memory and quality: ``deepsynth benchmark`` and ``deepsynth compare``."""
