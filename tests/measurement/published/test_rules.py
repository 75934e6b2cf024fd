"""Each rule of the published benchmarks on a small page of its own.

Expected is what the published code makes of it: OmniDocBench 1.5, and olmocr/bench at f7cfe4c.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apted  # noqa: F401  TEDS needs it
import pytest

from deepsynth.data.formats.omnidocbench import read_annotations
from deepsynth.measurement.published.olmocr import TYPES
from deepsynth.measurement.published.omnidocbench import score_page


def rows(name: str) -> list[Any]:
    file = Path(__file__).parents[2] / "fixtures" / name
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


RULES = rows("omnidocbench_rules.jsonl")
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


def test_a_text_passes_where_it_does_in_the_published_code() -> None:
    unit_tests = rows("olmocr_rules.jsonl")
    assert {row["test"]["type"] for row in unit_tests} == set(TYPES) - {"math"}  # which is decided otherwise
    wrong = [row for row in unit_tests if TYPES[row["test"]["type"]](row["test"], row["text"]) != row["passes"]]
    assert wrong == []
