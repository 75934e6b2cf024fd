"""What the host finds in the tokens of a batch, by hand."""

from __future__ import annotations

import torch

from deepsynth.models.engine.token_places import find_places

CPU = torch.device("cpu")
IMAGE, NONE = 7, -100


def test_labels_are_predicted_by_the_token_before_them_in_their_row() -> None:
    tokens = {
        "input_ids": torch.tensor([[IMAGE, IMAGE, 1, 2], [3, IMAGE, 4, 5]]),
        "labels": torch.tensor([[NONE, NONE, 1, 2], [3, NONE, NONE, 5]]),  # nothing comes before the 3
    }
    found = find_places(tokens, IMAGE, CPU)
    assert found.predicting.tolist() == [1, 2, 6]
    assert tokens["labels"].flatten()[found.predicting + 1].tolist() == [1, 2, 5]
    assert found.slots == 3
    assert found.bounds is None


def test_a_packed_row_has_bounds_and_padding_is_no_sample() -> None:
    tokens = {
        "input_ids": torch.tensor([[IMAGE, 1, 2, 3, 0, 0]]),
        "labels": torch.tensor([[NONE, 1, NONE, 3, NONE, NONE]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "position_ids": torch.tensor([[0, 1, 0, 1, 0, 1]]),
    }
    found = find_places(tokens, IMAGE, CPU)
    assert found.bounds is not None
    assert found.bounds.tolist() == [0, 2, 4, 6]
    assert found.bounds.dtype == torch.int32
    assert (list(found.lengths), list(found.used)) == ([2, 2, 2], [True, True, False])
    assert found.predicting.tolist() == [0, 2]


def test_a_batch_without_labels_predicts_nothing() -> None:
    tokens = {"input_ids": torch.ones(1, 3, dtype=torch.long), "labels": torch.full((1, 3), NONE)}
    found = find_places(tokens, IMAGE, CPU)
    assert (len(found.predicting), found.slots) == (0, 0)
