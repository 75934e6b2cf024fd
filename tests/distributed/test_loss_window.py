"""The weight of each batch in an optimizer step, against one batch of all label tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from deepsynth.distributed.loss_window import LossWindow
from tests.helpers.ranks import in_ranks

#: Mean loss and label tokens of the batches of a window.
BATCHES = [(2.0, 10), (4.0, 30), (1.0, 1)]


def tensors(loss: float, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(loss), torch.tensor(tokens)


def gradient(window: LossWindow, weights: list[float], batches: int) -> float:
    """Return what is left of gradients of 1 for each batch, as Lightning and torch have summed them up."""
    parameters = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([sum(weights) / batches])
    window.finish(parameters, batches)
    assert parameters[1].grad is None
    return float(parameters[0].grad)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_label_token_counts_the_same(count: int) -> None:
    window = LossWindow()
    given = BATCHES[:count]
    weights = [float(window.weigh(*tensors(*batch))) / batch[0] for batch in given]
    total = sum(tokens for _, tokens in given)
    mean = sum(loss * tokens for loss, tokens in given) / total
    assert float(window.mean) == pytest.approx(mean)
    # Where the gradient of each batch's mean loss is its loss, that of the window is the window's mean loss.
    losses = [weight * loss for weight, (loss, _) in zip(weights, given, strict=True)]
    assert gradient(window, losses, count) == pytest.approx(mean)
    assert float(window.mean) == pytest.approx(mean), "it stays to be logged"


def test_one_batch_a_step_is_left_as_it_is() -> None:
    loss, tokens = tensors(3.0, 7)
    window = LossWindow()
    assert window.weigh(loss, tokens) is loss
    assert gradient(window, [3.0], 1) == 3.0
    assert window.weigh(loss, tokens) is loss, "a new window has begun"


def test_a_window_without_label_tokens_has_no_loss_and_no_gradient() -> None:
    window = LossWindow()
    assert float(window.mean) == 0.0
    weighed = [float(window.weigh(*tensors(0.0, 0))) for _ in range(2)]
    assert weighed == [0.0, 0.0]
    assert float(window.mean) == 0.0
    assert gradient(window, weighed, 2) == 0.0


def test_a_first_batch_without_label_tokens_counts_nothing() -> None:
    window = LossWindow()
    losses = [float(window.weigh(*tensors(loss, tokens))) for loss, tokens in ((0.0, 0), (3.0, 5))]
    assert gradient(window, losses, 2) == pytest.approx(3.0)


def test_a_checkpoint_in_the_middle_of_a_window_goes_on() -> None:
    window, other = LossWindow(), LossWindow()
    assert window.state() == {}
    window.weigh(*tensors(*BATCHES[0]))
    other.load(window.state(), torch.device("cpu"))
    for batch in BATCHES[1:]:
        assert torch.equal(window.weigh(*tensors(*batch)), other.weigh(*tensors(*batch)))
    assert torch.equal(window.mean, other.mean)
    assert gradient(window, [1.0], 3) == gradient(other, [1.0], 3)
    assert window.state() == {}, "the window is over"
    other.weigh(*tensors(9.0, 9))
    other.load({}, torch.device("cpu"))
    loss, tokens = tensors(1.0, 3)
    assert other.weigh(loss, tokens) is loss
    assert float(other.mean) == 1.0


def weigh_share() -> tuple[list[float], float, float]:
    """Have each of two ranks weigh its own batches, of which one rank has none with label tokens at the end."""
    shares = [[(2.0, 10), (1.0, 1)], [(4.0, 30), (0.0, 0)]]
    window, own = LossWindow(), shares[dist.get_rank()]
    losses = [float(window.weigh(*tensors(*batch))) for batch in own]
    averaged = torch.tensor(sum(losses))
    dist.all_reduce(averaged)
    return losses, float(window.mean), gradient(window, [float(averaged) / 2], 2)


def test_the_tokens_of_all_ranks_count_the_same(tmp_path: Path) -> None:
    mean = sum(loss * tokens for loss, tokens in BATCHES) / sum(tokens for _, tokens in BATCHES)
    for losses, of_window, averaged in in_ranks(weigh_share, 2, tmp_path):
        assert of_window == pytest.approx(mean)
        assert averaged == pytest.approx(mean)
        assert len(losses) == 2
