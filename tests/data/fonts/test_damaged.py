"""Fonts that anybody may have made: damaged ones are named, wherever the damage is."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from deepsynth.data.fonts.files import bundled_folder, folder_faces, read_faces
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.types import Document

DEJAVU = (bundled_folder() / "DejaVuSans.ttf").read_bytes()


def rendered(font: Path) -> None:
    """Draw a page with a font file."""
    renderer = TextRenderer(page_width_px=256, page_height_px=128, fonts=(str(font),), system_fonts=False)
    renderer(Document("a", "some words and numbers 1234"), np.random.default_rng(0))


def table_of(tag: bytes) -> tuple[int, int]:
    """Return where a table of the font begins, and its length."""
    entry = DEJAVU.index(tag, 12)
    offset, length = struct.unpack_from(">II", DEJAVU, entry + 8)
    return int(offset), int(length)


@pytest.mark.parametrize("tag", [b"cmap", b"glyf"])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_table_is_one_line_with_the_file(tag: bytes, seed: int, tmp_path: Path) -> None:
    content, (offset, length) = bytearray(DEJAVU), table_of(tag)
    content[offset : offset + length] = random.Random(seed).randbytes(length)
    path = tmp_path / "damaged.ttf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.ttf(: the font is damaged| is not a usable font)"):
        rendered(path)


@pytest.mark.parametrize(
    "content",
    [b"", random.Random(0).randbytes(5000), DEJAVU[:2000], DEJAVU[: len(DEJAVU) // 2]],
    ids=["empty", "random", "head", "half"],
)
def test_what_is_no_font_is_not_used(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(content)
    with pytest.raises(UserError, match=r"a.ttf is not a usable font"):
        read_faces(tmp_path / "a.ttf")
    assert folder_faces(tmp_path) == ()


def test_a_pipe_is_no_font(tmp_path: Path) -> None:
    """Opening one that nobody writes to waits for ever."""
    os.mkfifo(tmp_path / "pipe.ttf")
    with pytest.raises(UserError, match=r"pipe.ttf: not a regular file"):
        read_faces(tmp_path / "pipe.ttf")
    assert folder_faces(tmp_path) == ()
