"""Defaults of the data module that depend on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from deepsynth.errors import UserError
from deepsynth.types import Document
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


def test_the_limit_of_pixels_reaches_the_scans(jsonl: Path, tmp_path: Path) -> None:
    Image.new("1", (300, 300)).save(tmp_path / "scan.png")
    scan = Document("scan", "", image=tmp_path / "scan.png")
    assert make_data(jsonl).pipeline().pages(scan, None, 0)[0].image.size == (300, 300)
    with pytest.raises(UserError, match=r"300 x 300 pixels, more than 89,999"):
        make_data(jsonl, max_image_pixels=89_999).pipeline().pages(scan, None, 0)
    with pytest.raises(UserError, match=r"data.max_image_pixels is 0; it must be at least 2"):
        make_data(jsonl, max_image_pixels=0)
