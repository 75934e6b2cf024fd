"""Which column of a table holds what: by the first bytes of images, by names of paths, and by names alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from deepsynth.data.sources.columns import AUTO, Columns, find_columns, listed
from deepsynth.errors import UserError

ROLES = ("image", "text", "target", "prompt", "id", "language", "source")


def found(*rows: dict[str, Any], **chosen: str | None) -> Columns:
    return find_columns("t", rows, {**dict.fromkeys(ROLES, AUTO), **chosen})


def image_bytes(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("1" if form == "PBM" else "L" if form == "PGM" else "RGB", (4, 4)).save(
        buffer, "PPM" if form in ("PBM", "PGM") else form
    )
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PDF", "PPM", "PGM", "PBM"])
def test_bytes_of_an_image_are_one_whatever_their_column_is_called(form: str) -> None:
    data = image_bytes(form)
    assert found({"a": "x", "data": data}).image == "data"
    assert found({"a": "x", "data": None}, {"data": [data]}).image == "data"
    assert found({"a": "x", "data": {"bytes": data, "path": None}}).image == "data"
    assert found({"a": "x", "data": b"no image" + data}).image is None
    assert found({"a": "x", "data": {"bytes": data, "path": None, "more": 1}}).image is None


@pytest.mark.parametrize(
    ("name", "value", "is_image"),
    [
        ("img", "a/b.png", True),
        ("page_scan", "c.JPEG", True),
        ("File-Name", "d.tif", True),
        ("path", ["e.webp"], True),
        ("remark", "a/b.png", False),
        ("imagery", "a/b.png", False),
        ("img", "a.png is missing", False),
        ("img", "png", False),
        ("anything", "data:image/png;base64,AA==", True),
        ("anything", "DATA:IMAGE/png;base64,AA==", True),
        ("anything", "data:text/plain,a", False),
    ],
)
def test_texts_are_paths_of_images_by_their_ending_and_the_name_of_their_column(
    name: str, value: Any, is_image: bool
) -> None:
    assert found({name: value, "text": "x"}).image == (name if is_image else None)


def test_a_column_called_image_is_one_and_two_that_may_be_are_refused() -> None:
    assert found({"images": "no path", "img": "a.png"}).image == "images"
    assert found({"image": 1, "images": 2}).image == "image"
    with pytest.raises(UserError, match=r"^t: 'scan', 'page' may be the image; set image_field to one of them$"):
        found({"scan": "a.png", "page": "b.png"})
    assert found({"scan": "a.png", "page": "b.png"}, image="page").image == "page"
    assert found({"scan": "a.png"}, image=None).image is None


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("text", ("text", "transcription", "gt", "ocr_text", "markdown", "label", "answer", "txt", "md")),
        ("prompt", ("prompt", "instruction", "question", "query")),
        ("id", ("id", "__key__")),
        ("language", ("language", "lang")),
    ],
)
def test_beside_an_image_the_likeliest_name_is_taken(role: str, names: tuple[str, ...]) -> None:
    for number in range(len(names)):
        row = {"image": b"", **dict.fromkeys(reversed(names[number:]), "x")}
        assert getattr(found(row), role) == names[number]
        only_here = role in ("text", "prompt") and number > 0
        without = dict.fromkeys(names[number:], "x")
        assert getattr(found(without), role) == (names[0] if only_here else names[number])


def test_a_label_that_is_a_number_is_no_text() -> None:
    assert found({"image": b"", "label": 3, "caption": "words"}).text == "caption"
    assert found({"image": b"", "label": None}, {"label": "words"}).text == "label"


def test_fields_that_are_not_there_and_conversations_are_refused() -> None:
    with pytest.raises(UserError, match=r"^t: no field 'words'; the fields found are 'a', 'b'$"):
        found({"a": "x", "b": "y"}, text="words")
    with pytest.raises(UserError, match=r"^t: the field 'messages' holds conversations; read them with Conv"):
        found({"messages": []})
    assert found({"messages": [], "text": "x"}).text == "text"


def test_what_a_table_is_taken_for_is_said_in_one_line() -> None:
    columns = found({"image": b"", "gt": "x", "page_no": 1, "author": "y"})
    assert columns.described(["image", "gt", "page_no", "author"]) == (
        "image = 'image', text = 'gt'; not used: 'page_no', 'author'"
    )
    assert Columns("image", "gt", fields=("author",)).described(["gt", "author"]) == "text = 'gt', field = 'author'"


def test_messages_list_twenty_names_and_count_the_rest() -> None:
    assert listed([]) == "none"
    assert listed("ab") == "'a', 'b'"
    names = [f"n{number}" for number in range(22)]
    assert listed(names[:20]).endswith("'n19'")
    assert listed(names) == listed(names[:20]) + " and 2 more"
