"""The loss over a large vocabulary without its logits.

    L  label positions     H  width of the decoder     W  words of the vocabulary

A loss over logits keeps (T, W) of them, for every position of the batch, in float32 and in the dtype of the weights,
and their gradient: at 129,280 words more than all activations of the decoder. Here a chunk of positions at a time is
projected, turned into its loss and into its share of the gradients, and forgotten.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from deepsynth.compat import liger_kernel

Loss = Literal["auto", "plain", "chunked", "liger"]

#: Float32 logits held at a time. A larger chunk saves nothing: the matrix products fill a GPU from 512 rows on, since
#: they have a vocabulary of columns.
CHUNK_BYTES = 256 * 2**20


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, liger: bool = False
) -> torch.Tensor:
    """Return the mean cross entropy of ``hidden @ weight.T``, in float32, without ever holding all logits.

    Gradients reach ``hidden``, and ``weight`` when it is trained. Without labels the loss is 0.

    Args:
        hidden: (L, H), the state that predicts each label.
        weight: (W, H) of the head, which has no bias.
        labels: (L,) token ids; all of them count.
        liger: use liger-kernel's fused kernels (CUDA).
    """
    if not len(labels):
        return hidden.float().sum() * 0.0
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if liger:
        return _liger(hidden, weight, labels)
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    loss: torch.Tensor = ChunkedLinearCrossEntropy.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
    return loss


def rows_per_chunk(words: int) -> int:
    """Return how many positions are projected at a time."""
    return max(1, CHUNK_BYTES // (4 * words))


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients, chunk by chunk, in the forward pass: the logits are computed once.

    The gradients are kept without the factor 1/L and without the one that comes from above, which would push small
    probabilities below what float16 can say; the backward pass multiplies them in.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of (L, H) states, and keep the gradients that are asked for."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = rows_per_chunk(len(weight))
        for start in range(0, len(labels), rows):
            states, chosen = hidden[start : start + rows], labels[start : start + rows, None]
            logits = (states @ weight.T).float()
            log_sums = logits.logsumexp(-1, keepdim=True)
            total += (log_sums - logits.gather(1, chosen)).sum()
            if hidden_grad is None and weight_grad is None:
                continue
            gradient = logits.sub_(log_sums).exp_()  # the softmax, in the place of the logits
            gradient.scatter_add_(1, chosen, gradient.new_full(chosen.shape, -1.0))
            gradient = gradient.to(weight.dtype)
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad += gradient.T @ states
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.count, ctx.weight_dtype = len(labels), weight.dtype
        return total / len(labels)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Return the kept gradients times the one from above."""
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0] / ctx.count
        return (
            None if hidden_grad is None else (hidden_grad * scale).to(hidden_grad.dtype),
            None if weight_grad is None else (weight_grad * scale).to(ctx.weight_dtype),
            None,
        )


def _liger(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # liger sizes its chunks so that the logits take no more than the states, which for this vocabulary is 64 rows or
    # so: the head's weights would be read once for each. This many times that fills CHUNK_BYTES instead.
    (count, width), words = hidden.shape, len(weight)
    budget = max(1, rows_per_chunk(words) * words // (count * width))
    return liger_kernel.linear_cross_entropy(hidden, weight, labels, budget=budget)
