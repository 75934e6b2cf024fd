"""What each preset of the augmenter consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deepsynth.data.degradations import Degradation
from deepsynth.data.degradations_device import Jpeg
from deepsynth.data.degradations_geometric import Rotation
from deepsynth.data.degradations_optical import GaussianBlur, SensorNoise

Preset = Literal["none", "scan", "photo", "fax", "hard"]

PRESETS: Mapping[str, tuple[Degradation, ...]] = {
    "none": (),
    "scan": (
        Rotation(probability=0.5, degrees=(0.1, 1.0)),
        GaussianBlur(probability=0.4, sigma_px=(0.3, 0.7)),
        SensorNoise(probability=0.6, sigma=(1.0, 6.0)),
        Jpeg(probability=0.4, quality=(50.0, 90.0)),
    ),
}
