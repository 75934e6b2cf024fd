"""How the layers of a model run in training: what they keep for the backward pass, and whether they are compiled.

Every transformer layer is one region: compiled inside, recomputed outside. In evaluation and generation a layer runs as
it was written, so that a growing cache compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from deepsynth.compat.torch import attention_operations, keep_traced_layers, let_vary
from deepsynth.models.kernels.adapters import ForwardFactors
from deepsynth.models.kernels.frozen_experts import frozen_experts_of

#: What a layer keeps of its activations, from the fastest to the smallest.
Level = Literal["none", "selective", "full", "offload"]
LEVELS: tuple[Level, ...] = ("none", "selective", "full", "offload")

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
_ATTENTION = attention_operations()


class LayerRunner:
    """Runs one layer in training.

    * ``none``: all activations are kept.
    * ``selective``: where routed experts are frozen (``kernels.frozen_experts``), both halves of their gate
      are computed again, by one of their two products, and all else is kept: the halves are the most that a layer
      keeps, as a token has several experts. In other layers outputs of attention and of matrix products are kept, all
      else is computed again. Products with an adapter's narrow side are computed again too: as large to keep as others,
      at a fraction of the operations; and so are grouped products of experts.
    * ``full``: a layer's input is kept, the layer is computed again.
    * ``offload``: like ``full``, and the input waits in the memory of the host.

    Args:
        layer: its ``forward`` is to be replaced by :meth:`run`, which ``models.engine.fast_paths`` does.
        compile_options: for ``torch.compile``; ``None`` to run as it is.
        shapes_vary: whether batches have other lengths, and the last one fewer rows: what is compiled takes all of them
            then. torch.compile would compile for the first shape alone, and again at the second. It always compiles
            for one row alone: a batch of one after larger ones, as the last of an epoch may be, runs as it is.
    """

    def __init__(
        self, layer: nn.Module, compile_options: dict[str, Any] | None = None, *, shapes_vary: bool = False
    ) -> None:
        self.layer = layer
        self.shapes_vary = shapes_vary
        self.plain = plain_forward(layer)  # not another runner's, from before
        self.compile(compile_options)
        self._experts: Any = None
        self.keep("none")

    def compile(self, options: dict[str, Any] | None) -> None:
        """Have ``torch.compile`` compile the layer with these options from now on; ``None`` to run it as it is."""
        self.compiles, self._took_rows = options is not None, False
        if self.compiles:
            keep_traced_layers()
        self.fast = self.plain if options is None else torch.compile(self.plain, **options)

    def keep(self, level: Level) -> None:
        """Keep ``level`` of the activations from now on."""
        self.level: Level = level
        self._experts = frozen_experts_of(self.layer)
        if self._experts is not None:
            self._experts.recomputes = level == "selective"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer returns."""
        if not self.layer.training:
            return self.plain(*args, **kwargs)
        forward = self.fast
        if self.compiles and self.shapes_vary:
            rows, length = args[0].shape[:2]
            self._took_rows |= rows > 1
            if rows == 1 and self._took_rows:
                forward = self.plain
            else:
                let_vary((*args, *kwargs.values()), (rows, length))
        by_experts = self.level == "selective" and self._experts is not None
        if self.level == "none" or by_experts or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if self.level == "full":
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        if self.level == "selective":
            contexts = partial(_selective_contexts, self.layer)
            return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
        with torch.autograd.graph.save_on_cpu(pin_memory=args[0].is_cuda):
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _selective_contexts(layer: nn.Module) -> tuple[Any, Any]:
    """Return the contexts of the forward pass and of the second one, which have to run the same operations."""
    make: Any = create_selective_checkpoint_contexts
    first, again = make(_keep)
    return first, ForwardFactors(layer, again)


def _keep(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = op in _ATTENTION
    if op in _PRODUCTS:
        left, right = args[-2:]
        kept = 8 * left.shape[1] >= right.shape[1]  # an adapter's second matrix has a narrow side of its rank
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def plain_forward(layer: nn.Module) -> Callable[..., Any]:
    """Return what a layer runs without a :class:`LayerRunner`."""
    runner = getattr(layer.forward, "__self__", None)
    return runner.plain if isinstance(runner, LayerRunner) else layer.forward


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer that may be computed again, by transformers' own mark."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


def keep(runners: Iterable[LayerRunner], level: Level) -> None:
    """Let all layers keep ``level`` of their activations from now on."""
    for runner in runners:
        runner.keep(level)
