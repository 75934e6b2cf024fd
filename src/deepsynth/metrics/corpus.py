"""Metrics on texts: CER, WER, exact match, ROUGE, BLEU and the rate of repetition loops.

Everything is computed from a table with one row a document (``deepsynth.metrics.scores``), so that corpus figures,
medians, figures of groups and bootstrap bounds come from the same numbers, and are exact over several processes.

Definitions:
    * A prediction and its target are compared as they are, apart from white space at their ends: code points, no
      Unicode normalization, case and line breaks count. The profiles of ``metrics.normalization`` forgive more.
    * ``cer``, ``wer``: Levenshtein edits of all documents over the length of all targets, in code points and in words.
      Not a mean of ratios: one repetition loop on a short page would drive that above 100 %.
    * ``cer_median``, ``cer_capped``: over documents, the median, and the mean of ``min(CER, 1)``.
    * An empty target counts as one character and one word long: a prediction for it is an error, and a finite one.
    * ``rouge1``, ``rouge2``, ``rougeL``: mean F1 over documents, as Google's rouge_score without stemming, on
      lower-cased Unicode words (Lin 2004, https://aclanthology.org/W04-1013/).
    * ``bleu``: corpus BLEU-4 without smoothing on words and punctuation, case kept (Papineni et al. 2002,
      https://aclanthology.org/P02-1040/). Orders that no prediction is long enough for are left out.
    * Identical texts score 1.0 also where they are too short for an n-gram.
    * ``loop_rate``: share of documents whose prediction ends in a repetition that its target does not end in
      (``deepsynth.metrics.scores.ends_in_loop``).
    * ``cut_rate``: share of documents with a page whose generation ended at ``max_new_tokens``; 0 for texts of which it
      is not known.

torchmetrics carries the state over batches and processes. Its own CER, ROUGE-L and BLEU are not used, because they take
a second for a page of Chinese; the tests compare the figures with them. L: documents, C: score columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from deepsynth.errors import UserError
from deepsynth.metrics.normalization import normalize
from deepsynth.metrics.scores import BLEU_ORDERS, SCORE_COLUMNS, ScoreTable, score_table

#: The figures that ``summarize`` returns.
METRICS = (
    "cer",
    "wer",
    "cer_median",
    "cer_capped",
    "exact_match",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "loop_rate",
    "cut_rate",
)


class CorpusMetrics(Metric):  # type: ignore[misc]  # torchmetrics is untyped to mypy
    """Compute every metric of ``METRICS`` over all documents of all processes.

    Example:
        >>> metrics = CorpusMetrics()
        >>> metrics.update(["a cat"], ["a bat"])
        >>> round(metrics.compute()["cer"].item(), 2)
        0.2

    Args:
        profile: normalization of both texts, as for ``deepsynth.metrics.normalization.normalize``.
        **kwargs: passed to ``torchmetrics.Metric``.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    rows: list[torch.Tensor] | torch.Tensor

    def __init__(self, profile: str = "none", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        normalize("", profile)  # an unknown profile is an error now, not after the first epoch
        self.profile = profile
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[str], targets: Sequence[str]) -> None:
        """Add documents.

        Args:
            predictions: what the model wrote, a text a document.
            targets: what it should have written.

        Raises:
            ValueError: when there are not as many predictions as targets.
        """
        table = score_table(predictions, targets, self.profile)
        # Flat, and in torchmetrics' own dtype: so it gathers it with a process that has no document. Counts are exact
        # up to 16.7 million.
        assert isinstance(self.rows, list)  # it is a tensor only while synchronized
        self.rows.append(torch.from_numpy(table).flatten().to(self.device, torch.float32))

    def compute(self) -> dict[str, torch.Tensor]:
        """Return the metrics by name, as float32 scalars; NaN when there was no document."""
        return {name: torch.tensor(value, device=self.device) for name, value in summarize(self.table()).items()}

    def table(self) -> ScoreTable:
        """Return this process's scores (L, C) in the order of the updates, for ``summarize`` and its relatives."""
        rows = [self.rows] if isinstance(self.rows, torch.Tensor) else self.rows
        flat = [np.zeros(0), *(row.cpu().double().numpy() for row in rows)]
        return np.concatenate(flat).reshape(-1, len(SCORE_COLUMNS))


