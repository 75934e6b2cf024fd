"""Boxes: how many of a page are found, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence

from deepsynth.metrics.structure.blocks import Block, Box, parse_blocks


def intersection_over_union(one: Box, other: Box) -> float:
    """Return the area that two boxes share over the area that they cover, from 0 to 1; edges belong to a box."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    shared = max(width, 0) * max(height, 0)
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def box_scores(prediction: str, target: str, threshold: float = 0.5) -> dict[str, float] | None:
    """Return ``box_iou``, ``box_precision`` and ``box_recall`` of a page; ``None`` where neither side has a box.

    Boxes of the same label are paired, those that share most first, each with one other. ``box_iou`` is the mean over
    the boxes of the target, 0 for one without a partner. A box is found where its pair shares at least ``threshold``.
    """
    predicted, expected = (_boxes(parse_blocks(text)[0]) for text in (prediction, target))
    if not predicted and not expected:
        return None
    shares = [
        (intersection_over_union(one, other), i, j)
        for i, (label, one) in enumerate(predicted)
        for j, (wanted, other) in enumerate(expected)
        if label == wanted
    ]
    pairs: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for share, i, j in sorted(shares, key=lambda found: (-found[0], found[1], found[2])):
        if share and i not in pairs and j not in taken:
            pairs[i] = (j, share)
            taken.add(j)
    found = sum(share >= threshold for _, share in pairs.values())
    return {
        "box_iou": sum(share for _, share in pairs.values()) / len(expected) if expected else 0.0,
        "box_precision": found / len(predicted) if predicted else 0.0,
        "box_recall": found / len(expected) if expected else 0.0,
    }


def _boxes(blocks: Sequence[Block]) -> list[tuple[str, Box]]:
    return [(block.label, box) for block in blocks for box in block.boxes]
