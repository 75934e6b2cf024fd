"""What is counted when one prediction is compared with its target: a row of the table that every metric comes from.

L: documents, C: score columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq, Levenshtein

from deepsynth.metrics.normalization import normalize, tokens, words

#: A table of scores, (L, C) float64; counts are exact in it.
ScoreTable = npt.NDArray[np.float64]

#: Lengths of the n-grams that BLEU counts.
BLEU_ORDERS = (1, 2, 3, 4)
#: Names of the columns. Edits, lengths and n-gram counts are summed over documents, the others averaged.
SCORE_COLUMNS = (
    "char_edits",
    "char_length",
    "word_edits",
    "word_length",
    "exact_match",
    "rouge1",
    "rouge2",
    "rougeL",
    "loop",
    "cut",
    "bleu_prediction_length",
    "bleu_target_length",
    *(f"bleu_hits_{order}" for order in BLEU_ORDERS),
    *(f"bleu_ngrams_{order}" for order in BLEU_ORDERS),
)

#: A loop repeats its unit at least this often, and fills at least so many characters at the end. With these numbers,
#: none of 22,000 texts by people in ten languages ended in a loop, and 1 of 20,000 of them cut at an arbitrary place (a
#: ruler of dashes).
LOOP_REPETITIONS = 4
LOOP_MIN_CHARS = 40


def score_table(predictions: Sequence[str], targets: Sequence[str], profile: str = "none") -> ScoreTable:
    """Compare texts pair by pair.

    Returns:
        (L, C) the scores by ``SCORE_COLUMNS``.

    Raises:
        ValueError: when there are not as many predictions as targets, or the profile is unknown.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions and {len(targets)} targets: as many of both are expected")
    pairs = zip(predictions, targets, strict=True)
    rows = [_scores(normalize(prediction, profile), normalize(target, profile)) for prediction, target in pairs]
    return np.array(rows, dtype=np.float64) if rows else np.zeros((0, len(SCORE_COLUMNS)))


def ends_in_loop(text: str) -> bool:
    """Return whether a text ends in a repetition, as models write that lost their place.

    That is: its last ``LOOP_MIN_CHARS`` or more characters repeat one unit at least ``LOOP_REPETITIONS`` times, the
    last time possibly cut short by the token limit.
    """
    text = text.rstrip()
    for period in range(1, len(text) // LOOP_REPETITIONS + 1):
        length = max(LOOP_REPETITIONS * period, LOOP_MIN_CHARS)
        if length > len(text):
            break
        if text.endswith(text[-length:-period]):  # the end equals itself, moved by one period
            return True
    return False


def _scores(prediction: str, target: str) -> tuple[float, ...]:
    """Return a row of the table, by ``SCORE_COLUMNS``."""
    predicted_words, target_words = words(prediction), words(target)
    predicted, expected = tokens(prediction.lower()), tokens(target.lower())
    same = prediction == target
    return (
        Levenshtein.distance(prediction, target),
        max(len(target), 1),
        Levenshtein.distance(predicted_words, target_words),
        max(len(target_words), 1),
        float(same),
        1.0 if same else _f1(*_overlap(predicted, expected, 1)),
        1.0 if same else _f1(*_overlap(predicted, expected, 2)),
        1.0 if same else _f1(LCSseq.similarity(predicted, expected), len(predicted), len(expected)),
        float(ends_in_loop(prediction) and not ends_in_loop(target)),
        0.0,  # a text does not show it; see deepsynth.metrics.documents
        *_bleu_counts(tokens(prediction, punctuation=True), tokens(target, punctuation=True)),
    )


def _ngrams(sequence: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(sequence[start:] for start in range(order)), strict=False))


def _overlap(predicted: Sequence[str], expected: Sequence[str], order: int) -> tuple[int, int, int]:
    """Return the n-grams in common, each as often as in both, and the numbers of n-grams of the two."""
    common = _ngrams(predicted, order) & _ngrams(expected, order)
    return common.total(), max(len(predicted) - order + 1, 0), max(len(expected) - order + 1, 0)


def _f1(hits: int, predicted: int, expected: int) -> float:
    return 2.0 * hits / (predicted + expected) if hits else 0.0


def _bleu_counts(predicted: Sequence[str], expected: Sequence[str]) -> Iterable[int]:
    overlaps = [_overlap(predicted, expected, order) for order in BLEU_ORDERS]
    return (len(predicted), len(expected), *(hits for hits, _, _ in overlaps), *(count for _, count, _ in overlaps))
