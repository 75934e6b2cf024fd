"""Batches: padded, packed, pinned."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from deepsynth.data.processing.collator import Collator
from deepsynth.errors import UserError
from deepsynth.types import Sample


def sample(number: int, length: int) -> Sample:
    ids = torch.arange(1, length + 1) + 100 * number
    labels = ids.clone()
    labels[:2] = -100
    images = {"pixel_values": torch.full((1, 3, 2, 2), float(number))}
    return Sample(str(number), str(number), 0, ids, labels, 2, images, "text", "<image>")


def test_packing_puts_all_samples_into_one_row_that_begins_again_with_each() -> None:
    batch = Collator(pad_token_id=9, pad_to_multiple_of=8, packed=True)([sample(1, 5), sample(2, 6)])
    inputs = batch.inputs
    assert len(batch) == 2
    assert inputs["input_ids"].tolist() == [[101, 102, 103, 104, 105, 201, 202, 203, 204, 205, 206, 9, 9, 9, 9, 9]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]]
    assert inputs["attention_mask"].tolist() == [[1] * 11 + [0] * 5]
    assert inputs["labels"].tolist() == [[-100, -100, 103, 104, 105, -100, -100, 203, 204, 205, 206] + [-100] * 5]
    assert inputs["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert batch.prompts["input_ids"].tolist() == [[101, 102], [201, 202]]


def test_a_sample_whose_first_token_is_a_label_is_not_predicted_by_the_one_before() -> None:
    first, second = sample(1, 4), sample(2, 4)
    second.labels = second.input_ids.clone()
    batch = Collator(packed=True)([first, second])
    assert batch.inputs["labels"][0, 4] == -100
    assert second.labels[0] == 201  # the sample itself stays as it was


def no_room_for_shared_memory(worker: int) -> None:
    """Let no file of this process grow: shared memory is a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_shared_memory_without_room_is_one_line_where_torch_waits_for_ever() -> None:
    samples = [sample(number, 4000) for number in range(2)]
    loader = DataLoader(
        samples, 2, num_workers=1, collate_fn=Collator(), worker_init_fn=no_room_for_shared_memory, timeout=20
    )
    with pytest.raises(UserError, match=r"shared memory has no room for a batch .*; enlarge /dev/shm .*num_workers=0"):
        next(iter(loader))


def test_pinning_reaches_every_tensor_and_shared_pixels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = Collator()([sample(1, 5), sample(2, 6)])
    result = pin_memory(batch)
    assert len(pinned) == 6  # three of the inputs, two of the prompts, and the pixels
    assert result.inputs["pixel_values"] is result.prompts["pixel_values"]
    assert result.images["pixel_values"] is not batch.images["pixel_values"]
    assert torch.equal(result.tokens["input_ids"], batch.tokens["input_ids"])
    assert result.ids == batch.ids


def test_variants_come_again_and_are_different_pages(jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter
    from tests.helpers.training import make_data

    def pages(**kwargs: int) -> list[torch.Tensor]:
        data = make_data(jsonl, augmenter=PageAugmenter(preset="scan"), **kwargs)
        data.setup("fit")
        return [data.datasets["train"][epoch, 0].images["pixel_values"] for epoch in range(4)]

    first, second, third, fourth = pages(augment_variants=2)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)
    assert not torch.equal(*pages()[0:3:2])
    with pytest.raises(ValueError, match=r"data\.augment_variants is 0"):
        make_data(jsonl, augment_variants=0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "rounded"), [(7, 8), (8, 8), (9, 16), (16, 16)])
def test_a_length_is_rounded_up_and_a_multiple_stays(length: int, rounded: int, packed: bool) -> None:
    inputs = Collator(pad_to_multiple_of=8, packed=packed)([sample(1, length)]).inputs
    assert {name: inputs[name].shape[1] for name in ("input_ids", "attention_mask", "labels")} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), rounded
    )
    assert inputs["attention_mask"].sum() == length


def test_inputs_with_a_value_for_each_token_are_padded_as_the_tokens_are() -> None:
    first, second = sample(1, 3), sample(2, 5)
    first.token_inputs = {"mm_token_type_ids": torch.tensor([1, 1, 2])}
    second.token_inputs = {"mm_token_type_ids": torch.tensor([3, 3, 3, 4, 4])}
    second.prompt_length = 3
    batch = Collator(pad_to_multiple_of=6)([first, second])
    assert batch.inputs["mm_token_type_ids"].tolist() == [[1, 1, 2, 0, 0, 0], [3, 3, 3, 4, 4, 0]]
    assert batch.prompts["mm_token_type_ids"].tolist() == [[0, 1, 1], [3, 3, 3]]
    packed = Collator(pad_to_multiple_of=6, packed=True)([first, second])
    assert packed.inputs["mm_token_type_ids"].tolist() == [[1, 1, 2, 3, 3, 3, 4, 4, 0, 0, 0, 0]]


def test_images_of_different_sizes_are_filled_up_with_zeros_behind_their_ends() -> None:
    first, second = sample(1, 3), sample(2, 3)
    first.images = {"pixel_values": torch.ones(1, 3, 2, 4), "sizes": torch.tensor([[2, 4]])}
    second.images = {"pixel_values": torch.ones(2, 3, 3, 1), "sizes": torch.tensor([[3, 1], [3, 1]])}
    images = Collator()([first, second]).images
    assert images["sizes"].tolist() == [[2, 4], [3, 1], [3, 1]]
    assert images["pixel_values"].shape == (3, 3, 3, 4)
    assert images["pixel_values"][0, 0].tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert images["pixel_values"][2, 2].tolist() == [[1, 0, 0, 0]] * 3
