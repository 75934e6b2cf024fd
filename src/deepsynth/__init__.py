"""DeepSynth: render text as page images and fine-tune vision-language OCR models on them.

The flow, which the folders show::

    source ──► renderer ──► augmenter ──► processor ──► collator                  deepsynth.data
    Document    Page(s)      Page(s)       Sample         Batch                   deepsynth.types
                                                            │
         PeftModule │ UnslothModule  ◄──────────────────────┘                     deepsynth.modules
         (load, adapt, generate)   on DeepSynthModule (the only steps)
              │            │
             loss      generation ──► metrics (CER, WER, ROUGE, BLEU, loops)      deepsynth.generation, .metrics
              │            │
         callbacks: what is logged, written and pushed beside the run             deepsynth.callbacks
              │
            export (merge, published format, verify) ──► Hub                      deepsynth.export, .hub
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth._version import __version__
from deepsynth.lazy_imports import importing

if TYPE_CHECKING:
    from deepsynth.data import TextImageDataModule
    from deepsynth.inference import Predictor, predict
    from deepsynth.modules import DeepSynthModule, FullModule, PeftModule, UnslothModule

__all__ = [
    "DeepSynthModule",
    "FullModule",
    "PeftModule",
    "Predictor",
    "TextImageDataModule",
    "UnslothModule",
    "__version__",
    "predict",
]

_HOMES = {
    "TextImageDataModule": "deepsynth.data",
    "DeepSynthModule": "deepsynth.modules",
    "FullModule": "deepsynth.modules",
    "PeftModule": "deepsynth.modules",
    "Predictor": "deepsynth.inference",
    "predict": "deepsynth.inference",
    "UnslothModule": "deepsynth.modules",
}


#: ``import deepsynth`` and ``deepsynth --help`` stay fast.
__getattr__ = importing(__name__, _HOMES)
