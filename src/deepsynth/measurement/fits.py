"""How much fits into a GPU's memory: the largest batch, the longest context."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch import Callback

from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Bench, NotMeasured
from deepsynth.measurement.training import fit
from deepsynth.profiling.memory import GIB, is_out_of_memory


def largest(fits: Callable[[int], bool], start: int, limit: int, tolerance: float = 0.0) -> tuple[int, int | None]:
    """Search the largest number that fits: doubled until one does not, then halved in between.

    Args:
        fits: whether a number fits; when one does not, no larger one does.
        start: the first to try.
        limit: the largest to try.
        tolerance: how far the answer may be below the truth, as a share of it.

    Returns:
        The largest that was seen to fit, 0 for none; and the smallest that was seen not to, ``None`` when the limit
        fits.
    """
    good, bad = 0, None
    candidate = min(start, limit)
    while bad is None:
        if not fits(candidate):
            bad = candidate
        elif candidate == limit:
            return limit, None
        else:
            good, candidate = candidate, min(2 * candidate, limit)
    while bad - good > max(1, tolerance * good):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


def measure_largest_batch(bench: Bench, *, text_tokens: int, memory_gib: float | None, limit: int = 512) -> Result:
    """Search the largest batch that two steps of training fit with, to within a sixteenth.

    Args:
        bench: on a GPU.
        text_tokens: N of a sample.
        memory_gib: that PyTorch may take; by default what the GPU has.
        limit: the largest batch to try.

    Raises:
        NotMeasured: without a GPU, whose memory can be limited.
    """
    memory = _limit_memory(bench, memory_gib)
    good, bad = largest(lambda size: _fits(bench, size, text_tokens), 1, limit, 1 / 16)
    return {"largest_batch": good, "too_large": bad or "none tried", "memory_gib": memory}


def measure_longest_context(bench: Bench, *, memory_gib: float | None) -> Result:
    """Search the most positions (image, prompt and text) that two steps of batch 1 fit with, to within a sixteenth.

    Args:
        bench: on a GPU.
        memory_gib: that PyTorch may take; by default what the GPU has.

    Raises:
        NotMeasured: without a GPU, whose memory can be limited.
    """
    memory = _limit_memory(bench, memory_gib)
    prompt = bench.batches(1, 1).positions - 1
    longest = int(bench.config.text_config.max_position_embeddings) - prompt
    good, bad = largest(lambda tokens: _fits(bench, 1, tokens), 512, longest, 1 / 16)
    return {
        "longest_context": good + prompt if good else 0,
        "too_long": bad + prompt if bad else "none: all of the model's positions fit",
        "memory_gib": memory,
    }


def _limit_memory(bench: Bench, memory_gib: float | None) -> float:
    if bench.device.type != "cuda":
        raise NotMeasured("needs a GPU: the memory of a process on the CPU cannot be limited")
    total = torch.cuda.get_device_properties(bench.device).total_memory / GIB
    memory = min(memory_gib or total, total)
    torch.cuda.set_per_process_memory_fraction(memory / total, bench.device)
    if bench.module.hparams.get("activation_memory") == "auto":
        # What the driver calls free is more than this process may take now; the module's own plan shall know.
        bench.module.hparams["memory_budget_gib"] = 0.9 * memory
    bench.load()
    return memory


def _fits(bench: Bench, batch_size: int, text_tokens: int) -> bool:
    try:
        fit(bench, Callback(), bench.batches(batch_size, text_tokens), 2)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    bench.release()  # after the except clause, whose traceback holds the tensors
    return fits
