"""Lightning modules: the steps (base), how each backend loads and adapts the weights, and their settings."""

from deepsynth.models.lora import LoraSettings
from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.full import FullModule
from deepsynth.modules.peft import PeftModule
from deepsynth.modules.settings import EngineSettings, GenerationSettings
from deepsynth.modules.unsloth import UnslothModule

__all__ = [
    "DeepSynthModule",
    "EngineSettings",
    "FullModule",
    "GenerationSettings",
    "LoraSettings",
    "PeftModule",
    "UnslothModule",
]
