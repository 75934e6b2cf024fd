"""Names that came in a file, and what they may reach; the sources' tests have the paths of rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepsynth.errors import UserError
from deepsynth.io.paths import check_name, check_regular_file, file_below


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\nb", "a\x1b[31m", "a\u202eb", "é" * 101])
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match=r"^--run_name is .*; it must") as caught:
        check_name("--run_name", name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["run", "run.2", "läuft", "a b", "-", "é" * 100])
def test_words_are_names(name: str) -> None:
    check_name("--run_name", name)
    with pytest.raises(UserError):
        check_name("--run_name", f"{name}/")


def test_a_file_below_its_folder_is_found_and_one_elsewhere_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "pages").mkdir(parents=True)
    for path in (folder / "pages" / "a.png", tmp_path / "secret.png"):
        path.write_bytes(b"x")
    (folder / "inside.png").symlink_to(folder / "pages" / "a.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("pages/a.png", "pages/../pages/a.png", "inside.png", str(folder / "pages" / "a.png")):
        assert file_below(folder, name).samefile(folder / "pages" / "a.png")
    for name in ("../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(UserError, match=r"(secret|link)\.png lies outside .*; move it there, or set outside_paths"):
            file_below(folder, name)
        assert file_below(folder, name, outside=True).samefile(tmp_path / "secret.png")


@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_regular_file_is_refused(outside: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a regular file"):
        file_below(tmp_path, "pipe", outside=outside)
    for name in ("none.png", "null\0byte", "x" * 300):
        with pytest.raises(UserError, match=r"^no file "):
            file_below(tmp_path, name, outside=outside)


def test_what_can_be_read_once_is_no_file_of_a_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match=r": not a regular file; a source needs files that can be read again"):
            check_regular_file(path)
    (tmp_path / "file").touch()
    check_regular_file(tmp_path / "file")
    check_regular_file(tmp_path / "none")  # which reading it names