def summarize(table: ScoreTable) -> dict[str, float]:
    """Return the metrics (``METRICS``) of a table (L, C); NaN when it is empty."""
    if not len(table):
        return dict.fromkeys(METRICS, float("nan"))
    columns = dict(zip(SCORE_COLUMNS, table.T, strict=True))
    total = dict(zip(SCORE_COLUMNS, table.sum(axis=0).tolist(), strict=True))
    cers = columns["char_edits"] / np.maximum(columns["char_length"], 1.0)
    return {
        "cer": total["char_edits"] / max(total["char_length"], 1.0),
        "wer": total["word_edits"] / max(total["word_length"], 1.0),
        "cer_median": float(np.median(cers)),
        "cer_capped": float(np.minimum(cers, 1.0).mean()),
        "exact_match": total["exact_match"] / len(table),
        "rouge1": total["rouge1"] / len(table),
        "rouge2": total["rouge2"] / len(table),
        "rougeL": total["rougeL"] / len(table),
        "bleu": _bleu(total),
        "loop_rate": total["loop"] / len(table),
        "cut_rate": total["cut"] / len(table),
    }


def summarize_groups(table: ScoreTable, groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """Return the metrics of each group of documents, in the order of the names.

    Args:
        table: (L, C) scores.
        groups: L names, such as languages; documents with ``None`` are left out.

    Raises:
        ValueError: when there are not L names.
    """
    if len(groups) != len(table):
        raise ValueError(f"{len(groups)} group names for {len(table)} documents: as many of both are expected")
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(row)
    return {group: summarize(table[members[group]]) for group in sorted(members)}


def bootstrap_intervals(
    table: ScoreTable, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap bounds of every metric: documents are drawn with replacement (Efron 1979).

    Args:
        table: (L, C) scores.
        confidence: probability between the bounds, in (0, 1).
        resamples: number of drawn tables.
        seed: of the drawing; the same seed gives the same bounds.

    Returns:
        The lower and the upper bound by metric; NaN for an empty table.

    Raises:
        UserError: for an argument out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise UserError(f"confidence is {confidence}; it must be above 0 and below 1")
    if resamples < 1:
        raise UserError(f"resamples is {resamples}; it must be at least 1")
    if not len(table):
        return dict.fromkeys(METRICS, (float("nan"), float("nan")))
    rng = np.random.default_rng(seed)
    drawn = [summarize(table[rng.integers(len(table), size=len(table))]) for _ in range(resamples)]
    tail = (1.0 - confidence) / 2.0
    values = np.array([[figures[metric] for metric in METRICS] for figures in drawn])
    lower, upper = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return {metric: (float(lower[i]), float(upper[i])) for i, metric in enumerate(METRICS)}


def join_pages(ids: Sequence[str], pages: Sequence[int], texts: Sequence[str]) -> dict[str, str]:
    """Return the text of each document: its pages in order, a line break between them.

    A page that comes twice (a distributed sampler repeats some to give every process as many) counts once.

    Args:
        ids: a document id for each page.
        pages: page numbers.
        texts: a text for each page.

    Returns:
        Texts by document id, in the order in which the ids come first.

    Raises:
        ValueError: when the three differ in length.
    """
    if not len(ids) == len(pages) == len(texts):
        raise ValueError(f"{len(ids)} ids, {len(pages)} pages and {len(texts)} texts: as many of each are expected")
    documents: dict[str, dict[int, str]] = {}
    for identity, page, text in zip(ids, pages, texts, strict=True):
        documents.setdefault(identity, {}).setdefault(page, text)
    return {identity: "\n".join(text_of[page] for page in sorted(text_of)) for identity, text_of in documents.items()}


def _bleu(total: Mapping[str, float]) -> float:
    """Return BLEU of summed counts: brevity penalty times the geometric mean of the n-gram precisions."""
    predicted, expected = total["bleu_prediction_length"], total["bleu_target_length"]
    counts = [(total[f"bleu_hits_{order}"], total[f"bleu_ngrams_{order}"]) for order in BLEU_ORDERS]
    precisions = [hits / ngrams for hits, ngrams in counts if ngrams]
    if not precisions:
        return float(predicted == expected)  # no word on either side, or none written
    if min(precisions) == 0.0:
        return 0.0
    brevity = min(0.0, 1.0 - expected / predicted)
    return float(np.exp(brevity + np.mean(np.log(precisions))))
