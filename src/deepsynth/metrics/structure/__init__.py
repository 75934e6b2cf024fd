"""Metrics on the structure of a page: tables, formulas, boxes, Markdown and reading order."""

from __future__ import annotations

from deepsynth.metrics.structure.blocks import Block, parse_blocks, plain_text
from deepsynth.metrics.structure.boxes import box_scores
from deepsynth.metrics.structure.formulas import formula_scores, normalize_formula
from deepsynth.metrics.structure.markdown import markdown_scores
from deepsynth.metrics.structure.page import STRUCTURE_METRICS, mean_scores, structure_scores
from deepsynth.metrics.structure.tables import table_scores, tables_of, teds

__all__ = [
    "STRUCTURE_METRICS",
    "Block",
    "box_scores",
    "formula_scores",
    "markdown_scores",
    "mean_scores",
    "normalize_formula",
    "parse_blocks",
    "plain_text",
    "structure_scores",
    "table_scores",
    "tables_of",
    "teds",
]
