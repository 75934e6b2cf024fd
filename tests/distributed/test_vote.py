"""All processes hear of a yes at the same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from deepsynth.distributed.vote import Vote
from tests.helpers.ranks import in_ranks

CPU = torch.device("cpu")


def test_one_yes_is_heard_by_all_at_the_same_batch(tmp_path: Path) -> None:
    def answers() -> list[bool]:
        vote, rank = Vote(), dist.get_rank()
        return [vote.cast(yes, CPU) for yes in (False, rank == 1, rank == 0, False)]

    assert in_ranks(answers, 2, tmp_path) == [[False, True, True, False]] * 2


def test_a_process_alone_hears_itself() -> None:
    vote = Vote()
    assert [vote.cast(yes, CPU) for yes in (False, True)] == [False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_answers_one_batch_later_and_nobody_waits_for_what_it_does() -> None:
    vote, device = Vote(), torch.device("cuda")
    vote.cast(False, device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [vote.cast(yes, device) for yes in (True, False, False)] == [False, True, False]
    finally:
        torch.cuda.set_sync_debug_mode("default")
