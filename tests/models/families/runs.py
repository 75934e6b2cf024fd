"""Runs of a tiny model on a handful of pages of its own sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from deepsynth import PeftModule, TextImageDataModule
from deepsynth.data import Collator, OcrProcessor, Source
from deepsynth.models.registry import family_of
from deepsynth.types import Batch, Document, Page
from tests.helpers.training import make_module, make_trainer

TEXTS = ("ab 1", "Zeile zwei", "<|x|> & so on", "q")
Sizes = Sequence[tuple[int, int]]


class DotPages(Source):
    """Scans of dots, each with a text.

    Args:
        sizes: of pages in pixels, in turn.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents."""
        rng = np.random.default_rng(0)
        for number, text in enumerate(TEXTS):
            width, height = self.sizes[number % len(self.sizes)]
            dots = rng.integers(0, 2, (4, 4, 3), dtype=np.uint8) * 255
            image = Image.fromarray(dots).resize((width, height), Image.Resampling.NEAREST)
            yield Document(f"d{number}", text, image=image)


class Losses(Callback):
    """Keeps the loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Keep the loss that was logged."""
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def data_of(folder: Path, sizes: Sizes, **settings: Any) -> TextImageDataModule:
    """Return the pages as training, validation and prediction data."""
    source = DotPages(sizes)
    given: dict[str, Any] = {"batch_size": len(TEXTS), "val_fraction": 0.0, "test_fraction": 0.0, "num_workers": 0}
    return TextImageDataModule(source, val_source=DotPages(sizes), model_name=str(folder), **{**given, **settings})


def module_of(folder: Path, **settings: Any) -> PeftModule:
    """Return a module that adapts the decoder."""
    return make_module(model_name=str(folder), mlp=True, **{"max_new_tokens": 24, **settings})


def batch_of(folder: Path, sizes: Sizes) -> Batch:
    """Return all pages in one batch, with pixels as the model takes them."""
    data = data_of(folder, sizes)
    data.setup("fit")
    batch: Batch = next(iter(data.val_dataloader()))
    return batch.with_pixel_values()


def paged_batch(folder: Path, sizes: Sizes) -> tuple[OcrProcessor, Batch]:
    """Return a sample of one page and one of three, with pixels as the model takes them, and what made them."""
    images = [document.image for document in DotPages(sizes)]
    processor, samples = OcrProcessor(str(folder)), []
    for number, chosen in enumerate((images[:1], [*images[1:3], images[0]])):
        pages = [Page(image, "") for image in chosen if isinstance(image, Image.Image)]
        sample = processor(Document(str(number), f"of {len(pages)}", one_sample=True), pages)
        assert sample is not None
        samples.append(sample)
    return processor, Collator(processor.pad_token_id)(samples).with_pixel_values()


@dataclass(frozen=True)
class Run:
    """A run that is over.

    Attributes:
        module: as it became.
        trainer: that has trained it.
        sizes: of its pages.
        folder: of the base model.
        adapter: that it wrote.
    """

    module: PeftModule
    trainer: Trainer
    sizes: Sizes
    folder: Path
    adapter: Path


def overfit(folder: Path, sizes: Sizes) -> Run:
    """Train until a batch is known by heart, or for as long as that should take at most."""
    module = module_of(folder, rank=32, lr=5e-3)
    losses = Losses()
    trainer = make_trainer(folder.parent / "run", max_steps=100, callbacks=[losses, Until(losses)], limit_val_batches=0)
    trainer.fit(module, data_of(folder, sizes))
    trainer.save_checkpoint(folder.parent / "run.ckpt")
    module.save_adapter(folder.parent / "adapter")
    return Run(module.eval(), trainer, sizes, folder, folder.parent / "adapter")


class Until(Callback):
    """Stops a run when its loss is so small that the texts are known by heart."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Stop."""
        trainer.should_stop = self._losses.values[-1:] != [] and self._losses.values[-1] < 0.02


def loss_of(model: Any, batch: Batch) -> float:
    """Return transformers' own loss of a batch."""
    with torch.no_grad():
        return float(model(**family_of(model.config).arguments(batch.inputs), use_cache=False).loss)
