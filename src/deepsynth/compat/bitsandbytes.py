"""Private parts of bitsandbytes that the package relies on, and why no public one serves."""

from __future__ import annotations

import logging
from typing import Any


def silence_casts() -> None:
    """Keep bitsandbytes from warning of every product that it casts bfloat16 to float16 for LLM.int8().

    The configuration asked for that. No option turns the warning off; it comes from the logger of a private module.
    """
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def keep_packed_on_cpu(layer: Any) -> None:
    """Keep a layer of 4 bits from repacking its weights in evaluation.

    On CPUs with AVX512-BF16 it would, for a kernel without gradients, and training continues with what evaluation left.
    No argument says so.
    """
    layer.support_avx512bf16_for_cpu = False
