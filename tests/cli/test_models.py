"""``deepsynth models``: a row for each model, and what is known of one."""

from __future__ import annotations

import re

import pytest

from deepsynth.__main__ import main
from deepsynth.data import OcrProcessor
from deepsynth.models.registry import BUILTIN, FAMILIES
from tests.helpers.tiny_models import skip_without_image_processors


def scopes(hidden: int, queries: int, keys: int, inner: int, layers: int, *, fused: bool = False) -> str:
    """Return what adapters of rank 16 on attention and MLP have."""
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    mlp = (hidden + 2 * inner) + (inner + hidden) if fused else 3 * (hidden + inner)
    return f"attention {16 * layers * attention:,}, mlp {16 * layers * mlp:,}"


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
    lines = out.splitlines()
    assert max(map(len, lines)) <= 180
    models, works, rest = out.split("\n\n")
    place = lines[0].index("license")
    assert {line[place - 2 : place] for line in models.splitlines()} == {"  "}
    assert all(line[place] != " " and line == line.rstrip() for line in models.splitlines())
    assert len(models.splitlines()) == 1 + sum(len(family.published) for family in FAMILIES.values())
    (first, *others) = (line for line in models.splitlines() if line.startswith("paddleocr_vl"))
    assert "28 x 28 pixels" in first
    assert not any("pixels" in line for line in others)
    assert [line.split()[0] for line in works.splitlines()] == ["works", *FAMILIES]
    assert re.search(r"^glm_ocr +all but adapters on routed experts, published format, adapters for vLLM$", works, re.M)
    ours = rest.partition("in this package: ")[2].partition("\nwhy")[0].splitlines()
    assert max(map(len, rest.splitlines())) <= 120
    assert all(re.match("  [^ ]", line) for line in ours[1:])
    assert " ".join(line.strip() for line in ours).split(", ") == list(BUILTIN)


def test_a_model_is_recognized_and_its_tokens_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "deepsynth/tiny"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^family +deepseek_ocr \(DeepSeek-OCR\)$", out, re.MULTILINE)
    assert "'<image>\\nSummarize this document.' (not published)" in out
    assert "273 of an A4 page" in out
    assert main(["models", "deepsynth/tiny-random"]) == 0
    assert re.search(r"^modes +none but its own$", capsys.readouterr().out, re.MULTILINE)  # it has small patches
    assert main(["models", "deepsynth/full-size-ocr"]) == 0
    counts = "attention 1,966,080, mlp 390,144, experts=shared 1,622,016, "  # counted by hand
    assert counts in (out := capsys.readouterr().out)
    assert "experts=routed 59,113,472" in out
    assert main(["models", "generic"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^works +activation memory, Unsloth$", out, re.MULTILINE)
    assert "grounded" not in out  # it has no tokens for boxes
    assert "packing" in out
    assert re.search("^LoRA +attention, mlp, vision$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["--help"], 0, "deepsynth models deepsynth/tiny"),
        (["nothing"], 1, "NAME is 'nothing'; it must be a family (deepseek_ocr, deepseek_ocr2, "),
        (["./nothing"], 1, "model_name is './nothing', which is not a folder"),
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


@pytest.mark.parametrize("name", ["paddleocr-vl", "glm-ocr", "qwen2.5-vl", "qwen3-vl"])
def test_the_table_says_what_the_published_processors_make_of_a_page(name: str) -> None:
    if name == "paddleocr-vl":
        skip_without_image_processors()
    processor = OcrProcessor(f"deepsynth/full-size-{name}")
    assert processor.family.page_tokens.startswith(f"{processor.layout.tokens(1240, 1754)} ")


@pytest.mark.parametrize(
    ("name", "counts"),
    [  # by hand, of the published widths: (hidden, queries, keys and values, inner, layers)
        ("paddleocr_vl", scopes(1024, 2048, 256, 3072, 18)),
        ("glm_ocr", scopes(1536, 2048, 1024, 4608, 16, fused=True)),
        ("qwen2_5_vl", scopes(2048, 2048, 256, 11008, 36)),
        ("qwen3_vl", scopes(2048, 2048, 1024, 6144, 28)),
    ],
)
def test_a_dense_family_says_the_adapters_of_its_decoder_and_no_experts(
    name: str, counts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", name]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^LoRA +{counts}, vision [\d,]+, projector [\d,]+ parameters at rank 16$", out, re.MULTILINE)
    form = "OTSL" if name == "paddleocr_vl" else "HTML"
    assert re.search(rf"^tables +{form}, of data\.target=table; HTML in Markdown$", out, re.MULTILINE)
    assert "adapters on routed experts (its decoder is dense)" in out
