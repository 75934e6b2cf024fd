"""The experts' balance loss, kept apart from the language model's loss."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2TextTopkRouter


class RouterRecorder:
    """Collect the routers' logits (B*T, E) of one forward pass, in the order of the layers.

    transformers 5.17 has no switch for it in this decoder, so hooks do it.
    """

    def __init__(self, decoder: nn.Module, active: bool) -> None:
        """Watch the routers of ``decoder`` when ``active``."""
        self.routers = [m for m in decoder.modules() if isinstance(m, DeepseekOcr2TextTopkRouter)] if active else []
        self.logits: list[torch.Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> RouterRecorder:
        """Start to collect."""
        self._handles = [
            router.register_forward_hook(lambda _module, _inputs, output: self.logits.append(output[0]))
            for router in self.routers
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop to collect."""
        for handle in self._handles:
            handle.remove()


def balance_loss(router_logits: list[torch.Tensor], top_k: int, batch_size: int) -> torch.Tensor:
    """Return the sequence-wise balance loss, summed over the layers (DeepSeek-V2, arXiv:2405.04434, equation 23).

    For each sequence: the sum over experts of the share of tokens that chose the expert (times E / top_k) and the
    expert's mean probability; 1 when all experts are used alike. As in the published code padding counts as tokens do.

    Args:
        router_logits: (B*T, E) of each layer with experts.
        top_k: experts a token chooses.
        batch_size: B.
    """
    losses = []
    for logits in router_logits:
        probabilities = logits.softmax(-1, dtype=torch.float32)
        chosen = torch.zeros_like(probabilities).scatter_(1, probabilities.topk(top_k).indices, 1.0)
        experts = logits.shape[-1]
        load = chosen.view(batch_size, -1, experts).mean(1) * (experts / top_k)
        losses.append((load * probabilities.view(batch_size, -1, experts).mean(1)).sum(-1).mean())
    return torch.stack(losses).sum()
