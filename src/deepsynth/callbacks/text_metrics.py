"""Metrics of generated text under normalization profiles, by language, source or prompt, with bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.distributed.ranks import gather_rows
from deepsynth.errors import UserError
from deepsynth.metrics.corpus import METRICS, bootstrap_intervals, join_pages, summarize, summarize_groups
from deepsynth.metrics.normalization import NORMALIZATION_PROFILES, normalize
from deepsynth.metrics.scores import score_table

#: Most different prompts for which figures are logged.
MOST_PROMPTS = 100


class TextMetrics(Callback):
    """Logs, for what validation and test generated, how much of the error is of which kind, for whom, and how sure.

    Keys: ``val/cer/PROFILE``, its bounds ``val/cer/PROFILE/low`` and ``…/high``, and for each group
    ``val/cer/PROFILE/language=fa``, ``…/source=NAME`` or ``…/prompt=WORDS``; the same with
    ``test/`` and the other metrics. The module's own ``val/cer`` and its kin stay as they are (profile ``none``). A
    document counts once, its pages joined; the figures are those of all ranks' documents together, not a mean of
    means. Each key can be monitored::

        callbacks+:
          - class_path: TextMetrics
            init_args: {profiles: [none, arabic], by: [language]}
          - class_path: EarlyStopping
            init_args: {monitor: val/cer/arabic, patience: 3}

    Args:
        profiles: of :data:`deepsynth.metrics.normalization.NORMALIZATION_PROFILES`; joined by ``+`` to apply several.
        metrics: of :data:`deepsynth.metrics.corpus.METRICS`.
        by: ``language``, ``source`` and ``prompt`` give figures for each of them that the data has, when there are
            several; prompts up to :data:`MOST_PROMPTS`.
        confidence: probability that a bootstrap over documents gives for the bounds; ``null`` for no bounds.
        resamples: of the bootstrap.
        functions: metrics of your own, as ``module.function``: each takes a prediction and its target and returns a
            number. Logged is the mean over the documents, as ``val/FUNCTION/PROFILE``.

    Raises:
        UserError: for an unknown profile or metric, or a number out of range.
    """

    def __init__(
        self,
        profiles: Sequence[str] = tuple(NORMALIZATION_PROFILES),
        metrics: Sequence[str] = ("cer", "wer"),
        by: Sequence[Literal["language", "source", "prompt"]] = ("language", "source", "prompt"),
        confidence: float | None = 0.95,
        resamples: int = 1000,
        functions: Sequence[Callable[[str, str], float]] = (),
    ) -> None:
        for profile in profiles:
            normalize("", profile)  # names the ones that exist
        for metric in metrics:
            if metric not in METRICS:
                raise UserError(f"TextMetrics.metrics has {metric!r}; the metrics are {', '.join(METRICS)}")
        for key in by:
            if key not in ("language", "source", "prompt"):
                raise UserError(f"TextMetrics.by has {key!r}; it must be language, source or prompt")
        if confidence is not None and not 0 < confidence < 1:
            raise UserError(f"TextMetrics.confidence is {confidence}; it must be above 0 and below 1, or null")
        if resamples < 1:
            raise UserError(f"TextMetrics.resamples is {resamples}; it must be at least 1")
        self.profiles = tuple(profiles)
        self.metrics = tuple(metrics)
        self.by = tuple(by)
        self.confidence = confidence
        self.resamples = resamples
        self.functions = tuple(functions)
        self._rows: list[dict[str, Any]] = []

    def figures(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return the figures of rows as validation and test steps return them, by key without the stage.

        Rows without a known target are left out; without any row there is no figure.
        """
        rows = [row for row in rows if row["target"]]
        if not rows:
            return {}
        ids, pages = [row["document_id"] for row in rows], [row["page"] for row in rows]
        predictions = list(join_pages(ids, pages, [row["prediction"] for row in rows]).values())
        targets = list(join_pages(ids, pages, [row["target"] for row in rows]).values())
        first = {row["document_id"]: row for row in reversed(rows)}  # a document has one language and one source
        documents = [first[name] for name in dict.fromkeys(ids)]
        found: dict[str, float] = {}
        for profile in self.profiles:
            table = score_table(predictions, targets, profile)
            total = summarize(table)
            bounds = bootstrap_intervals(table, self.confidence, self.resamples) if self.confidence is not None else {}
            groups: dict[str, dict[str, float]] = {}
            for key in self.by:
                names = [_words_of(row[key]) if key == "prompt" else row[key] for row in documents]
                # A group of all documents would say the same again, and questions that all differ would say nothing.
                if len(set(names)) > 1 and (key != "prompt" or len(set(names)) <= MOST_PROMPTS):
                    groups |= {f"{key}={name}": each for name, each in summarize_groups(table, names).items()}
            found |= self._own_figures(predictions, targets, profile)
            for metric in self.metrics:
                found[f"{metric}/{profile}"] = total[metric]
                if metric in bounds:
                    found[f"{metric}/{profile}/low"], found[f"{metric}/{profile}/high"] = bounds[metric]
                found |= {f"{metric}/{profile}/{group}": figures[metric] for group, figures in groups.items()}
        return found

    def _own_figures(self, predictions: Sequence[str], targets: Sequence[str], profile: str) -> dict[str, float]:
        """Return the means of the functions over documents, both texts normalized."""
        pairs = [
            (normalize(prediction, profile), normalize(target, profile))
            for prediction, target in zip(predictions, targets, strict=True)
        ]
        return {
            f"{function.__name__}/{profile}": sum(float(function(*pair)) for pair in pairs) / len(pairs)
            for function in self.functions
        }

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's rows."""
        self._rows = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the batch's step generated."""
        self._rows += outputs["rows"]

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``val/*``."""
        self._log("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``test/*``."""
        self._log("test", trainer, pl_module)

    def _log(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        figures = self.figures(gather_rows(self._rows))
        # Every rank has the figures of all, so none needs to ask the others.
        pl_module.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, rank_zero_only=False)


def _words_of(prompt: str) -> str:
    """Return a prompt as part of a log key: its words, without image places and separators of keys."""
    words = " ".join(prompt.replace("<image>", " ").replace("/", " ").split())
    return words if len(words) <= 60 else f"{words[:59]}…"
