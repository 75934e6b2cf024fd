"""How many parameters LoRA trains, counted by hand."""

from __future__ import annotations

from typing import Any


def lora_parameters(config: Any, rank: int = 16) -> dict[str, int]:
    """Count what LoRA trains in a model's decoder, by scope.

    An adapter of a matrix (out, in) has ``rank * (in + out)`` parameters; fused experts have as many for each expert.
    """
    text = config.text_config
    hidden, heads = text.hidden_size, text.head_dim * (text.num_attention_heads + 2 * text.num_key_value_heads)
    inner = text.head_dim * text.num_attention_heads
    dense = list(text.mlp_layer_types).count("dense")
    sparse = len(text.mlp_layer_types) - dense
    expert, shared = text.moe_intermediate_size, text.moe_intermediate_size * text.n_shared_experts
    return {
        "attention": text.num_hidden_layers * rank * (3 * hidden + heads + inner + hidden),
        "mlp": dense * rank * 3 * (hidden + text.intermediate_size),
        "experts=shared": sparse * rank * 3 * (hidden + shared),
        "experts=routed": sparse * text.n_routed_experts * rank * (hidden + 2 * expert + expert + hidden),
    }
