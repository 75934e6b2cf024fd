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
        liger: use liger-kernel's kernel for the losses and gradients of a chunk's logits (CUDA).
    """
    if not len(labels):
        return hidden.float().sum() * 0.0
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    loss: torch.Tensor = ChunkedLinearCrossEntropy.apply(hidden, weight, labels, liger)  # type: ignore[no-untyped-call]
    return loss


def rows_per_chunk(words: int) -> int:
    """Return how many positions are projected at a time: a multiple of 64, where they are as many."""
    rows = max(1, CHUNK_BYTES // (4 * words))
    return rows if rows < 64 else rows // 64 * 64


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients, chunk by chunk, in the forward pass: the logits are computed once.

    The gradients are kept without the factor 1/L and without the one that comes from above, which would push small
    probabilities below what float16 can say; the backward pass multiplies them in.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, liger: bool
    ) -> torch.Tensor:
        """Return the mean loss of (L, H) states, and keep the gradients that are asked for."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        finish = liger_kernel.losses_and_gradient if liger else losses_and_gradient
        rows = rows_per_chunk(len(weight))
        for start in range(0, len(labels), rows):
            states = hidden[start : start + rows]
            logits = states @ weight.T
            losses, gradient = finish(logits, labels[start : start + rows], gradient=wants_hidden or wants_weight)
            total += losses.sum()
            if hidden_grad is not None:
                torch.mm(gradient, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad += gradient.T @ states
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.count, ctx.weight_dtype = len(labels), weight.dtype
        return total / len(labels)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        """Return the kept gradients times the one from above."""
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0] / ctx.count
        return (
            None if hidden_grad is None else (hidden_grad * scale).to(hidden_grad.dtype),
            None if weight_grad is None else (weight_grad * scale).to(ctx.weight_dtype),
            None,
            None,
        )


def losses_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross entropy (N,) of each row of logits (N, W), and the gradients (N, W) of their sum."""
    chosen, exact = labels[:, None], logits.float()
    log_sums = exact.logsumexp(-1, keepdim=True)
    losses = (log_sums - exact.gather(1, chosen))[:, 0]
    if not gradient:
        return losses, logits
    softmax = exact.sub_(log_sums).exp_()  # in the place of the logits
    softmax.scatter_add_(1, chosen, softmax.new_full(chosen.shape, -1.0))
    return losses, softmax.to(logits.dtype)
