"""Texts of strangers in terminals, logs and tables."""

from __future__ import annotations

import pytest

from deepsynth.io.text import counted, plain_cell, shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("all is well\rFAILED", r"all is well\rFAILED"),
        ("\x9b31m\x7f\0", r"\x9b31m\x7f\x00"),
        ("a\u202etxt.exe\u202c", r"a\u202etxt.exe\u202c"),
        ("a\u2066b\u2028c\U000e0041", r"a\u2066b\u2028c\U000e0041"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_commands_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_texts_of_all_scripts_stay() -> None:
    text = "tab\tand\nline; می\u200cشود, שלום, ไทย, 日本, e\u0301, 👩\u200d👧"
    assert visible(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x")'])
def test_a_spreadsheet_computes_no_cell(text: str) -> None:
    assert plain_cell(text) == f"'{text}"


def test_other_cells_stay() -> None:
    for text in ("", "a=b", "doc-1", "'", " =1"):
        assert plain_cell(text) == text


def test_long_texts_keep_both_ends() -> None:
    assert shortened("a" * 60 + "b" * 60) == "a" * 60 + "b" * 60
    assert shortened("a" * 100 + "b" * 100) == "a" * 59 + "…" + "b" * 59


def test_a_shortened_text_keeps_as_much_of_both_ends_as_fits() -> None:
    assert shortened("0123456789abcdef", 11) == "01234…bcdef"
    assert shortened("0123456789abcdef", 10) == "0123…cdef"
    assert shortened("0123456789", 10) == "0123456789"


def test_one_of_a_kind_has_no_s() -> None:
    assert [counted(number, "file") for number in (0, 1, 2, 1024)] == ["0 files", "1 file", "2 files", "1,024 files"]
