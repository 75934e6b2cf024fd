"""The LightningDataModule: source, renderer, augmenter, processor and collator, split and batched."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.loading.agreement import check_ranks_agree
from deepsynth.data.loading.dataset import PageDataset
from deepsynth.data.loading.entries import OnError
from deepsynth.data.loading.loader import ResumableLoader
from deepsynth.data.loading.sampler import EpochSampler
from deepsynth.data.loading.split_reader import SplitReader
from deepsynth.data.loading.stream import Fingerprint, PageStream, StreamLoader
from deepsynth.data.loading.training_stream import MixedStream, StreamTrainingLoader, training_stream
from deepsynth.data.loading.usable import Check, check_samples, report_dataset, report_skipped
from deepsynth.data.loading.workers import Workers
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor, Processor
from deepsynth.data.processing.targets import make_targets
from deepsynth.data.rendering.renderer import Renderer, TextRenderer
from deepsynth.data.shards import Shard
from deepsynth.data.sources.base import Source
from deepsynth.data.splits import Split, Splitter
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.errors import UserError
from deepsynth.io.images import MAX_PIXELS
from deepsynth.types import Batch, Task

log = logging.getLogger(__name__)

_SPLITS: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class TextImageDataModule(LightningDataModule):
    """Batches of page images and text from documents, split into training, validation and test.

    Without targets the task is transcription and a sample is one page; with targets it is summarization and a sample is
    one document with all its pages. The split of a document follows from the hash of its id, so it stays the same when
    documents are added. ``predict`` uses every document of the source.

    Args:
        source: source of the documents.
        renderer: draws text as pages; by default square pages with the side of the model's mode.
        augmenter: degrades pages; by default pages stay clean. Validation and test pages are degraded like training
            pages, each in the same way every time.
        processor: makes samples of pages; by default an :class:`OcrProcessor` with the five options below.
        model_name: model whose tokenizer and image processor are used; the command line takes it from
            ``model.model_name``.
        mode: resolution by name, such as ``base``; by default that of the model's files.
        prompt: prompt with ``<image>`` where the pages go; by default one for each task.
        max_tokens: token budget of a sample; by default the number of the decoder's positions.
        on_max_tokens: what to do with samples longer than ``max_tokens``: stop with an error, or drop and count them.
        val_source: source of the validation documents; then no part of ``source`` is held out for it.
        test_source: source of the test documents; likewise.
        val_fraction: share of ``source`` for validation.
        test_fraction: share of ``source`` for test.
        max_train_documents: limit of training documents, the first by hash; to try things out.
        max_eval_documents: limit of documents for each of validation and test, likewise; generation is slow.
        predict_split: documents to predict: all of the source, or one split of it.
        max_pages: largest number of pages of a document that is summarized; more are an error.
        max_image_pixels: largest number of pixels of a scan; decoding takes up to 20 bytes for each in every worker.
        batch_size: samples in each step on each device.
        eval_batch_size: samples in each batch of generation; by default ``batch_size``.
        num_workers: processes that render; 0 renders in the main process. The batches are the same. ``auto`` is 0
            without a GPU, else as many as a GPU needs by what its first samples take to make, up to the cores.
        seed: seed of layout, augmentation and order; the command line takes it from ``seed_everything``.
        pad_to_multiple_of: multiple to which the token length of a batch is rounded up; by default 64 with a GPU, whose
            attention plans anew for every length, which takes as long as a step, else 1.
        group_by_length: make training batches of samples of similar lengths, which need less padding.
        packing: put the samples of a training batch into one row without padding; the loss is the same.
        text: how texts become labels: line breaks, Unicode form, what draws nothing.
        target: what is learned from a page: ``text``, ``markdown``, ``markdown_pipes``, ``grounded``, ``lines``,
            ``locate``, ``table``, or ``field:NAME`` of the row; or weights, as ``{markdown: 2, grounded: 1}``.
        on_error: what to do with rows that are no documents (no text, another's id) and samples that cannot be made:
            raise, or skip them and list them in ``skipped_*.csv``; training then makes all samples once in advance.
        check: samples to make before the first step of training: a few, all or none; see ``deepsynth data check``.
        augment_variants: number of ways in which a page is degraded; epochs repeat them in turn. By default every epoch
            is different. With it ``model.vision_cache`` finds degraded pages again.

    Raises:
        UserError: for numbers out of range, with the key and the value.
    """

    def __init__(
        self,
        source: Source,
        renderer: Renderer | None = None,
        augmenter: Augmenter | None = None,
        processor: Processor | None = None,
        model_name: str = "deepsynth/tiny-random",
        mode: str | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
        on_max_tokens: Literal["error", "drop"] = "error",
        val_source: Source | None = None,
        test_source: Source | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        max_train_documents: int | None = None,
        max_eval_documents: int | None = None,
        predict_split: Literal["all", "train", "val", "test"] = "all",
        max_pages: int = 8,
        max_image_pixels: int = MAX_PIXELS,
        batch_size: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
        group_by_length: bool = False,
        packing: bool = False,
        augment_variants: int | None = None,
        text: TextCleaning = TextCleaning(),  # noqa: B008  it is frozen, and --help shows its fields
        target: str | dict[str, float] = "text",
        on_error: OnError = "raise",
        check: Check = "quick",
    ) -> None:
        super().__init__()
        numbers = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        numbers |= {"max_pages": max_pages, "max_image_pixels": max_image_pixels, "augment_variants": augment_variants}
        for name, value in numbers.items():
            if isinstance(value, int) and value < (least := {"num_workers": 0, "max_image_pixels": 2}.get(name, 1)):
                raise UserError(f"data.{name} is {value}; it must be at least {least}")
        if processor is not None and (mode, prompt, max_tokens) != (None, None, None):
            raise UserError("data.mode, data.prompt and data.max_tokens belong to data.processor when one is given")
        self.targets = make_targets(target, getattr(processor, "prompt", prompt))
        self.source = source.with_fields(self.targets.fields)
        self.val_source = val_source and val_source.with_fields(self.targets.fields)
        self.test_source = test_source and test_source.with_fields(self.targets.fields)
        self.splitter = Splitter(
            val_fraction=0.0 if val_source is not None else val_fraction,
            test_fraction=0.0 if test_source is not None else test_fraction,
            max_train_documents=max_train_documents,
            max_eval_documents=max_eval_documents,
        )
        self.predict_split = predict_split
        self.max_pages = max_pages
        self.max_image_pixels = max_image_pixels
        self.renderer = renderer
        self.augmenter = augmenter
        self.processor = processor or OcrProcessor(model_name, mode, prompt, max_tokens, on_max_tokens)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.workers = Workers(num_workers, seed)
        self.seed = seed
        usual = 64 if torch.cuda.is_available() else 1
        self.pad_to_multiple_of = usual if pad_to_multiple_of is None else pad_to_multiple_of
        self.group_by_length = group_by_length
        self.packing = packing
        self.augment_variants = augment_variants
        self.text = text
        self.on_error: OnError = on_error
        self.check: Check = check
        self.datasets: dict[str, PageDataset] = {}
        self.training: MixedStream | None = None  # what is trained on where it cannot be held
        self._started: ResumableLoader | None = None  # makes batches while the model is loaded
        self.predict_shard = Shard()  # set by ``deepsynth predict --shard I/N``
        self.stream: PageStream | None = None  # the documents to predict
        self._seen: Fingerprint | None = None  # of the documents that predict has read, once it is through

    @property
    def reader(self) -> SplitReader:
        """What reads the documents of splits."""
        own: dict[Split, Source | None] = {"val": self.val_source, "test": self.test_source}
        return SplitReader(self.source, own, self.splitter, self.on_error)

    def setup(self, stage: str) -> None:
        """Read the documents of a stage (fit, validate, test), once for all of its splits, and lay out their pages.

        For ``predict`` documents are only checked, and read again one by one; those of a stream are not checked.
        """
        self.processor.check(packing=self.packing and stage == "fit", targets=self.targets.kinds)
        if stage == "predict":
            self._set_up_stream()
            return
        splits = [split for split in _SPLITS[stage] if split != "val" or self.holds_out_validation]
        if "train" in splits and self.reader.streams("train"):
            splits.remove("train")
            self.training = training_stream(self.reader, self.pipeline(), self.trainer, grouped=self.group_by_length)
        found = self.reader.read([split for split in splits if split not in self.datasets], self.trainer)
        for split, documents in found.items():
            dataset = PageDataset(documents, self.pipeline(), self.on_error)
            report_dataset(dataset, split, self.text, self.trainer)
            check_ranks_agree(self.trainer, self.source, f"{split} samples", dataset.fingerprint)
            if split == "train":
                self.workers.choose_count(check_samples(dataset, self.check if self.on_error == "raise" else "quick"))
            self.datasets[split] = dataset
        if stage == "fit" and self.trainer is not None and self.workers.count and "train" in self.datasets:
            self._started = self._loader("train", self.batch_size, shuffle=True, even=True).start()

    def _set_up_stream(self) -> None:
        trainer, chosen = self.trainer, self.predict_split
        part = self.predict_shard.over(trainer.global_rank, trainer.world_size) if trainer else self.predict_shard
        documents = self.source if chosen == "all" else self.reader.read([chosen], trainer)[chosen]
        stream = PageStream(documents, replace(self.pipeline(), prompt_only=True), part, self.on_error)
        if not stream.streams:
            check_ranks_agree(self.trainer, self.source, "documents", stream.check())
            log.info("predict: %s documents", stream.own_documents)
        self.stream, self._seen = stream, None

    def _end_stream(self, found: Fingerprint, given: int, dropped: int) -> None:
        """Keep the fingerprint for the comparison of ranks, and report dropped samples."""
        self._seen = found
        if dropped and not given:
            raise UserError(f"all {dropped} samples of predict exceed data.max_tokens; raise it or use smaller pages")
        if dropped:
            log.info("predict: %d samples dropped as longer than data.max_tokens", dropped)

    def pipeline(self) -> Pipeline:
        """Return the stages that make samples of a document."""
        side = self.processor.page_side_px
        renderer = self.renderer or TextRenderer(page_width_px=side, page_height_px=side)
        limits = (self.max_pages, self.augment_variants, self.max_image_pixels)
        stages = (renderer, self.augmenter, self.processor, self.seed, *limits)
        return Pipeline(*stages, text=self.text, targets=self.targets)

    @property
    def holds_out_validation(self) -> bool:
        """Whether there will be validation documents."""
        return self.val_source is not None or self.splitter.val_fraction > 0

    @property
    def task(self) -> Task:
        """The task of the data that was set up."""
        if self.datasets:
            return next(iter(self.datasets.values())).documents[0].task
        stream = self.training.stream if self.training else self.stream
        assert stream is not None, "setup was called"
        return stream.task

    def train_dataloader(self) -> ResumableLoader | StreamTrainingLoader:
        """Return shuffled training batches."""
        if self.training is not None:
            collator = Collator(self.processor.pad_token_id, self.pad_to_multiple_of, packed=self.packing)
            report = partial(report_skipped, self.trainer, "train")
            return StreamTrainingLoader(self.training, self.batch_size, collator, report, self.workers)
        started, self._started = self._started, None
        return started or self._loader("train", self.batch_size, shuffle=True, even=True)

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Return validation batches in the source's order; none when nothing is held out."""
        return self._loader("val", self.eval_batch_size) if "val" in self.datasets else []

    def test_dataloader(self) -> ResumableLoader:
        """Return test batches in the source's order."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> StreamLoader:
        """Return batches in the source's order."""
        assert self.stream is not None, "setup was called"
        collator = Collator(self.processor.pad_token_id, self.pad_to_multiple_of)
        report = partial(report_skipped, self.trainer, "predict", every_rank=True)
        return StreamLoader(self.stream, self.eval_batch_size, collator, self._end_stream, report, self.workers)

    def _loader(self, split: str, batch_size: int, *, shuffle: bool = False, even: bool = False) -> ResumableLoader:
        trainer: Any = self.trainer
        overfits = bool(trainer and trainer.overfit_batches)
        sampler = EpochSampler(
            self.datasets[split],
            shuffle=shuffle and not overfits,
            seed=self.seed,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            even=even,
            lengths=self.datasets[split].lengths if self.group_by_length and shuffle else None,
            batch_size=batch_size,
            repeat=overfits,
        )
        if not len(sampler):
            raise UserError(f"the {split} split has {len(self.datasets[split])} samples, fewer than processes")
        return ResumableLoader(
            self.datasets[split],
            sampler,
            self.workers,
            batch_size=batch_size,
            endless=even,
            collate_fn=Collator(self.processor.pad_token_id, self.pad_to_multiple_of, packed=self.packing and even),
        )

    def teardown(self, stage: str) -> None:
        """End the workers, and compare the documents of ranks where that could not be done before.

        Raises:
            UserError: when ranks have read different documents.
        """
        self.workers.close()
        # Not at the end of the stream: with a limit of batches some ranks reach it and others do not.
        if stage == "predict" and self.stream is not None and self.stream.streams:
            check_ranks_agree(self.trainer, self.source, "documents", self._seen)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors of a batch; pages stay bytes until the model takes them."""
        return batch.to(device)
