"""Validation, test and prediction: loss, generated text and its metrics, over all ranks."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from deepsynth.generation import Compile, Decoder, Generation, Implementation, LoopRule, decodes, generate
from deepsynth.metrics.documents import DocumentScores, figures, score_documents
from deepsynth.metrics.scores import ScoreTable
from deepsynth.modules.settings import GenerationSettings
from deepsynth.types import Batch


class EvaluatedModule(LightningModule):
    """The steps that measure a model: what it loses and what it reads."""

    #: What ``generation: auto`` is.
    AUTO_GENERATION: Implementation = "auto"

    generation: GenerationSettings
    model: Any
    processor: Any

    def __init__(self) -> None:
        super().__init__()
        self.prompt: str | None = None
        #: Called with "generation" when it begins and with ``None`` when it is over; see :class:`VramMonitor`.
        self.phase_listeners: list[Callable[[str | None], None]] = []
        #: How many samples an earlier, interrupted run predicted: the next one passes over them.
        self.earlier_samples = 0
        self._scores = DocumentScores()
        self._kept_rows: list[dict[str, Any]] = []
        self._loss_sum, self._loss_tokens = 0.0, 0
        self._decoder: Decoder | None = None
        self._predicting: Decoder | None = None
        self._unread: deque[dict[str, Any] | None] = deque()
        self._already_read = 0
        self._generation_deadline: float | None = None
        self._generation_cut = False
        self._generated = 0

    @property
    @abstractmethod
    def resolved_dtype(self) -> torch.dtype:
        """The dtype of the frozen weights on this machine."""

    @abstractmethod
    def compute_loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss over the batch's label tokens."""

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss and, for the samples that are generated, ids, predictions and targets."""
        return self._evaluate(batch, batch_idx, limit=self._share(self.generation.samples))

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss, ids, predictions and targets."""
        return self._evaluate(batch, batch_idx, limit=None)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return rows in the source's order: document id, page, prediction, target, tokens, why generation stopped.

        The rows of the last samples come with a later batch: pages of several batches are read at the same time, so
        that one long text does not hold up the others. The last batch brings all that are missing.
        """
        self._see_prompt(batch)
        passed = min(self._already_read, len(batch))
        self._already_read -= passed
        if passed < len(batch):
            blank: list[dict[str, Any] | None] = list(self._blank_rows(batch))
            self._unread.extend([None] * passed + blank[passed:])
        self._announce("generation")
        generations = self._read_on(batch if passed < len(batch) else None)
        self._announce(None)
        places = [(self._unread.popleft(), generation) for generation in generations]
        return [filled(row, generation) for row, generation in places if row is not None]

    def _read_on(self, batch: Batch | None) -> list[Generation]:
        """Begin with a batch, and return the texts whose turn has come; with the last batch, all."""
        limit = self.generation.max_new_tokens
        if not self._decodes:
            generations = self._generate(batch) if batch is not None else []
            assert generations is not None, "without a deadline generation is never cut"
            return generations
        if batch is not None:
            if self._predicting is None:
                self._predicting = self._make_decoder(len(batch))
            self._predicting.submit(in_dtype(batch, self.resolved_dtype), limit)
        if self._predicting is None:
            return []
        last: bool = self.trainer.predict_loop.batch_progress.is_last_batch  # type: ignore[attr-defined]
        return self._predicting.advance(drain=last) or []

    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Write the text of each sample of a batch; ``None`` when the deadline cut it short."""
        self._announce("generation")
        generations = self._generate(batch, deadline)
        self._announce(None)  # not after an exception, which is the generation's own
        return generations

    def _generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        batch, limit = in_dtype(batch, self.resolved_dtype), self.generation.max_new_tokens
        if not self._decodes:
            tokenizer, loops = self.processor.tokenizer, self._loop_rule()
            return generate(
                self.model,
                tokenizer,
                batch,
                max_new_tokens=limit,
                deadline=deadline,
                implementation="transformers",
                loops=loops,
            )
        if self._decoder is None or self._decoder.slots != len(batch):
            self._decoder = self._make_decoder(len(batch))
        decoder, self._decoder = self._decoder, None  # one that fails in the middle is not used again
        decoder.submit(batch, limit)
        generations = decoder.advance(drain=True, deadline=deadline)
        self._decoder = decoder
        return generations

    @property
    def _decodes(self) -> bool:
        """Whether the decoder of this package writes, and not the model's own."""
        chosen = self.generation.implementation
        return decodes(self.model, self.AUTO_GENERATION if chosen == "auto" else chosen)

    def _make_decoder(self, slots: int) -> Decoder:
        chosen: Compile | Literal["auto"] = self.generation.compile
        if chosen == "auto":
            chosen = "vision" if self.device.type == "cuda" else "none"
        return Decoder(self.model, self.processor.tokenizer, slots=slots, loops=self._loop_rule(), compile=chosen)

    def _loop_rule(self) -> LoopRule | None:
        return LoopRule.of(self.processor.tokenizer) if self.generation.stop_on_repetition else None

    def stop_generation(self) -> None:
        """Generate no more text in the validation that is under way; the next one generates again."""
        self._generation_cut = True

    def forget_decoders(self) -> None:
        """Give the memory of caches and captured graphs back."""
        self._decoder = self._predicting = None
        self._unread.clear()

    def _announce(self, phase: str | None) -> None:
        for listener in self.phase_listeners:
            listener(phase)

    def _share(self, samples: int) -> int:
        """Return how many of the first samples are this process's: they are dealt out one by one."""
        return max(0, -((self.trainer.global_rank - samples) // self.trainer.world_size))

    def _evaluate(self, batch: Batch, batch_idx: int, limit: int | None) -> dict[str, Any]:
        self._see_prompt(batch)
        loss = self.compute_loss(batch)
        tokens = int((batch.tokens["labels"] != -100).sum())
        self._loss_sum += float(loss) * tokens
        self._loss_tokens += tokens
        rows: list[dict[str, Any]] = []
        if (limit is None or self._generated < limit) and not self._generation_cut:
            first = self._generated == 0
            generations = self.generate(batch, None if first or limit is None else self._generation_deadline)
            if first and limit is not None:
                self._generation_deadline = time.monotonic() + self.generation.time_limit_s
            if generations is None:
                self._generation_cut = True
                rank_zero_warn(
                    f"validation: generation took its {self.generation.time_limit_s:g} s "
                    f"(model.generation.time_limit_s) and stopped after {self._generated} of this process's {limit} "
                    "samples"
                )
            else:
                rows = [filled(*pair) for pair in zip(self._blank_rows(batch), generations, strict=True)]
                rows = rows if limit is None else rows[: limit - self._generated]
                self._generated += len(rows)
                self._take(rows)
        return {"loss": loss, "rows": rows}

    @staticmethod
    def _blank_rows(batch: Batch) -> list[dict[str, Any]]:
        """Return what is known of the samples of a batch before they are read."""
        return [
            {
                "id": batch.ids[i],
                "document_id": batch.document_ids[i],
                "page": batch.pages[i],
                "prediction": "",
                "target": batch.targets[i],
                "language": batch.languages[i],
                "source": batch.sources[i],
            }
            for i in range(len(batch))
        ]

    def _take(self, rows: list[dict[str, Any]]) -> None:
        """Count rows into the metrics; of several processes each has some pages of a document, so they are kept."""
        if self.trainer.world_size == 1:
            self._scores.add(rows)
        else:
            names = ("document_id", "page", "prediction", "target", "stop")
            self._kept_rows += [{name: row[name] for name in names} for row in rows if row["target"]]

    def _see_prompt(self, batch: Batch) -> None:
        """Keep the prompt of the data, which is stored with the adapter; say when it is not the trained one."""
        if self.prompt is None:
            self.prompt = batch.prompt
        elif self.prompt != batch.prompt:
            rank_zero_warn(
                f"the adapter was trained with the prompt {self.prompt!r}; data.prompt is now {batch.prompt!r}"
            )
            self.prompt = batch.prompt

    def _start_evaluation(self) -> None:
        self.forget_decoders()
        self._scores, self._kept_rows = DocumentScores(), []
        self._loss_sum, self._loss_tokens = 0.0, 0
        self._generation_deadline, self._generation_cut, self._generated = None, False, 0

    def _log_evaluation(self, stage: str) -> None:
        """Log what this epoch measured, over all ranks: a document counts once, its pages joined."""
        self.forget_decoders()
        losses = self._gather([(self._loss_sum, self._loss_tokens)])
        tokens = sum(count for _, count in losses)
        if tokens:
            self.log(f"{stage}/loss", sum(loss for loss, _ in losses) / tokens, prog_bar=True)
        for name, value in figures(self._score_table()).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "cer")

    def _score_table(self) -> ScoreTable:
        """Return the scores of the documents that all ranks have read."""
        if self.trainer.world_size == 1:
            return self._scores.table()
        rows = self._gather(self._kept_rows)
        return score_documents(rows) if rows else self._scores.table()

    def _gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all ranks, in rank order."""
        if self.trainer.world_size == 1:
            return items
        gathered: list[list[Any]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        """Forget the last epoch's rows, and begin behind those of an interrupted run."""
        self._start_evaluation()
        self._already_read, self.earlier_samples = self.earlier_samples, 0

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self._log_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        """Give the memory of decoding back."""
        self.forget_decoders()


def filled(row: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """Return the row of a sample with what was written for it."""
    return {**row, "prediction": generation.text, "tokens": generation.tokens, "stop": generation.stop}


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with its pixels in the dtype of the weights: without autocast nothing else casts them."""
    return batch.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
