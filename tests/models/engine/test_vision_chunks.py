"""An encoder sees chunks of images of the size that it should, and gives what it would give for all together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from deepsynth.models.engine.vision_chunks import by_graph, in_chunks


class Adds(nn.Module):
    """Adds to its images, and notes what it saw."""

    def __init__(self, *, wraps: bool = False) -> None:
        super().__init__()
        self.seen: list[list[float]] = []
        self.wraps = wraps

    def forward(self, images: torch.Tensor, more: float, *, other: float) -> Any:
        self.seen.append(images[:, 0].tolist())
        return BaseModelOutput(images + more + other) if self.wraps else images + more + other


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(
    ("count", "rest", "seen"),
    [
        (7, "together", [[0, 1, 2, 3], [4, 5, 6]]),
        (7, "filled", [[0, 1, 2, 3], [4, 5, 6, 6]]),
        (7, "single", [[0, 1, 2, 3], [4], [5], [6]]),
        (5, "filled", [[0, 1, 2, 3], [4, 4, 4, 4]]),
        (1, "single", [[0]]),
        *((8, rest, [[0, 1, 2, 3], [4, 5, 6, 7]]) for rest in ("together", "filled", "single")),
    ],
)
def test_images_run_four_at_a_time_and_the_rest_as_asked(
    count: int, rest: Any, seen: list[list[float]], wraps: bool
) -> None:
    module, images = Adds(wraps=wraps), torch.arange(float(count))[:, None]
    sizes: list[int] = []
    with in_chunks(module, lambda given: sizes.append(len(given)) or 4, rest):  # type: ignore[func-returns-value]
        found = module(images, 10, other=100)
    assert module.seen == seen
    assert sizes == [count]
    assert torch.equal(found.last_hidden_state if wraps else found, images + 110)
    assert "forward" not in vars(module), "it runs as before behind the block"


@pytest.mark.parametrize(("several", "replayed"), [(False, [1]), (True, [2, 1])])
def test_images_go_by_a_captured_graph(several: bool, replayed: list[int]) -> None:
    names: list[str] = []
    counts: list[int] = []

    def captured(name: str, function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> torch.Tensor:
        names.append(name)
        counts.append(len(tensors[0]))
        return 1000 + function(*tensors)

    module, images = Adds(wraps=True), torch.arange(2.0)[:, None]
    with by_graph(module, captured, several=several):
        assert (module(images, 1, other=2).last_hidden_state % 1000).tolist() == [[3], [4]]
        assert module(images[1:], 1, other=2).last_hidden_state.tolist() == [[1004]]
    assert counts == replayed
    assert set(names) == {"Adds"}
    with by_graph(module, None, several=several):
        assert module(images[1:], 1, other=2).last_hidden_state.tolist() == [[4]]
    assert counts == replayed
