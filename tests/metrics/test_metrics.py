"""Metrics against hand-made cases, against torchmetrics, in many scripts, in any batches and over processes."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import bleu_score, char_error_rate, word_error_rate
from torchmetrics.functional.text.rouge import rouge_score

from deepsynth.metrics.corpus import (
    METRICS,
    CorpusMetrics,
    bootstrap_intervals,
    join_pages,
    summarize,
    summarize_groups,
)
from deepsynth.metrics.normalization import NORMALIZATION_PROFILES, normalize, tokens, words
from deepsynth.metrics.scores import SCORE_COLUMNS, ends_in_loop, score_table
from tests.helpers.ranks import in_ranks

MULTI = Path(__file__).parents[1] / ".." / ".." / "shared" / "data" / "multi"

#: One sentence in each language of the project's data, and in the scripts without spaces beyond them.
SENTENCES = {
    "ar": "تُعدّ القراءة نافذةً على العالم، ولا غنى عنها.",
    "de": "Die Größe der Straße überrascht jeden Fußgänger.",
    "en": "Don't panic: the quick brown fox is 42 years old.",
    "es": "El niño pidió un café y una porción de jamón.",
    "fa": "کتاب‌ها را می‌خوانیم و از آن‌ها می‌آموزیم.",
    "fr": "L’été, il a mangé des œufs à la coque.",
    "hi": "हिन्दी में लिखी गई यह किताब बहुत अच्छी है।",
    "ja": "東京タワーはとても高い。コーヒーを飲む。",
    "ru": "Широкая электрификация южных губерний даст толчок.",
    "zh": "维护一个流行的项目，需要很多时间。",
    "th": "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "lo": "ພາສາລາວເປັນພາສາທີ່ງາມ",
    "km": "ភាសាខ្មែរមិនមានចន្លោះ",
    "my": "မြန်မာဘာသာစကားသည်လှပသည်",
}
PERFECT = {
    "cer": 0.0,
    "wer": 0.0,
    "cer_median": 0.0,
    "cer_capped": 0.0,
    "exact_match": 1.0,
    "rouge1": 1.0,
    "rouge2": 1.0,
    "rougeL": 1.0,
    "bleu": 1.0,
    "loop_rate": 0.0,
    "cut_rate": 0.0,
}

#: Texts of a few letters, so that predictions and targets have words in common.
short_texts = st.text(alphabet="ab c.", max_size=30)


def measured(predictions: list[str], targets: list[str], **options: Any) -> dict[str, float]:
    """Return the metrics as numbers."""
    metrics = CorpusMetrics(**options)
    metrics.update(predictions, targets)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("language", SENTENCES)
def test_identical_text_is_perfect_in_every_script(language: str) -> None:
    sentence = SENTENCES[language]
    assert measured([sentence], [f" {sentence}\n"]) == pytest.approx(PERFECT)
    assert len(tokens(sentence)) > 4
    # and the words are seen: without its end the sentence scores between nothing and all
    cut = measured([sentence[: len(sentence) * 3 // 4]], [sentence])
    assert all(0.0 < cut[name] < 1.0 for name in ("rouge1", "rouge2", "rougeL", "bleu", "cer", "wer"))


@pytest.mark.parametrize("language", ["ar", "de", "en", "es", "fa", "fr", "hi", "ja", "ru", "zh"])
def test_identical_real_text_is_perfect(language: str) -> None:
    path = MULTI / f"pairs_{language}.jsonl"
    if not path.exists():
        pytest.skip("no data in ten languages here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:40]]
    texts = [row[name] for row in rows for name in ("document", "summary")]
    assert measured(texts, texts) == pytest.approx(PERFECT)


@pytest.mark.parametrize("text", ["", "a", "!?", "维", "a b", "…"])
def test_identical_short_text_is_perfect(text: str) -> None:
    assert measured([text], [text]) == pytest.approx(PERFECT)


def test_corpus_rates_by_hand() -> None:
    # "abd" for "abc": 1 edit of 3 characters, 1 word of 1; "x y" for "x y z w": 4 edits of 7, 2 words of 4.
    result = measured(["abd", "x y"], ["abc", "x y z w"])
    assert result["cer"] == pytest.approx(5 / 10)
    assert result["wer"] == pytest.approx(3 / 5)
    assert result["cer_median"] == pytest.approx((1 / 3 + 4 / 7) / 2)
    assert result["exact_match"] == 0.0


def test_a_runaway_page_does_not_carry_the_median_and_capped_rates() -> None:
    result = measured(["no " * 100, "b", "c"], ["no", "b", "c"])
    assert result["cer"] == pytest.approx(297 / 4)
    assert result["cer_capped"] == pytest.approx(1 / 3)
    assert result["cer_median"] == 0.0
    assert result["loop_rate"] == pytest.approx(1 / 3)


def test_code_points_count_as_they_are() -> None:
    assert measured(["é"], ["e\u0301"])["cer"] == pytest.approx(2 / 2)
    assert measured(["A b"], ["a  b"])["cer"] == pytest.approx(2 / 4)


def test_empty_texts() -> None:
    assert measured([""], ["four"])["cer"] == 1.0
    nothing = measured([""], ["some words here now"])
    assert [nothing[name] for name in ("wer", "rouge1", "rouge2", "rougeL", "bleu")] == [1.0, 0.0, 0.0, 0.0, 0.0]
    invented = measured(["abc", "d"], ["", "d"])
    assert invented["cer"] == pytest.approx(3 / 2)
    assert invented["cer_capped"] == pytest.approx(1 / 2)
    assert all(math.isnan(value) for value in summarize(score_table([], [])).values())


@given(st.lists(st.tuples(short_texts, short_texts), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rates_equal_those_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    pairs = [(prediction.strip(), target.strip()) for prediction, target in pairs if target.strip()]
    if not pairs:
        return
    predictions, targets = map(list, zip(*pairs, strict=True))
    result = measured(predictions, targets)
    assert result["cer"] == pytest.approx(char_error_rate(predictions, targets).item(), abs=1e-6)
    assert result["wer"] == pytest.approx(word_error_rate(predictions, targets).item(), abs=1e-6)


@given(st.lists(st.tuples(short_texts, short_texts), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rouge_equals_that_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    pairs = [(prediction, target) for prediction, target in pairs if prediction.strip() != target.strip()]
    if not pairs:
        return
    predictions, targets = map(list, zip(*pairs, strict=True))
    result = measured(predictions, targets)
    keys = ("rouge1", "rouge2", "rougeL")
    theirs = rouge_score(predictions, targets, normalizer=str.lower, tokenizer=tokens, rouge_keys=keys)
    for key in keys:
        assert result[key] == pytest.approx(theirs[f"{key}_fmeasure"].item(), abs=1e-6)


@given(st.lists(st.tuples(short_texts, short_texts), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_bleu_equals_that_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    pairs.append(("a b c a b c .", "a b c a b c ."))  # so that there are n-grams of every order
    predictions, targets = map(list, zip(*pairs, strict=True))
    split = [[" ".join(tokens(text, punctuation=True)) for text in texts] for texts in (predictions, targets)]
    theirs = bleu_score(split[0], [[target] for target in split[1]]).item()
    assert measured(predictions, targets)["bleu"] == pytest.approx(theirs, abs=1e-6)


def test_rouge_of_torchmetrics_by_default_on_english() -> None:
    prediction, target = "The cat, it's said, sat on 2 mats", "A cat is said to sit on two mats!"
    theirs = rouge_score(prediction, target, rouge_keys=("rouge1", "rouge2", "rougeL"))
    result = measured([prediction], [target])
    for key in ("rouge1", "rouge2", "rougeL"):
        assert result[key] == pytest.approx(theirs[f"{key}_fmeasure"].item())


documents = st.lists(st.tuples(short_texts, short_texts), min_size=1, max_size=8)


@given(documents, st.lists(st.integers(0, 8), max_size=3))
@settings(max_examples=60, deadline=None)
def test_figures_do_not_depend_on_the_batches(pairs: list[tuple[str, str]], cuts: list[int]) -> None:
    predictions, targets = map(list, zip(*pairs, strict=True))
    metrics = CorpusMetrics()
    for start, end in pairwise(
        [0, *sorted(cuts), len(pairs)] if max(cuts, default=0) <= len(pairs) else [0, len(pairs)]
    ):
        metrics.update(predictions[start:end], targets[start:end])
    assert {name: value.item() for name, value in metrics.compute().items()} == measured(predictions, targets)


@given(documents, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_figures_do_not_depend_on_the_order(pairs: list[tuple[str, str]], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    one, other = (measured(*map(list, zip(*some, strict=True))) for some in (pairs, shuffled))
    assert one == pytest.approx(other)


def test_reset_and_lengths() -> None:
    metrics = CorpusMetrics()
    metrics.update(["a"], ["b"])
    metrics.reset()
    metrics.update(["a"], ["a"])
    assert metrics.compute()["cer"] == 0.0
    assert metrics.table().shape == (1, len(SCORE_COLUMNS))
    with pytest.raises(ValueError, match="2 predictions and 1 targets"):
        metrics.update(["a", "b"], ["a"])


PAIRS = [("abd", "abc"), ("x y", "x y z w"), ("the same text", "the same text")]


def figures_of_shares() -> list[dict[str, float]]:
    """Return the figures of this rank when it has one or two of three documents, and when it has all or none."""
    first = torch.distributed.get_rank() == 0
    found = []
    for share in (PAIRS[:1] if first else PAIRS[1:], PAIRS if first else []):
        metrics = CorpusMetrics()
        for prediction, target in share:
            metrics.update([prediction], [target])
        found.append({name: value.item() for name, value in metrics.compute().items()})
    return found


def test_figures_are_those_of_all_processes(tmp_path: Path) -> None:
    expected = measured(*map(list, zip(*PAIRS, strict=True)))
    assert in_ranks(figures_of_shares, 2, tmp_path) == [[expected, expected], [expected, expected]]


def test_words_of_many_scripts() -> None:
    assert tokens("Don't panic, it's 42_000!") == ["Don", "t", "panic", "it", "s", "42", "000"]
    assert tokens("(a) b.", punctuation=True) == ["(", "a", ")", "b", "."]
    assert tokens("हिन्दी में") == ["हिन्दी", "में"]
    assert tokens("می‌خوانیم و") == ["می\u200cخوانیم", "و"]
    assert tokens("コーヒーABC東京2") == ["コ", "ー", "ヒ", "ー", "ABC", "東", "京", "2"]
    assert tokens("ที่นี่") == ["ที่", "นี่"]
    assert words("well-known, 维护abc项 目") == ["well-known,", "维", "护", "abc", "项", "目"]
    assert words("a\u00a0b\tc") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    ["no " * 40, "A page. " + "0" * 60, "Start.\n" + "The end is the end. " * 4 + "The end", "维护" * 30, "| - " * 12],
)
def test_loops_are_seen(text: str) -> None:
    assert ends_in_loop(text)
    assert measured([text], ["a page"])["loop_rate"] == 1.0
    assert measured([text], [text])["loop_rate"] == 0.0, "a target that ends so is no loop of the model"


@pytest.mark.parametrize(
    "text",
    ["", "a", "and so on" + "." * 30, "ha ha ha ha ha", "na " * 30 + "Batman", "one line\n" * 3, "No, no, no, no!"],
)
def test_what_is_no_loop(text: str) -> None:
    assert not ends_in_loop(text)


def test_profiles() -> None:
    assert set(NORMALIZATION_PROFILES) == {
        *("none", "whitespace", "layout", "paragraphs", "visible", "case", "punctuation", "arabic", "nfkc")
    }
    assert normalize(" A  b\n", "none") == "A  b"
    assert normalize(" A \n b\u00a0c", "whitespace") == "A b c"
    assert normalize("trans-\n  cription of well-\nknown A-\nB", "layout") == "transcription of wellknown A- B"
    assert normalize("Straße İ", "case") == "STRASSE İ".casefold()
    assert normalize("“Hi”, he said — 5 € (no)", "punctuation") == "Hi he said 5 no"
    assert normalize("ﬁne ２ ſet", "nfkc") == "fine 2 set"
    assert normalize("عَلِيّ كتـاب ٤٢", "arabic") == normalize("علی کتاب ۴۲", "arabic")
    assert normalize("Straße, ２", "nfkc+case+punctuation") == "strasse 2"
    with pytest.raises(ValueError, match="'lower' is unknown; the profiles are none, whitespace"):
        CorpusMetrics(profile="none+lower")


@pytest.mark.parametrize("profile", NORMALIZATION_PROFILES)
def test_profiles_are_idempotent(profile: str) -> None:
    for sentence in SENTENCES.values():
        once = normalize(sentence, profile)
        assert normalize(once, profile) == once
        assert measured([sentence], [once], profile=profile)["cer"] == 0.0


def test_groups() -> None:
    table = score_table(["a", "b", "c", "d"], ["a", "x", "c", "d"])
    groups = summarize_groups(table, ["fa", "de", "de", None])
    assert list(groups) == ["de", "fa"]
    assert groups["de"]["cer"] == pytest.approx(0.5)
    assert groups["fa"] == summarize(table[:1])
    with pytest.raises(ValueError, match="1 group names for 4 documents"):
        summarize_groups(table, ["de"])


def test_bootstrap() -> None:
    table = score_table(["a"] * 30 + ["b"] * 10, ["a"] * 40)
    lower, upper = bootstrap_intervals(table)["cer"]
    # the standard error of a share of 1/4 of 40 is 0.068; percentile bounds lie about 1.96 of them away
    assert lower == pytest.approx(0.25 - 1.96 * 0.0685, abs=0.03)
    assert upper == pytest.approx(0.25 + 1.96 * 0.0685, abs=0.03)
    assert bootstrap_intervals(table)["cer"] == (lower, upper)
    assert bootstrap_intervals(table, seed=1, resamples=50) != bootstrap_intervals(table, resamples=50)
    narrow = bootstrap_intervals(table, confidence=0.5)["cer"]
    assert lower < narrow[0] < narrow[1] < upper
    bounds = bootstrap_intervals(table, resamples=20)
    assert set(bounds) == set(METRICS)
    assert all(low <= high for low, high in bounds.values())
    assert all(np.isnan(pair).all() for pair in bootstrap_intervals(table[:0]).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 95}, "confidence is 95; it must be above 0 and below 1"),
        ({"resamples": 0}, "resamples is 0; it must be at least 1"),
    ],
)
def test_bootstrap_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(score_table(["a"], ["a"]), **options)


def test_pages_are_joined_by_document() -> None:
    joined = join_pages(["b", "a", "b", "a", "a"], [1, 0, 0, 10, 9], ["two", "A", "one", "C", "B"])
    assert joined == {"b": "one\ntwo", "a": "A\nB\nC"}
    assert list(joined) == ["b", "a"]
    assert join_pages(["a", "a"], [0, 0], ["once", "once"]) == {"a": "once"}
    with pytest.raises(ValueError, match="1 ids, 2 pages and 1 texts"):
        join_pages(["a"], [0, 1], ["x"])
