"""``deepsynth evaluate`` where it predicts: with a model, and over resolutions and sizes of type."""
