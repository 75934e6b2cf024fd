"""Files of a request as samples, by a real processor: which pages, in which order, and what is refused."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepsynth.data import OcrProcessor
from deepsynth.serving.jobs import Job, Limits, RequestError
from deepsynth.serving.preparation import Preparation

SIZES = ((40, 30), (50, 60), (70, 20))


@pytest.fixture(scope="module")
def processor() -> OcrProcessor:
    return OcrProcessor("deepsynth/tiny")


def image(*sizes: tuple[int, int], form: str = "PNG") -> bytes:
    """Return an image of these frames, or a PDF of these pages."""
    first, *others = (Image.new("RGB", size, "white") for size in sizes)
    stream = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": others} if form != "PNG" else {}
    first.save(stream, form, **more)
    return stream.getvalue()


def prepared(processor: OcrProcessor, job: Job, prompt: str | None = None, **limits: int) -> tuple[list[int], Any]:
    """Return the numbers of the pages, and the sizes of those in each sample."""
    prepare = Preparation(processor, Limits(**limits))
    first = prepare(job, prompt, 0)
    others = [prepare(job, prompt, index) for index in range(1, len(first.pages))]
    assert all(other.pages == first.pages for other in others)
    return list(first.pages), [list(found.sample.sizes) for found in (first, *others)]


PNGS = tuple(image(size) for size in SIZES)
TIFF, PDF = image(*SIZES, form="TIFF"), image(*SIZES, form="PDF")


@pytest.mark.parametrize("files", [PNGS, (TIFF,), (PNGS[0], image(*SIZES[1:], form="TIFF"))])
def test_each_page_of_each_file_is_a_sample_or_all_are_one(files: tuple[bytes, ...], processor: OcrProcessor) -> None:
    job = Job("m", files)
    assert prepared(processor, job) == ([0, 1, 2], [[size] for size in SIZES])
    assert prepared(processor, replace(job, pages=(2, 0))) == ([2, 0], [[SIZES[2]], [SIZES[0]]])
    assert prepared(processor, replace(job, together=True)) == ([0], [list(SIZES)])
    assert prepared(processor, replace(job, together=True, pages=(1,))) == ([0], [[SIZES[1]]])


def test_the_pages_of_a_pdf_have_its_shape_and_its_file_is_removed(
    processor: OcrProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for content in (PDF, b"\n" * 1019 + PDF):
        numbers, sizes = prepared(processor, Job("m", (content,), pages=(2, 0)))
        assert numbers == [2, 0]
        for ((width, height),), (wanted_width, wanted_height) in zip(sizes, (SIZES[2], SIZES[0]), strict=True):
            assert width / height == pytest.approx(wanted_width / wanted_height, rel=0.1)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match=r"^the PDF: cannot be opened") as broken:
        prepared(processor, Job("m", (b"%PDF-1.7 broken",)))
    assert broken.value.status == 422
    assert str(tmp_path) not in broken.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "limits", "status", "message"),
    [
        (Job("m", (PNGS[0], PDF)), {}, 422, "a PDF must be the only file of a request"),
        (Job("m", (b"\n" * 1020 + PDF,)), {}, 422, "image"),
        (Job("m", (TIFF,), pages=(1, 3, 4)), {}, 422, "page 4 is asked for; the document has 3 page(s)"),
        (
            Job("m", (TIFF,)),
            {"max_pages": 2},
            413,
            "3 pages are asked for; a request may have 2: ask for some with pages",
        ),
        (Job("m", (PNGS[0],)), {"max_pixels": 1199}, 413, "1,199"),
        (Job("m", (PNGS[0], b"broken")), {}, 422, "image"),
    ],
)
def test_what_is_refused(job: Job, limits: dict[str, int], status: int, message: str, processor: OcrProcessor) -> None:
    with pytest.raises(RequestError) as caught:
        prepared(processor, job, **limits)
    assert caught.value.status == status
    assert message in caught.value.message


def test_limits_are_reached_and_not_passed(processor: OcrProcessor) -> None:
    assert prepared(processor, Job("m", (TIFF,)), max_pages=3)[0] == [0, 1, 2]
    assert prepared(processor, Job("m", (TIFF,), pages=(2,)), max_pages=1)[0] == [2]
    assert prepared(processor, Job("m", (PNGS[0],)), max_pixels=1200)[0] == [0]


def test_a_prompt_is_that_of_the_request_and_must_fit_its_pages(processor: OcrProcessor) -> None:
    def length(prompt: str | None, *files: bytes) -> int:
        return Preparation(processor, Limits())(Job("m", files, together=True), prompt, 0).sample.prompt_length

    assert length("<image>\n" + "one two three " * 9, PNGS[0]) > length("<image>\nRead.", PNGS[0])
    assert length(None, *PNGS[:2]) > length(None, PNGS[0])
    with pytest.raises(RequestError, match="<image> 2 times") as caught:
        length("<image> and <image>", PNGS[0])
    assert caught.value.status == 422
