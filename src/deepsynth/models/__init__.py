"""The models: what is numerically DeepSeek-OCR, how many tokens an image takes, and what may be adapted.

Importing this package registers DeepSeek-OCR with transformers' Auto classes; transformers brings DeepSeek-OCR-2.
"""

from __future__ import annotations

from deepsynth.models.deepseek_ocr.registration import register

register()
