"""Each weight is in the group that its name says, and the table shows what is in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepsynth.models.quantization.weight_table import WeightRow, count_parameters, format_weight_table, weight_table

#: Names as the families have them, with the group that a reader expects.
NAMES = {
    "model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight": "adapters",
    "model.vision_tower.blocks.0.self_attn.q_proj.weight": "vision",
    "model.multi_modal_projector.weight": "vision",
    "model.image_newline": "vision",
    "model.view_separator": "vision",
    "model.visual.blocks.0.mlp.up_proj.weight": "vision",
    "model.projector.weight": "vision",
    "model.language_model.embed_tokens.weight": "embeddings",
    "model.language_model.layers.0.self_attn.o_proj.weight": "attention",
    "model.language_model.layers.1.mlp.experts.down_proj": "routed experts",
    "model.language_model.layers.1.mlp.shared_experts.up_proj.weight": "shared experts",
    "model.language_model.layers.0.mlp.gate_up_proj.weight": "dense MLP",
    "model.language_model.layers.0.mlp.down_proj.weight": "dense MLP",
    "lm_head.weight": "head",
    "model.language_model.layers.1.mlp.gate.weight": "router, norms",
    "model.language_model.norm.weight": "router, norms",
}
ORDER = [
    "adapters", "vision", "embeddings", "attention", "routed experts", "shared experts", "dense MLP", "head",
    "router, norms",
]  # fmt: skip


def model_of(names: list[str]) -> nn.Module:
    """Return modules with a weight of each name, of 1, 2, 4, 8, … bfloat16 numbers: no two sums are alike."""
    model = nn.Module()
    for number, name in enumerate(names):
        *path, own = name.split(".")
        module = model
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(own, nn.Parameter(torch.zeros(2**number, dtype=torch.bfloat16)))
    return model


@pytest.mark.parametrize("reverse", [False, True])
def test_a_weight_is_in_the_group_of_its_name(reverse: bool) -> None:
    names = sorted(NAMES, reverse=reverse)
    expected = {group: sum(2**n for n, name in enumerate(names) if NAMES[name] == group) for group in ORDER}
    model = model_of(names)
    rows = weight_table(model, torch.float32)
    assert {row.group: row.parameters for row in rows} == expected
    assert [row.group for row in rows] == ORDER
    assert all(row.bytes_before == row.bytes_after == 2 * row.parameters for row in rows)
    assert count_parameters(model) == 2 ** len(names) - 1


def test_a_group_that_the_model_does_not_have_has_no_row() -> None:
    assert [row.group for row in weight_table(model_of(["lm_head.weight"]), torch.float32)] == ["head"]


def test_the_table_has_sizes_bits_and_a_sum() -> None:
    rows = [WeightRow("head", 2_000, 2**30 - 2**20, 250), WeightRow("vision", 1_000_000, 2**30, 3 * 2**19)]
    head, *lines = [line.split() for line in format_weight_table(rows).splitlines()]
    assert head == ["weights", "parameters", "before", "now", "bits"]
    assert lines == [
        ["head", "2,000", "1,023.0", "MiB", "0.0", "MiB", "1.00"],
        ["vision", "1,000,000", "1.00", "GiB", "1.5", "MiB", "12.58"],
        ["all", "1,002,000", "2.00", "GiB", "1.5", "MiB", "12.56"],
    ]
