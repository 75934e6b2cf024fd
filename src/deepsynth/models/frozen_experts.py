"""Routed experts whose weights do not train: what the backward pass needs, and nothing else.

    N  tokens      K  experts of a token      S  N * K rows, sorted by expert      E  experts      H, I  widths

transformers' grouped experts keep for the backward pass what each of their operations saw, for S rows: the rows
themselves, both halves of the gate, its product, the outputs, and the outputs weighted in float32. For frozen weights
all of it follows from one product of S rows (``gate_up``) and the gradient that comes from above.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import torch
from torch.nn import functional

from deepsynth.models.expert_kernels import combine, gate, gate_backward, route

#: Names in transformers' table of implementations of experts: for training alone, and for reading as well.
IN_TRAINING, ALWAYS = "grouped_mm_frozen_in_training", "grouped_mm_frozen"


class Weight(Protocol):
    """Frozen matrices (E, O, I) that may have another form at rest."""

    def dequantize(self) -> torch.Tensor:
        """Return them in the dtype of the products."""


def grouped_mm(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiply rows (S, I), sorted by expert, with their expert's matrix (E, I, O): (S, O).

    Args:
        rows: of all experts, one expert's after the other's.
        weight: of each expert.
        ends: (E,) int32, where each expert's rows end.
    """
    if rows.is_cuda and torch.cuda.get_device_capability(rows.device) < (8, 0):  # torch's kernel begins with Ampere
        starts = [0, *ends.tolist()]
        return torch.cat([rows[a:b] @ weight[i] for i, (a, b) in enumerate(itertools.pairwise(starts))])
    return functional.grouped_mm(rows, weight, offs=ends)


class FrozenExperts(torch.autograd.Function):
    """The weighted sum of each token's experts, ``down(silu(gate) * up)``, without gradients of their weights."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        indices: torch.Tensor,
        weights: torch.Tensor,
        gate_up: torch.Tensor | Weight,
        down: torch.Tensor | Weight,
        number: int,
    ) -> torch.Tensor:
        """Return (N, H).

        Args:
            ctx: takes what the backward pass needs: the gate's halves (S, 2 * I) and the routing.
            hidden: (N, H).
            indices: (N, K) experts of each token.
            weights: (N, K) of these in the sum.
            gate_up: (E, 2 * I, H), both matrices of the gate.
            down: (E, H, I).
            number: E.
        """
        tokens, order, places, ends = route(indices, number)
        both = grouped_mm(hidden[tokens], _matrix(gate_up).transpose(-2, -1), ends)
        outputs = grouped_mm(gate(both), _matrix(down).transpose(-2, -1), ends)
        matrices = (gate_up, down)
        ctx.packed = [None if isinstance(weight, torch.Tensor) else weight for weight in matrices]
        whole = [weight if isinstance(weight, torch.Tensor) else None for weight in matrices]
        ctx.save_for_backward(both, tokens, places, order, ends, weights, *whole)
        return combine(outputs, places, weights.float())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of ``hidden`` and ``weights``."""
        both, tokens, places, order, ends, weights, *whole = ctx.saved_tensors
        gate_up, down = (packed if packed is not None else w for w, packed in zip(whole, ctx.packed, strict=True))
        inner = grouped_mm(grads[0].to(both.dtype)[tokens], _matrix(down), ends)
        both_grad, rows_grad = gate_backward(inner, both, weights.float().reshape(-1)[order])
        hidden_grad = combine(grouped_mm(both_grad, _matrix(gate_up), ends), places)
        weights_grad = rows_grad[places].to(weights.dtype) if ctx.needs_input_grad[2] else None
        return hidden_grad, None, weights_grad, None, None, None


def _matrix(weight: torch.Tensor | Weight) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize()


def is_silu(activation: Any) -> bool:
    """Return whether an activation of transformers or torch is SiLU, which :class:`FrozenExperts` computes."""
    return type(activation).__name__ in ("SiLUActivation", "SiLU")


def frozen_experts_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of each token's experts (N, H), as transformers' table of implementations asks for it.

    Experts that train (LoRA on them), and those of another kind, are left to transformers' grouped products.

    Args:
        self: the module with fused experts.
        hidden_states: (N, H).
        top_k_index: (N, K).
        top_k_weights: (N, K).
    """
    from transformers.integrations.moe import grouped_mm_experts_forward

    trained = torch.is_grad_enabled() and (self.gate_up_proj.requires_grad or self.down_proj.requires_grad)
    shared_out = getattr(self, "_is_expert_parallel", False)  # transformers 5.17 does not know it
    # torch's compiler knows the grouped products of bfloat16 alone; transformers has a way around on the CPU.
    unknown = torch.compiler.is_compiling() and hidden_states.dtype != torch.bfloat16
    same = self.gate_up_proj.dtype == hidden_states.dtype
    if trained or shared_out or unknown or not (same and is_silu(self.act_fn)):
        result: torch.Tensor = grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
        return result
    apply = FrozenExperts.apply if hidden_states.dtype == torch.bfloat16 else _apply_uncompiled
    found: torch.Tensor = apply(
        hidden_states, top_k_index, top_k_weights, self.gate_up_proj, self.down_proj, self.num_experts
    )
    return found


_apply_uncompiled = torch.compiler.disable(FrozenExperts.apply)  # type: ignore[no-untyped-call]


def frozen_experts_in_training(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Return what :func:`frozen_experts_forward` does, in training; else what transformers' grouped products do."""
    from transformers.integrations.moe import grouped_mm_experts_forward

    forward = frozen_experts_forward if self.training else grouped_mm_experts_forward
    found: torch.Tensor = forward(self, hidden_states, top_k_index, top_k_weights)
    return found


def register() -> None:
    """Put both into transformers' table."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IN_TRAINING, frozen_experts_in_training)
    ALL_EXPERTS_FUNCTIONS.register(ALWAYS, frozen_experts_forward)
