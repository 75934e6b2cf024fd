"""Greedy decoding: one generator for validation, test, prediction and callbacks.

    batch ──► vision, in chunks ──► prompts waiting ──► prefill ──► rows of the cache ──► step, step, step ──► texts
                                     longest first                  refilled as they end                    in order

See ``docs/how-it-works/decoding.md``.
"""

from deepsynth.generation.decoder import Compile, Decoder
from deepsynth.generation.generate import Implementation, decodes, generate
from deepsynth.generation.texts import Generation, RepetitionCriterion, Stop

__all__ = [
    "Compile",
    "Decoder",
    "Generation",
    "Implementation",
    "RepetitionCriterion",
    "Stop",
    "decodes",
    "generate",
]
