"""What the package assumes of the library fribidi."""

import ctypes
from types import SimpleNamespace

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


def test_the_library_is_looked_for_under_each_name_until_one_is_there(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        if len(asked) < 4:
            raise OSError(name)
        return SimpleNamespace(fribidi_get_par_embedding_levels_ex=SimpleNamespace(restype=None))

    monkeypatch.setattr(ctypes, "CDLL", load)
    fribidi.load_library.cache_clear()
    found = fribidi.load_library()
    assert asked == ["libfribidi.so.0", "libfribidi.so", "libfribidi.0.dylib", "libfribidi.dylib"]
    assert found.fribidi_get_par_embedding_levels_ex.restype is ctypes.c_int8
    fribidi.load_library.cache_clear()
