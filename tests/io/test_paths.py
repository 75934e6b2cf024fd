"""Names that came in a file, and what they may reach; the sources' tests have the paths of rows."""

from __future__ import annotations

import pytest

from deepsynth.errors import UserError
from deepsynth.io.paths import check_name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\nb", "a\x1b[31m", "a\u202eb", "é" * 101])
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match=r"^--run_name is .*; it must") as caught:
        check_name("--run_name", name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["run", "run.2", "läuft", "a b", "-", "é" * 100])
def test_words_are_names(name: str) -> None:
    check_name("--run_name", name)
