"""Normalization of Arabic script against Unicode's own data."""

from __future__ import annotations

import unicodedata

import pytest

from deepsynth.metrics.normalization import normalize

ARABIC = [chr(point) for point in range(0x0600, 0x0700)]


def test_every_arabic_digit_is_its_number() -> None:
    digits = [character for character in ARABIC if unicodedata.category(character) == "Nd"]
    assert len(digits) == 20
    assert [normalize(digit, "arabic") for digit in digits] == [str(unicodedata.decimal(digit)) for digit in digits]


def test_vowel_signs_carry_no_letter_and_letters_stay() -> None:
    # Combining classes of fathatan to superscript alef.
    signs = [sign for sign in ARABIC if 27 <= unicodedata.combining(sign) <= 35]
    assert {"\u0618", "\u064b", "\u064e", "\u0650"} <= set(signs)
    assert [sign for sign in signs if normalize(f"د{sign}ر", "arabic") != "در"] == []
    letters = [c for c in ARABIC if unicodedata.category(c) == "Lo"]
    assert len(letters) >= 100
    assert [letter for letter in letters if len(normalize(letter, "arabic")) != 1] == []


@pytest.mark.parametrize("base", ["\u0627", "\u0648", "\u064a", "\u06d5"])
def test_a_letter_with_hamza_or_madda_is_its_base(base: str) -> None:
    composed = [letter for letter in ARABIC if unicodedata.normalize("NFD", letter)[:-1] == base]
    assert composed
    assert {normalize(letter, "arabic") for letter in composed} == {normalize(base, "arabic")}
    assert {normalize(unicodedata.normalize("NFD", letter), "arabic") for letter in composed} == {
        normalize(base, "arabic")
    }
