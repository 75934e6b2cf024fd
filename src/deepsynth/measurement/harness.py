"""A fine-tuning module on its device, and the work that it is measured with.

``compare``, ``benchmark train`` and ``benchmark generate`` measure every backend through the interface of
:class:`DeepSynthModule`: ``configure_model``, the steps under a Trainer, and ``generate``.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image

from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.io.pixels import pixel_values
from deepsynth.measurement.cells import Result
from deepsynth.measurement.synthetic import Pages, SyntheticBatches
from deepsynth.modules import DeepSynthModule
from deepsynth.profiling.memory import GIB, ProcessMemory
from deepsynth.types import READ_ON_HOST, Document, Page


class NotMeasured(Exception):
    """The reason why a cell has no figure. It is recorded, and the other cells are measured."""


class KeepOnDeviceStrategy(SingleDeviceStrategy):
    """A single device that the model stays on between two runs; Lightning's own strategy moves it to the CPU."""

    def teardown(self) -> None:
        """Release everything but the model."""
        self.precision_plugin.teardown()
        if self.accelerator is not None:
            self.accelerator.teardown()
        self.checkpoint_io.teardown()


class Harness:
    """A module with its data, loaded once and measured many times.

    Args:
        module: not yet loaded.
        data: of the same configuration.
        precision: of the Trainer.
        gradient_clip_val: of the Trainer.
        seed: of the configuration.
    """

    def __init__(
        self,
        module: DeepSynthModule,
        data: TextImageDataModule,
        *,
        precision: Any = None,
        gradient_clip_val: float | None = None,
        seed: int = 0,
    ) -> None:
        self.module = module
        self.data = data
        self.seed = seed
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._trainer_options = {"precision": precision, "gradient_clip_val": gradient_clip_val}
        self._resident = ProcessMemory()
        self._loaded: Result | None = None

    # ------------------------------------------------------------------ loading

    def load(self) -> Result:
        """Load the weights onto the device, once, and return what that took.

        Returns:
            ``load_s``; ``weights_gib``: bytes of all parameters and buffers, packed ones as they are packed;
            ``parameters`` and ``trainable`` as counts; module, device, dtype and seed.
        """
        if self._loaded is not None:
            return self._loaded
        self.restart_peak()
        start = time.perf_counter()
        self.module.to(self.device)
        self.module.configure_model()
        self.module.to(self.device)
        self.synchronize()
        seconds = time.perf_counter() - start
        module = self.module
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(module)}
        self._loaded = {
            "load_s": seconds,
            "weights_gib": sum(storages.values()) / GIB,
            **self.peak("load_"),
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
            "module": type(module).__name__,
            "model_name": module.model_name,
            "weights": module.weights,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
            "dtype": str(module.resolved_dtype).removeprefix("torch."),
            "seed": self.seed,
        }
        return self._loaded

    # ------------------------------------------------------------------ work

    @property
    def processor(self) -> OcrProcessor:
        """Return the data's processor.

        Raises:
            NotMeasured: for another processor than DeepSynth's own, whose prompts are not known.
        """
        if not isinstance(self.data.processor, OcrProcessor):
            raise NotMeasured(f"synthetic pages need data.processor OcrProcessor, not {type(self.data.processor)}")
        return self.data.processor

    @property
    def config(self) -> Any:
        """Return the configuration of the whole model."""
        self.load()
        return self.module.model.config

    def batches(self, batch_size: int, text_tokens: int, pages: Pages = "new") -> SyntheticBatches:
        """Return synthetic batches.

        Raises:
            NotMeasured: when a sample is longer than the model's positions.
        """
        processor = self.processor
        side = processor.layout.page_side
        page = Page(Image.new("RGB", (side, side), "white"), "")
        sample = processor(Document("synthetic", ""), [page])
        assert sample is not None, "an empty page exceeds no budget"
        longest = int(self.config.text_config.max_position_embeddings)
        if sample.prompt_length + text_tokens > longest:
            raise NotMeasured(
                f"{sample.prompt_length} tokens of page and prompt + {text_tokens} of text (text_tokens) exceed the "
                f"model's {longest} positions"
            )
        tokenizer = processor.hf_processor.tokenizer
        special = {*tokenizer.all_special_ids, processor.hf_processor.image_token_id, processor.pad_token_id}
        ids = [i for i in range(int(self.config.text_config.vocab_size)) if i not in special]
        table = None if sample.pixel_table is None else sample.pixel_table.to(self.device)
        return SyntheticBatches(
            replace(sample, images={}, pixel_table=None),
            pixel_values(
                {
                    name: image if name in READ_ON_HOST else image.to(self.device)
                    for name, image in sample.images.items()
                },
                table,
            ),
            torch.tensor(ids),
            processor.pad_token_id,
            batch_size,
            text_tokens,
            self.device,
            self.seed,
            pages,
        )

    # ------------------------------------------------------------------ runs

    def trainer(self, callback: Callback | None = None, **options: Any) -> Trainer:
        """Return a Trainer that writes nothing and keeps the model on its device."""
        return Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            strategy=KeepOnDeviceStrategy(self.device),
            callbacks=[] if callback is None else [callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{**self._trainer_options, **options},
        )

    def release(self) -> None:
        """Release the optimizer, gradients and caches of the last run."""
        self.module.trainer = None
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------ device

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def restart_peak(self) -> None:
        """Start a new peak of memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._resident.usage()
        self._resident.restart_peak()

    def look_at_memory(self) -> None:
        """Include the resident memory of this moment in the peak; a GPU's allocator keeps its own."""
        self._resident.usage()

    def peak(self, prefix: str = "") -> Result:
        """Return the peak in GiB: of a GPU's allocator, else ``peak_rss_gib``, the resident memory of the process."""
        if self.device.type != "cuda":
            return {f"{prefix}peak_rss_gib": self._resident.usage().peak / GIB}
        return {
            f"{prefix}peak_allocated_gib": torch.cuda.max_memory_allocated(self.device) / GIB,
            f"{prefix}peak_reserved_gib": torch.cuda.max_memory_reserved(self.device) / GIB,
        }


def spread(name: str, values: list[float]) -> Result:
    """Return the median of a figure with its lowest and highest value."""
    return {name: statistics.median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
