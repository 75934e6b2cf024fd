"""Validation, test and prediction: loss, generated text and its metrics, over all ranks."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from deepsynth.generation import Generation, generate
from deepsynth.metrics import CorpusMetrics, join_pages
from deepsynth.types import Batch


class EvaluatedModule(LightningModule):
    """The steps that measure a model: what it loses and what it reads."""

    model: Any
    processor: Any

    def __init__(self) -> None:
        super().__init__()
        self.prompt: str | None = None
        #: Called with "generation" when it begins and with ``None`` when it is over; see :class:`VramMonitor`.
        self.phase_listeners: list[Callable[[str | None], None]] = []
        self._rows: list[dict[str, Any]] = []
        self._losses: list[tuple[float, int]] = []
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
        return self._evaluate(batch, batch_idx, limit=self.hparams["generate_samples"])

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss, ids, predictions and targets."""
        return self._evaluate(batch, batch_idx, limit=None)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return a row per sample: document id, page, prediction, target, tokens and why generation stopped."""
        self._see_prompt(batch)
        generations = self.generate(batch)
        assert generations is not None, "without a deadline generation is never cut"
        rows = self._make_rows(batch, generations)
        self._rows += rows
        return rows

    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Write the text of each sample of a batch; ``None`` when the deadline cut it short."""
        self._announce("generation")
        generations = generate(
            self.model,
            self.processor.tokenizer,
            in_dtype(batch, self.resolved_dtype),
            max_new_tokens=self.hparams["max_new_tokens"],
            deadline=deadline,
        )
        self._announce(None)  # not after an exception, which is the generation's own
        return generations

    def _announce(self, phase: str | None) -> None:
        for listener in self.phase_listeners:
            listener(phase)

    def _evaluate(self, batch: Batch, batch_idx: int, limit: int | None) -> dict[str, Any]:
        self._see_prompt(batch)
        loss = self.compute_loss(batch)
        tokens = int((batch.inputs["labels"] != -100).sum())
        self._losses.append((float(loss), tokens))
        rows: list[dict[str, Any]] = []
        if (limit is None or self._generated < limit) and not self._generation_cut:
            first = self._generated == 0
            generations = self.generate(batch, None if first or limit is None else self._generation_deadline)
            if first and limit is not None:
                self._generation_deadline = time.monotonic() + self.hparams["generate_time_s"]
            if generations is None:
                self._generation_cut = True
                rank_zero_warn(
                    f"validation: generation took its {self.hparams['generate_time_s']:g} s "
                    f"(model.generate_time_s) and stopped after {self._generated} of {limit} samples"
                )
            else:
                rows = self._make_rows(batch, generations)
                self._generated += len(rows)
                self._rows += rows
        return {"loss": loss, "rows": rows}

    @staticmethod
    def _make_rows(batch: Batch, generations: list[Generation]) -> list[dict[str, Any]]:
        return [
            {
                "id": batch.ids[i],
                "document_id": batch.document_ids[i],
                "page": batch.pages[i],
                "prediction": generation.text,
                "target": batch.targets[i],
                "language": batch.languages[i],
                "source": batch.sources[i],
                "tokens": generation.tokens,
                "stop": generation.stop,
            }
            for i, generation in enumerate(generations)
        ]

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
        self._rows, self._losses = [], []
        self._generation_deadline, self._generation_cut, self._generated = None, False, 0

    def _log_evaluation(self, stage: str) -> None:
        """Log what this epoch measured, over all ranks: a document counts once, its pages joined."""
        rows, losses = self._gather(self._rows), self._gather(self._losses)
        tokens = sum(count for _, count in losses)
        if tokens:
            self.log(f"{stage}/loss", sum(loss * count for loss, count in losses) / tokens, prog_bar=True)
        for name, value in self.text_metrics(rows).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "cer")

    @staticmethod
    def text_metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of generated rows, documents' pages joined; empty when no row has a known target."""
        rows = [row for row in rows if row["target"]]
        if not rows:
            return {}
        ids, pages = [row["document_id"] for row in rows], [row["page"] for row in rows]
        predictions = join_pages(ids, pages, [row["prediction"] for row in rows])
        targets = join_pages(ids, pages, [row["target"] for row in rows])
        metrics = CorpusMetrics(sync_on_compute=False)
        metrics.update(list(predictions.values()), list(targets.values()))
        return {name: float(value) for name, value in metrics.compute().items()}

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
        """Forget the last epoch's rows."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self._log_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        """Print the metrics of the predictions whose targets are known: Lightning logs nothing while predicting."""
        rows = self._gather(self._rows)
        metrics = self.text_metrics(rows)
        if metrics:
            known = len({row["document_id"] for row in rows if row["target"]})
            figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("cer", "wer", "cer_median", "loop_rate"))
            rank_zero_info(f"predict: {known} documents with a known text: {figures}")


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with its pixels in the dtype of the weights: without autocast nothing else casts them."""
    cast: dict[int, torch.Tensor] = {}  # inputs and prompts share their pixels, and shall go on sharing them

    def of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for tensor in tensors.values():
            if tensor.is_floating_point() and id(tensor) not in cast:
                cast[id(tensor)] = tensor.to(dtype)
        return {name: cast.get(id(tensor), tensor) for name, tensor in tensors.items()}

    return replace(batch, inputs=of(batch.inputs), prompts=of(batch.prompts))
