"""Each rule of OmniDocBench on a small page of its own. Expected are the counts of the published code (version 1.5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apted  # noqa: F401  TEDS needs it
import pytest

from deepsynth.data.formats.omnidocbench import read_annotations
from deepsynth.measurement.published.omnidocbench import score_page

ROWS = Path(__file__).parents[2] / "fixtures" / "omnidocbench_rules.jsonl"
RULES = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
CONTENTS = {"equation_isolated": "latex", "table": "html"}


@pytest.mark.parametrize("rule", RULES, ids=[rule["rule"] for rule in RULES])
def test_a_page_is_scored_as_by_the_published_code(rule: dict[str, Any], tmp_path: Path) -> None:
    layout = [
        {"anno_id": number, "category_type": category, "order": order, CONTENTS.get(category, "text"): content}
        for number, (category, content, order) in enumerate(rule["elements"])
    ]
    cut = [{"source_anno_id": a, "target_anno_id": b, "relation_type": "truncated"} for a, b in rule.get("cut", ())]
    page = {"layout_dets": layout, "page_info": {"image_path": "a.png"}, "extra": {"relation": cut}}
    (tmp_path / "a.json").write_text(json.dumps([page]))
    score = score_page(read_annotations(tmp_path / "a.json")[0], rule["prediction"])
    assert {kind: list(counts) for kind, counts in score.edits.items()} == rule["edits"]
    assert score.order == rule["order"]
    assert list(zip(score.teds, score.teds_structure, strict=True)) == [
        pytest.approx(pair, abs=1e-6) for pair in rule["teds"]
    ]
