"""Files of several images: their pages by number, and which of them a mistake is in."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from deepsynth.data.formats.frames import FramePages, frame_count
from deepsynth.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A TIFF of three pages, the second larger than the others."""
    first, *others = (Image.new("L", size, value) for size, value in (((4, 4), 40), ((20, 30), 90), ((4, 4), 200)))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    return tmp_path / "pages.tif"


def test_pages_are_taken_by_their_numbers_in_the_file(file: Path) -> None:
    pages = FramePages(file, (2, 0))
    assert (len(pages), pages.has_text, pages.text(0)) == (2, False, "")
    assert [pages.load(number, 16, 0).getpixel((0, 0)) for number in (0, 1)] == [(200,) * 3, (40,) * 3]
    assert frame_count(file) == 3


def test_a_mistake_names_the_page_of_the_file(file: Path) -> None:
    with pytest.raises(UserError, match=rf"^page 2 of image {file}: .*20 x 30 pixels"):
        FramePages(file, (0, 1)).load(1, 599, 0)
    assert FramePages(file, (0, 1)).load(1, 600, 0).size == (20, 30)


def test_a_file_that_cannot_be_opened_counts_as_a_page_which_decoding_reports(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    assert [frame_count(tmp_path / name) for name in ("broken.tif", "missing.tif")] == [1, 1]
    with pytest.raises(UserError, match=r"broken\.tif"):
        FramePages(tmp_path / "broken.tif", (0,)).load(0, 16, 0)
