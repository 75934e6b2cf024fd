"""Loss and metrics of validation and test, over all ranks."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from deepsynth.distributed.ranks import gather_parts
from deepsynth.metrics.documents import DocumentScores, figures, score_documents
from deepsynth.metrics.scores import ScoreTable
from deepsynth.modules.model_module import ModelModule
from deepsynth.modules.text_generator import Row, TextGenerator, blank_rows, with_prediction
from deepsynth.types import Batch


class Evaluator:
    """Measures a model over one epoch of validation or test: its loss, and the metrics of the texts it generates.

    Args:
        module: that is measured.
        generator: of its texts.
    """

    def __init__(self, module: ModelModule, generator: TextGenerator) -> None:
        self._module = module
        self._generator = generator
        self.start()

    def start(self) -> None:
        """Begin an epoch: forget the figures of the last one."""
        self._generator.start_validation()
        self._scores = DocumentScores()
        self._kept_rows: list[Row] = []
        self._loss_sum, self._loss_tokens = 0.0, 0
        self._deadline: float | None = None
        self._cut = False
        self._generated = 0

    def step(self, batch: Batch, *, samples: int | None) -> dict[str, Any]:
        """Measure a batch.

        Args:
            batch: on the device of the model.
            samples: over all ranks, the first of the epoch, whose texts are generated, within the time limit;
                ``None`` for all, without a limit.

        Returns:
            The ``loss``, and the ``rows`` of the samples whose texts were generated.
        """
        loss = self._module.compute_loss(batch)
        tokens = int((batch.tokens["labels"] != -100).sum())
        self._loss_sum += float(loss) * tokens
        self._loss_tokens += tokens
        own = None if samples is None else self._own_share(samples)
        rows = [] if self._cut or (own is not None and self._generated >= own) else self._generate(batch, own)
        return {"loss": loss, "rows": rows}

    def stop_generation(self) -> None:
        """Generate no more text in this epoch."""
        self._cut = True

    def log(self, stage: str) -> None:
        """Log the figures of the epoch, over all ranks: a document counts once, its pages joined."""
        losses = [pair for part in gather_parts([(self._loss_sum, self._loss_tokens)]) for pair in part]
        tokens = sum(count for _, count in losses)
        if tokens:
            self._module.log(f"{stage}/loss", sum(loss for loss, _ in losses) / tokens, prog_bar=True)
        for name, value in figures(self._score_table()).items():
            self._module.log(f"{stage}/{name}", value, prog_bar=name == "cer")
        trainer = self._module.trainer
        trains = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        self._generator.end_validation(again=trains)
        self.start()  # no text of this epoch is kept

    def _own_share(self, samples: int) -> int:
        """Return how many of the first samples are this rank's: they are dealt out one by one."""
        trainer = self._module.trainer
        return max(0, -((trainer.global_rank - samples) // trainer.world_size))

    def _generate(self, batch: Batch, limit: int | None) -> list[Row]:
        """Return the rows of a batch with their texts, those of the limit alone; none when the time is up."""
        first = self._generated == 0
        generations = self._module.generate(batch, None if first or limit is None else self._deadline)
        seconds = self._module.generation.time_limit_s
        if first and limit is not None:
            self._deadline = time.monotonic() + seconds
        if generations is None:
            self._cut = True
            rank_zero_warn(
                f"validation: generation took its {seconds:g} s (model.generation.time_limit_s) and stopped after "
                f"{self._generated} of this process's {limit} samples"
            )
            return []
        rows = [with_prediction(*pair) for pair in zip(blank_rows(batch), generations, strict=True)]
        rows = rows if limit is None else rows[: limit - self._generated]
        self._generated += len(rows)
        self._count(rows)
        return rows

    def _count(self, rows: list[Row]) -> None:
        """Count rows into the metrics; each of several ranks has some pages of a document, so they are kept."""
        if self._module.trainer.world_size == 1:
            self._scores.add(rows)
        else:
            names = ("document_id", "page", "prediction", "target", "stop")
            self._kept_rows += [{name: row[name] for name in names} for row in rows if row["target"]]

    def _score_table(self) -> ScoreTable:
        """Return the scores of the documents of all ranks."""
        if self._module.trainer.world_size == 1:
            return self._scores.table()
        rows = [row for part in gather_parts(self._kept_rows) for row in part]
        return score_documents(rows) if rows else self._scores.table()
