"""Whether the layers of a run are compiled and recorded as CUDA graphs, where its settings leave that open."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Any, Literal

#: Parts of a model whose layers ``torch.compile`` compiles.
CompiledParts = Literal["none", "decoder", "vision", "all"]
#: Batches of a run from which on compilation pays. On an H100, DeepSeek-OCR-2 at batch 8 with pages of 1,024 pixels
#: compiles for 35 s (65 s the first time on a machine). It saves 91 ms a step on a slow host
#: and 12 on a fast one. See docs/results/fit_h100.md.
PAYS_FROM_BATCHES = 1000
#: Lengths that are multiples of this are few: each needs its own recording, which takes about a second.
_ROUNDED = 64


@dataclass(frozen=True)
class Compilation:
    """What is compiled, and why not more.

    Attributes:
        parts: the parts of the model whose layers are compiled.
        cuda_graphs: whether compiled layers are replayed as CUDA graphs.
        reason: the sentence for the log.
    """

    parts: CompiledParts
    cuda_graphs: bool
    reason: str

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for ``torch.compile``."""
        return {"mode": "reduce-overhead"} if self.cuda_graphs else {}


def choose_compilation(
    *,
    batches: float,
    length: int,
    keeps_activations: bool,
    frozen_vision: bool,
    cached_vision: bool,
    against: str = "",
) -> Compilation:
    """Return what a run on a GPU compiles.

    Vision that is frozen sees one shape. The decoder sees a shape for each length, so that graphs are recorded only
    where lengths are rounded. Layers that are recomputed in the backward pass stay as they are.

    Args:
        batches: number of batches that the whole run trains on; infinite where nobody knows.
        length: tokens of a row of the first batch.
        keeps_activations: whether layers keep all of their activations for the backward pass.
        frozen_vision: whether the vision encoder stays frozen.
        cached_vision: whether its features are kept, so that it hardly runs.
        against: a reason against compilation that the caller knows, such as :func:`missing_compiler`.
    """
    if not against and batches < PAYS_FROM_BATCHES:
        against = f"the run has {batches:g} batches, and compilation pays from {PAYS_FROM_BATCHES:,} on"
    vision = frozen_vision and not cached_vision
    if not against and not (vision or keeps_activations):
        against = "layers are recomputed in the backward pass"
    if against:
        return Compilation("none", False, against)
    parts: CompiledParts = "all" if vision and keeps_activations else "vision" if vision else "decoder"
    graphs = parts == "vision" or length % _ROUNDED == 0
    reason = f"the run has {batches:,.0f} batches"
    if not graphs:
        reason += f"; no CUDA graphs, as lengths are not multiples of {_ROUNDED} (data.pad_to_multiple_of)"
    return Compilation(parts, graphs, reason)


def missing_compiler() -> str:
    """Return what ``torch.compile`` lacks on this machine, if it lacks anything."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not os.environ.get("CC") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler, which triton needs (cc, gcc or clang)"
    return ""
