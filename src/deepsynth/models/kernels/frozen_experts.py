"""Routed experts whose weights do not train: what the backward pass needs, and nothing else.

    N  tokens      K  experts of a token      S  N * K rows, sorted by expert      E  experts      H, I  widths
    r  LoRA rank

transformers' grouped experts keep for the backward pass what each of their operations saw, for S rows: the rows
themselves, both halves of the gate, its product, the outputs, and the outputs weighted in float32. For frozen weights
all of it follows from one product of S rows (``gate_up``) and the gradient that comes from above. LoRA adapters on them
need the N tokens as well; their products stand beside the frozen ones, where peft makes a sum of full size in every
pass, and its gradient.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import torch
from torch.nn import functional

from deepsynth.compat.transformers import are_shared_out, experts_implementation, grouped_experts, register_experts
from deepsynth.models.kernels.experts import (
    gated_product,
    gated_product_backward,
    sort_by_expert,
    sum_of_experts,
)

#: Names in transformers' table of implementations of experts: for training alone, and for generation as well.
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


def grouped_outer(first: torch.Tensor, second: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return for each expert the sum of its rows' outer products (E, O, I); zeros for one without rows.

    Args:
        first: (S, O), sorted by expert.
        second: (S, I).
        ends: (E,) int32, where each expert's rows end.
    """
    if first.is_cuda and torch.cuda.get_device_capability(first.device) < (8, 0):
        starts = [0, *ends.tolist()]
        return torch.stack([first[a:b].T @ second[a:b] for a, b in itertools.pairwise(starts)])
    found = functional.grouped_mm(first.contiguous().T, second.contiguous(), offs=ends)
    empty = ends.diff(prepend=ends.new_zeros(1)) == 0
    return found.masked_fill_(empty[:, None, None], 0)


#: The factors of adapters on ``gate_up`` and on ``down``: B (E, O, r) and A (E, r, I) of each, or nothing.
ExpertFactors = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
#: Of adapters that are active in a call, by parameter: B (E, O, r), A (E, r, I) and their scale.
Active = dict[str, list[tuple[torch.Tensor, torch.Tensor, float]]]


def factors_of(active: Active, dtype: torch.dtype) -> ExpertFactors:
    """Return active adapters, one of each parameter: scaled, in a dtype, of a rank that grouped products take."""
    found: list[torch.Tensor | None] = []
    for name in ("gate_up_proj", "down_proj"):
        own = active.get(name)
        if not own:
            found += [None, None]
            continue
        left = torch.cat([left.to(dtype) * scale for left, _, scale in own], dim=2)
        right = torch.cat([right.to(dtype) for _, right, _ in own], dim=1)
        fill = -right.shape[1] % 8  # the kernel wants rows of whole 16 bytes
        found += [functional.pad(left, (0, fill)).contiguous(), functional.pad(right, (0, 0, 0, fill)).contiguous()]
    return tuple(found)  # type: ignore[return-value]


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
        recomputes: bool,
        *factors: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return (N, H).

        Args:
            ctx: takes what the backward pass needs: the gate's halves (S, 2 * I) or, to compute them again, the tokens,
                which adapters need as well; and the routing.
            hidden: (N, H).
            indices: (N, K) experts of each token.
            weights: (N, K) of these in the sum.
            gate_up: (E, 2 * I, H), both matrices of the gate.
            down: (E, H, I).
            number: E.
            recomputes: whether the backward pass computes the gate's halves again.
            factors: none, or four; see :data:`ExpertFactors`.
        """
        tokens, order, places, ends = sort_by_expert(indices, number)
        first, second = (factors[:2], factors[2:]) if factors else ((None, None), (None, None))
        both = _linear(hidden[tokens], gate_up, ends, *first)
        outputs = _linear(gated_product(both), down, ends, *second)
        matrices = (gate_up, down)
        ctx.packed = [None if isinstance(weight, torch.Tensor) else weight for weight in matrices]
        whole = [weight if isinstance(weight, torch.Tensor) else None for weight in matrices]
        kept = hidden if recomputes or first[0] is not None else None
        ctx.save_for_backward(
            None if recomputes else both, tokens, places, order, ends, weights, *whole, kept, *first, *second
        )
        ctx.adapted = bool(factors)
        return sum_of_experts(outputs, places, weights.float())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of ``hidden``, ``weights`` and the factors."""
        both, tokens, places, order, ends, weights, *whole, hidden, left, right, left2, right2 = ctx.saved_tensors
        gate_up, down = (packed if packed is not None else w for w, packed in zip(whole, ctx.packed, strict=True))
        if both is None:
            both = _linear(hidden[tokens], gate_up, ends, left, right)
        above = grads[0].to(both.dtype)[tokens]
        of_rows = weights.float().reshape(-1)[order]
        inner = grouped_mm(above, _matrix(down), ends)
        factor_grads: list[torch.Tensor | None] = [None] * 4
        if left2 is not None:
            narrow = grouped_mm(above, left2, ends)
            inner += grouped_mm(narrow, right2, ends)
            # A row counts with its token's weight; it is cheaper to weight the narrow side of each product.
            gated, share = gated_product(both), of_rows[:, None].to(both.dtype)
            factor_grads[2] = grouped_outer(above, grouped_mm(gated, right2.transpose(-2, -1), ends) * share, ends)
            factor_grads[3] = grouped_outer(narrow * share, gated, ends)
            del gated
        both_grad, rows_grad = gated_product_backward(inner, both, of_rows)
        del inner
        rows = grouped_mm(both_grad, _matrix(gate_up), ends)
        if left is not None:
            seen, narrow = hidden[tokens], grouped_mm(both_grad, left, ends)
            rows += grouped_mm(narrow, right, ends)
            factor_grads[0] = grouped_outer(both_grad, grouped_mm(seen, right.transpose(-2, -1), ends), ends)
            factor_grads[1] = grouped_outer(narrow, seen, ends)
        weights_grad = rows_grad[places].to(weights.dtype) if ctx.needs_input_grad[2] else None
        found = (sum_of_experts(rows, places), None, weights_grad, None, None, None, None)
        return (*found, *factor_grads) if ctx.adapted else found


