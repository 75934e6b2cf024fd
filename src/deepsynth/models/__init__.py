"""DeepSeek-OCR models: definition, image token counts, adapters, quantization, kernels and the training engine.

transformers brings DeepSeek-OCR-2 and Unlimited-OCR itself. :func:`register` makes its Auto classes know DeepSeek-OCR
as well, and load Unlimited-OCR without torchvision; everything in DeepSynth that loads a model calls it. Importing
this package imports neither torch nor transformers.
"""

from __future__ import annotations


def register() -> None:
    """Make transformers' Auto classes know DeepSeek-OCR; calling it again changes nothing.

    Needed once in a process before ``AutoConfig``, ``AutoProcessor`` or ``AutoModelForImageTextToText`` load a
    DeepSeek-OCR folder without DeepSynth's own functions::

        import deepsynth.models

        deepsynth.models.register()
        model = AutoModelForImageTextToText.from_pretrained("exported/")
    """
    from deepsynth.models.deepseek_ocr.registration import register as register_deepseek_ocr
    from deepsynth.models.unlimited_ocr.registration import register as register_unlimited_ocr

    register_deepseek_ocr()
    register_unlimited_ocr()
