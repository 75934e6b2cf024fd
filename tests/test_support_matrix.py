"""The support matrix of the results: what it says was run has a page, and what it says is refused is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from deepsynth.cli.config_files import find_shipped
from deepsynth.distributed.support import REFUSALS, StrategyName, Weights

PAGE = (Path(__file__).parents[1] / "docs/results/support-matrix.md").read_text(encoding="utf-8")
TRAINING = PAGE.split("## Training")[1].split("## Generation")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in TRAINING.splitlines() if line.startswith("| ")
]
MODULES = {"backend/peft": "PeftModule", "backend/peft_nf4": "PeftModule", "FullModule": "FullModule"}
MODULES |= {"backend/unsloth": "UnslothModule", "backend/unsloth_4bit": "UnslothModule"}


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: "-".join(row[:3]))
def test_a_row_says_what_is_so(row: list[str]) -> None:
    backend, strategy, _, seen = (cell.strip("`") for cell in row)
    state = re.split("[,:]", seen)[0]
    assert state in ("run", "tests", "not run yet", "refused")
    assert bool(re.search(r"\]\(\w+\.md\)", seen)) is (state == "run")
    assert "/" not in backend or find_shipped(backend)
    module = MODULES.get(backend, "PeftModule")
    kind: StrategyName = strategy if strategy in get_args(StrategyName) else "other"  # type: ignore[assignment]
    weights: Weights = "nf4 or int8" if re.search("nf4|4bit|int8", backend) else "16 or 32 bits"
    refused = any(rule.covers(module, kind, weights) for rule in REFUSALS)
    assert refused is (state == "refused")
