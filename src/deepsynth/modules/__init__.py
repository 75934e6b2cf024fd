"""Lightning modules: the steps (base) and how each backend loads and adapts the weights."""

from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.full import FullModule
from deepsynth.modules.peft import PeftModule
from deepsynth.modules.unsloth import UnslothModule

__all__ = ["DeepSynthModule", "FullModule", "PeftModule", "UnslothModule"]