def _linear(
    rows: torch.Tensor,
    weight: torch.Tensor | Weight,
    ends: torch.Tensor,
    left: torch.Tensor | None = None,
    right: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return rows (S, I) times their experts' frozen matrices, and their adapters': (S, O)."""
    result = grouped_mm(rows, _matrix(weight).transpose(-2, -1), ends)
    if left is not None and right is not None:
        result += grouped_mm(grouped_mm(rows, right.transpose(-2, -1), ends), left.transpose(-2, -1), ends)
    return result


def _matrix(weight: torch.Tensor | Weight) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize()


def is_silu(activation: Any) -> bool:
    """Return whether an activation of transformers or torch is SiLU, which :class:`FrozenExperts` computes."""
    from transformers.activations import SiLUActivation

    return isinstance(activation, (torch.nn.SiLU, SiLUActivation))


def frozen_experts_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of each token's experts (N, H), as transformers' table of implementations asks for it.

    Experts that train as a whole, and those of another kind, are left to transformers' grouped products. Adapters are
    in ``self.active`` when :func:`takes_adapters` says so.

    Args:
        self: the module with fused experts.
        hidden_states: (N, H).
        top_k_index: (N, K).
        top_k_weights: (N, K).
    """
    # torch's compiler knows the grouped products of bfloat16 alone; transformers has a way around on the CPU.
    unknown = torch.compiler.is_compiling() and hidden_states.dtype != torch.bfloat16
    if unknown or not _known(self, hidden_states):
        return grouped_experts(self, hidden_states, top_k_index, top_k_weights)
    apply = FrozenExperts.apply if hidden_states.dtype == torch.bfloat16 else _apply_uncompiled
    active = self.__dict__.get("active")
    factors = factors_of(active, hidden_states.dtype) if active else ()
    weights = self.gate_up_proj, self.down_proj
    recomputes = self.__dict__.get("recomputes", False)
    found: torch.Tensor = apply(
        hidden_states, top_k_index, top_k_weights, *weights, self.num_experts, recomputes, *factors
    )
    return found


def _known(experts: Any, hidden: torch.Tensor) -> bool:
    """Return whether :class:`FrozenExperts` computes what these experts do, and all gradients that are asked for."""
    weights = experts.gate_up_proj, experts.down_proj
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    return not trained and not are_shared_out(experts) and weights[0].dtype == hidden.dtype and is_silu(experts.act_fn)


def frozen_experts_of(layer: Any) -> Any | None:
    """Return the routed experts of a decoder's layer if :class:`FrozenExperts` computes them in training.

    What is set as their ``recomputes`` says whether its backward pass computes the gate's halves again.
    """
    experts: Any = getattr(getattr(layer, "mlp", None), "experts", None)
    if hasattr(experts, "get_base_layer"):
        experts = experts.get_base_layer()
    implementation = experts_implementation(getattr(experts, "config", None))
    if hasattr(experts, "quantized"):
        return experts if is_silu(experts.act_fn) else None
    if implementation not in (IN_TRAINING, ALWAYS) or not is_silu(experts.act_fn):
        return None
    return None if experts.gate_up_proj.requires_grad or experts.down_proj.requires_grad else experts


def takes_adapters(experts: Any, hidden: torch.Tensor) -> bool:
    """Return whether the experts' forward pass will be :func:`frozen_experts_forward`, and look at their adapters."""
    implementation = experts_implementation(getattr(experts, "config", None))
    ours = implementation == ALWAYS or (implementation == IN_TRAINING and experts.training)
    return ours and not torch.compiler.is_compiling() and _known(experts, hidden)


_apply_uncompiled = torch.compiler.disable(FrozenExperts.apply)  # type: ignore[no-untyped-call]


def frozen_experts_in_training(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Return what :func:`frozen_experts_forward` does, in training; else what transformers' grouped products do."""
    forward = frozen_experts_forward if self.training else grouped_experts
    return forward(self, hidden_states, top_k_index, top_k_weights)


def register() -> None:
    """Put both into transformers' table."""
    register_experts(IN_TRAINING, frozen_experts_in_training)
    register_experts(ALWAYS, frozen_experts_forward)
