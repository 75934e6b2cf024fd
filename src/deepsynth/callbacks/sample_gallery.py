"""A page with a few validation samples and their predictions before, during and after training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from deepsynth.callbacks.gallery_page import GalleryEntry, Prediction, corpus_cer, gallery_page
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.models.native_resolution import pages_of_patches
from deepsynth.modules import DeepSynthModule
from deepsynth.types import Batch


class SampleGallery(Callback):
    """Shows the first validation samples with their first and their latest predictions.

    Every validation rewrites ``gallery.html``, a self-contained page: the images as the model sees them, the target,
    and both predictions with their CER, wrong and missing characters marked. TensorBoard gets the images and, at every
    validation, the texts. Predictions of Lightning's sanity check, before the first step, are the "before". With
    several ranks the samples are those of rank zero; a resumed run keeps its first predictions.

    Example::

        callbacks+:
          - class_path: SampleGallery
            init_args: {samples: 4}

    Args:
        samples: number of samples; validation must generate text for at least as many in this process
            (``model.generation.samples`` over the number of processes).
        file: by default ``gallery.html`` in the trainer's root folder.

    Raises:
        UserError: for fewer than one sample.
    """

    def __init__(self, samples: int = 8, file: str | None = None) -> None:
        if samples < 1:
            raise UserError(f"SampleGallery.samples is {samples}; it must be at least 1")
        self.samples = samples
        self.file = file
        self._first: dict[str, Prediction] = {}
        self._entries: dict[str, GalleryEntry] = {}
        self._seen = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn when there will be nothing to show."""
        if isinstance(pl_module, DeepSynthModule) and pl_module.generation.samples == 0:
            rank_zero_warn(
                "SampleGallery has nothing to show: validation generates no text (model.generation.samples is 0)"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the samples of this validation from zero."""
        self._seen = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions, and the images of samples that are new."""
        rows = outputs["rows"][: self.samples - self._seen] if trainer.is_global_zero else []
        self._seen += len(rows)
        if any(row["id"] not in self._entries for row in rows):
            pictures = pictures_of(batch, pl_module)
        for position, row in enumerate(rows):
            prediction = Prediction(trainer.global_step, row["prediction"])
            first = self._first.setdefault(row["id"], prediction)
            if row["id"] in self._entries:
                self._entries[row["id"]].latest = prediction
                continue
            arrays = pictures[position]
            entry = GalleryEntry(row["id"], row["target"], first, prediction, [jpeg(array) for array in arrays])
            self._entries[row["id"]] = entry
            for writer in self._tensorboards(trainer):
                for number, array in enumerate(arrays):
                    tag = f"gallery/{entry.name}/page{number}"
                    writer.add_image(tag, array, trainer.global_step, dataformats="HWC")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page and TensorBoard's texts.

        Raises:
            UserError: when the disk is full or the page cannot be written.
        """
        if not trainer.is_global_zero or not self._seen:
            return
        entries = list(self._entries.values())
        path = Path(self.file or Path(trainer.default_root_dir) / "gallery.html")
        page = gallery_page(f"Samples of {path.absolute().parent.name}", entries, line_breaks=_shows_lines(trainer))
        with explain_write_errors(path, "the gallery"), atomic_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")
        for writer in self._tensorboards(trainer):
            for entry in entries:
                writer.add_text(f"gallery/{entry.name}", _markdown(entry), trainer.global_step)

    @staticmethod
    def _tensorboards(trainer: Trainer) -> list[Any]:
        return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

    def state_dict(self) -> dict[str, Any]:
        """Return the first predictions, which a resumed run cannot make again."""
        return {"first": {name: [first.step, first.text] for name, first in self._first.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the first predictions of the resumed run."""
        self._first = {name: Prediction(*first) for name, first in state_dict["first"].items()}


def pictures_of(batch: Batch, pl_module: Any) -> list[list[np.ndarray[Any, np.dtype[np.uint8]]]]:
    """Return, for each sample of a batch, its pages as the model sees them, (height, width, 3).

    A sample of several pages gets its share of the views by its share of the image tokens; where pages take different
    numbers of tokens that does not tell them apart, and there are no pictures. Nor are there of models that take
    other inputs than views or patches.
    """
    views, images = batch.with_pixel_values().images["pixel_values"], pl_module.processor.image_processor
    if "image_grid_thw" in batch.images:
        pages = pages_of_patches(views, batch.images["image_grid_thw"], images)
        shares = [len(sizes) for sizes in batch.sizes]
    else:
        pages, shares = list(views) if views.dim() == 4 else [], _shares(batch, len(views), pl_module)
    if sum(shares) != len(pages):
        return [[] for _ in range(len(batch))]
    mean, std = (torch.tensor(value or 0.5).view(-1, 1, 1) for value in (images.image_mean, images.image_std))
    pixels = [((page.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8) for page in pages]
    arrays = [page.permute(1, 2, 0).numpy() for page in pixels]
    return [[arrays.pop(0) for _ in range(share)] for share in shares]


def _shares(batch: Batch, count: int, pl_module: Any) -> list[int]:
    """Return how many of the views each sample has; nothing where that is not known."""
    tokens = (batch.tokens["input_ids"] == pl_module.processor.image_token_id).sum(dim=1).tolist()
    total = sum(tokens)
    if count == len(batch):
        return [1] * len(batch)
    if total and all(n * count % total == 0 for n in tokens):
        return [n * count // total for n in tokens]
    return []


def jpeg(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Return a picture (S, S, 3) as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=85, subsampling=0)
    return buffer.getvalue()


def _shows_lines(trainer: Trainer) -> bool:
    """Return whether a reader of the pages can know the line breaks of the targets."""
    data = getattr(trainer, "datamodule", None)
    return not isinstance(data, TextImageDataModule) or data.text.line_breaks == "page"


def _markdown(entry: GalleryEntry) -> str:
    """Return target and latest prediction for TensorBoard, as code so that nothing in them is taken for markup."""
    cer = corpus_cer([entry.latest], [entry.target])
    texts = {"target": entry.target, f"prediction (CER {cer:.1%})": entry.latest.text}
    code = {title: "\n".join(f"    {line}" for line in text.splitlines()) for title, text in texts.items()}
    return "\n\n".join(f"{title}:\n\n{lines}" for title, lines in code.items())
