"""What the package assumes of the library fribidi."""

import ctypes

import pytest

from deepsynth.compat import fribidi
from deepsynth.errors import UserError


def levels(text):
    try:
        return fribidi.paragraph_levels(text)
    except UserError as error:
        if "libfribidi0" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("text", "expected", "base"),
    [
        ("abc אבג 12!", [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0], 0),
        ("אב (x)", [1, 1, 1, 1, 2, 1], 1),
        ("\U0001e922a", [1, 2], 1),
        ("", [], 0),
    ],
)
def test_levels_are_those_of_the_bidirectional_algorithm(text, expected, base):
    found, own = levels(text)
    assert (list(found), own) == (expected, base)


def test_a_missing_library_is_named_with_its_package(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    fribidi.load_library.cache_clear()
    with pytest.raises(UserError, match="right-to-left text needs the library fribidi: apt install libfribidi0"):
        fribidi.paragraph_levels("אב")
