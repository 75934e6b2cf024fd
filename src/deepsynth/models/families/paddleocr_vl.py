"""PaddleOCR-VL: a SigLIP encoder at native resolution and the dense ERNIE-4.5-0.3B."""

from __future__ import annotations

from deepsynth.models.family import PublishedModel
from deepsynth.models.native_resolution import NativeFamily

FAMILY = NativeFamily(
    name="paddleocr_vl",
    title="PaddleOCR-VL",
    model_types=("paddleocr_vl",),
    architectures=("PaddleOCRVLForConditionalGeneration",),
    published=(
        PublishedModel("PaddlePaddle/PaddleOCR-VL-1.6", "0.9 B", "Apache-2.0"),
        PublishedModel("PaddlePaddle/PaddleOCR-VL-1.5", "0.9 B", "Apache-2.0"),
        PublishedModel("PaddlePaddle/PaddleOCR-VL", "0.9 B", "Apache-2.0"),
    ),
    # https://huggingface.co/PaddlePaddle/PaddleOCR-VL; those of formulas and charts are for what was cut out.
    prompts={"transcribe": "<image>\nOCR:", "table": "<image>\nTable Recognition:"},
    page_tokens="1260 (1 for 28 x 28 pixels, at most 1280)",
    projector=("model.projector",),
)
