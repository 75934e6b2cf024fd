"""Defaults of the data module that depend on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.training import make_data


@pytest.mark.parametrize(("gpu", "given", "multiple"), [(True, None, 64), (False, None, 1), (True, 1, 1)])
def test_lengths_are_rounded_where_a_gpu_plans_kernels_for_each(
    gpu: bool, given: int | None, multiple: int, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    data = make_data(jsonl, pad_to_multiple_of=given)
    data.setup("fit")
    lengths = {batch.tokens["input_ids"].shape[1] for batch in data.train_dataloader()}
    assert all(length % multiple == 0 for length in lengths)
    assert multiple == 64 or any(length % 64 for length in lengths)
