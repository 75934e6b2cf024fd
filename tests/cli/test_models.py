"""``deepsynth models``: a row for each model, and what is known of one."""

from __future__ import annotations

import re

import pytest

from deepsynth.__main__ import main
from deepsynth.data import OcrProcessor
from deepsynth.models.registry import FAMILIES
from tests.helpers.tiny_models import skip_without_image_processors


def test_the_table_has_every_published_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for family in FAMILIES.values():
        assert f"\n{family.name}" in out
        for model in family.published:
            row = next(line for line in out.splitlines() if model.repository in line)
            assert model.license in row
            assert model.parameters in row
    assert "tiny 73, small 111, base 273, large 421, gundam 903" in out  # of a page of A4
    assert re.search(r"^deepseek_ocr +all$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 180


def test_a_model_is_recognized_and_its_tokens_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "deepsynth/tiny"]) == 0
    out = capsys.readouterr().out
    assert "family        deepseek_ocr (DeepSeek-OCR)" in out
    assert "273 of an A4 page" in out
    assert main(["models", "deepsynth/full-size-ocr"]) == 0
    counts = "attention 1,966,080, mlp 390,144, experts=shared 1,622,016, "  # counted by hand
    assert counts in (out := capsys.readouterr().out)
    assert "experts=routed 59,113,472" in out
    assert main(["models", "generic"]) == 0
    out = capsys.readouterr().out
    assert "works    activation memory, Unsloth" in out
    assert "packing" in out


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["--help"], 0, "deepsynth models deepsynth/tiny"),
        (["nothing"], 1, "model_name is 'nothing', which is not a folder"),
        (["a", "b"], 2, "takes one name at most; found a b"),
        (["--format"], 2, "takes one name at most"),
    ],
)
def test_help_and_names_that_are_no_model(
    args: list[str], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *args]) == code
    captured = capsys.readouterr()
    assert expected in captured.out + captured.err


@pytest.mark.parametrize("name", ["paddleocr-vl", "glm-ocr", "qwen2.5-vl"])
def test_the_table_says_what_the_published_processors_make_of_a_page(name: str) -> None:
    if name == "paddleocr-vl":
        skip_without_image_processors()
    processor = OcrProcessor(f"deepsynth/full-size-{name}")
    assert processor.family.page_tokens.startswith(f"{processor.layout.tokens(1240, 1754)} ")
