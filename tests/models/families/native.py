"""Samples and modules of tiny models that read images at their own size."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.types import Batch, Document, Page, Sample
from tests.helpers.training import make_module

NAMES = ("paddleocr_vl", "glm_ocr", "qwen2_5_vl")
Losses = tuple[torch.Tensor, dict[str, torch.Tensor]]


def page(size: tuple[int, int]) -> Page:
    """Return a page whose pixels are all different from those of pages of other sizes."""
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Page(Image.fromarray(pixels.numpy()), "")


def sample(processor: OcrProcessor, *sizes: tuple[int, int], text: str = "a word") -> Sample:
    """Return a sample of pages of these sizes."""
    document = Document(str(sizes), text, one_sample=True)
    found = processor(document, [page(size) for size in sizes])
    assert found is not None
    return found


def batch_of(folder: str, **kwargs: Any) -> Batch:
    """Return three samples of different lengths: a page, three pages, a small page."""
    processor = OcrProcessor(model_name=folder)
    samples = [
        sample(processor, (112, 112), text="one"),
        sample(processor, (300, 200), (30, 20), (57, 99), text="a longer text of several pages"),
        sample(processor, (28, 112), text="two words"),
    ]
    return Collator(processor.pad_token_id, **kwargs)(samples)


def module_of(folder: str, device: str = "cpu", **kwargs: Any) -> Any:
    """Return a module whose adapters already do something, so that all of them get gradients."""
    module = make_module(model_name=folder, max_new_tokens=8, **kwargs).to(device)
    module.configure_model()
    module.to(device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module


def loss_and_gradients(module: Any, batch: Batch) -> Losses:
    """Return the loss of a batch and the gradients of what is trained."""
    module.zero_grad()
    loss = module.compute_loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same(one: Losses, other: Losses) -> None:
    """Compare losses to 1e-5, and gradients to what rounding makes of it."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=2e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
