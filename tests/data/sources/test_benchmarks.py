"""Pages of Fox. Its form is that of the published files; the pages are made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepsynth.data import FoxSource
from deepsynth.errors import UserError

PROMPT = {"from": "human", "value": "<image>\nOCR this image: "}


def write_fox(folder: Path, rows: list[dict[str, Any]], language: str = "en") -> None:
    (folder / f"{language}_pdf_png").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / f"{language}_pdf_png" / "a.png")
    (folder / f"{language}_page_ocr.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


@pytest.mark.parametrize(("name", "code", "text"), [("en", "en", "A page\nof two lines"), ("cn", "zh", "一页")])
def test_the_answer_is_the_text_and_the_prompt_is_left_to_the_model(
    tmp_path: Path, name: Any, code: str, text: str
) -> None:
    row = {"image": "a.png", "len": 5, "conversations": [PROMPT, {"from": "gpt", "value": text}]}
    write_fox(tmp_path, [row], name)
    (page,) = FoxSource(tmp_path, language=name)
    assert (page.id, page.text, page.language, page.prompt) == ("a.png", text, code, None)
    assert page.image == tmp_path / f"{name}_pdf_png" / "a.png"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [PROMPT]}, "image is None; it must be the name of a file in en_pdf_png"),
        ({"image": "b.png", "conversations": [PROMPT, {"from": "gpt", "value": "x"}]}, r"no file .*b\.png"),
        ({"image": "../x.png", "conversations": [PROMPT, {"from": "gpt", "value": "x"}]}, "outside|no file"),
        ({"image": "a.png", "conversations": [PROMPT]}, "the conversation has no answer"),
    ],
)
def test_a_row_that_is_no_page_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write_fox(tmp_path, [row])
    with pytest.raises(UserError, match=rf"en_page_ocr\.json.*(1|line 1).*({message})"):
        list(FoxSource(tmp_path))


def test_a_folder_without_its_annotations_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cn_page_ocr\.json"):
        list(FoxSource(tmp_path, language="cn"))
