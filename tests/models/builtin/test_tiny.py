"""The built-in model that reads: it loads, it is small, and it reads pages that it has never seen."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from deepsynth.data import Collator, OcrProcessor, TextRenderer
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.generation import generate
from deepsynth.models import register
from deepsynth.models.markup import text_codec
from deepsynth.models.registry import family_of_model, resolve_model_name
from deepsynth.types import Document

NAME = "deepsynth/tiny"
#: Written for this test, so it is in no training text.
TEXTS = (
    "The old lighthouse keeper poured himself a cup of black tea, and looked across the gray water. “No ship will come "
    "tonight,” he said; but he lit the lamp.",
    "Mrs. Abernathy’s quince marmalade won the prize in 1897, much to the vexation of the vicar, whose own jar—"
    "labeled “Paradise”—came eleventh.",
)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForImageTextToText

    register()
    return AutoModelForImageTextToText.from_pretrained(resolve_model_name(NAME), dtype=torch.float32).eval()


def read(model: Any, texts: list[str], max_new_tokens: int = 200, **options: Any) -> list[tuple[str, str]]:
    """Return (target, prediction) of the texts set on pages of the model's size."""
    processor = OcrProcessor(NAME)
    side = processor.layout.base_size
    renderer = TextRenderer(page_width_px=side, page_height_px=side, margin_px=10, **{"font_size_px": 12.0, **options})
    pipeline = Pipeline(renderer, None, processor, text=TextCleaning(line_breaks="source"))
    samples = [pipeline.sample(Document(id=str(i), text=text), 0, 0) for i, text in enumerate(texts)]
    batch = Collator(processor.pad_token_id)([sample for sample in samples if sample is not None])
    generations = generate(model, processor.hf_processor.tokenizer, batch, max_new_tokens=max_new_tokens)
    assert generations is not None
    return list(zip(batch.targets, [generation.text for generation in generations], strict=True))


def cer(rows: list[tuple[str, str]]) -> float:
    return sum(Levenshtein.distance(*row) for row in rows) / sum(len(target) for target, _ in rows)


def test_weights_fit_into_sixteen_megabytes() -> None:
    folder = Path(resolve_model_name(NAME))
    assert (folder / "model.safetensors").stat().st_size <= 16_000_000
    assert json.loads((folder / "config.json").read_text())["model_type"] == "deepseek_ocr"


def test_tokenizer_spells_every_text() -> None:
    tokenizer = OcrProcessor(NAME).hf_processor.tokenizer
    text = "“Où est l’œuf?”—“Là…” 日本 Ω 😀\n  two  spaces"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    latin = "Où est l’œuf?—ÿ"
    assert len(tokenizer.encode(latin, add_special_tokens=False)) == len(latin)


def test_reads_prose_and_its_typography(model: Any) -> None:
    assert cer(read(model, list(TEXTS))) <= 0.03


def test_reads_letters_and_does_not_guess_words(model: Any) -> None:
    rng = random.Random(0)
    shuffled = [" ".join("".join(rng.sample(word, len(word))) for word in text.split(" ")) for text in TEXTS]
    assert cer(read(model, shuffled)) <= 0.08


def test_a_blank_page_gives_no_text(model: Any) -> None:
    ((_, prediction),) = read(model, ["."], max_new_tokens=20)
    assert len(prediction) <= 3


def test_markup_is_appended_to_the_vocabulary() -> None:
    tokenizer = OcrProcessor(NAME).hf_processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(list(family_of_model(NAME).markup)) == list(range(463, 472))
    assert (
        len(tokenizer)
        == json.loads((Path(resolve_model_name(NAME)) / "config.json").read_text())["text_config"]["vocab_size"]
    )
    codec = text_codec(tokenizer)
    target = "<table><tr><td>a</td></tr></table>"
    ids = codec.encode(target)
    assert [i for i in ids if i >= 463] == [470, 468, 469, 471]
    assert codec.decode(ids) == target
    text = "<table> is text"
    assert max(codec.encode(text)) < 463


def test_an_adapter_of_before_gives_the_same_logits(model: Any) -> None:
    """``fixtures/tiny_adapter`` was written by the revision before the markup tokens, with the logits of a page."""
    from peft import PeftModel

    folder = Path(__file__).parents[2] / "fixtures" / "tiny_adapter"
    processor = OcrProcessor(NAME)
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=10, font_size_px=12.0)
    pipeline = Pipeline(renderer, None, processor, text=TextCleaning(line_breaks="source"))
    sample = pipeline.sample(Document(id="a", text="No ship came that night."), 0, 0)
    assert sample is not None
    adapted = PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval()
    with torch.no_grad():
        logits = adapted(**Collator(processor.pad_token_id)([sample]).inputs, use_cache=False).logits[0, -8:]
    expected = torch.from_numpy(np.load(folder / "logits.npy"))
    torch.testing.assert_close(logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-3)
    assert logits[:, expected.shape[1] :].max() < expected.max(1).values.min(), (
        "an appended token is never the likeliest"
    )
