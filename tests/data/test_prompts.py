"""A prompt of its own for each document: in the sample, in batches, in mixes, and in what a module remembers."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from PIL import Image

from deepsynth.callbacks.text_metrics import MOST_PROMPTS, TextMetrics
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.data.sources.base import Source
from deepsynth.data.sources.mixed import MixedSource, original_id
from deepsynth.errors import UserError
from deepsynth.modules.adapter import PromptRecord
from deepsynth.types import Document, Sample
from tests.helpers.training import PAGE

SCAN = Document("a", "a text", image=Image.new("RGB", (64, 64), "white"))


@pytest.fixture(scope="module")
def processor() -> OcrProcessor:
    return OcrProcessor("deepsynth/tiny-random")


def sample_of(processor: OcrProcessor, document: Document) -> Sample:
    sample = Pipeline(TextRenderer(**PAGE), None, processor).sample(document, 0, 0)
    assert sample is not None
    return sample


def texts_of(processor: OcrProcessor, sample: Sample) -> list[str]:
    """Return what stands between the image tokens of the prompt."""
    tokenizer, parts = processor.hf_processor.tokenizer, [[]]
    for token in sample.input_ids[1 : sample.prompt_length].tolist():
        if token == processor.hf_processor.image_token_id:
            parts.append([])
        else:
            parts[-1].append(token)
    return [tokenizer.decode(part) for part in parts if part]


def test_a_document_has_its_own_prompt_or_that_of_its_task(processor: OcrProcessor) -> None:
    assert texts_of(processor, sample_of(processor, SCAN)) == ["\nFree OCR."]
    own = sample_of(processor, replace(SCAN, prompt="See <image>, read the total."))
    assert texts_of(processor, own) == ["See ", ", read the total."]
    assert own.prompt == "See <image>, read the total."
    assert sample_of(processor, replace(SCAN, prompt="Read the total.")).prompt == "<image>\nRead the total."
    set_for_all = OcrProcessor("deepsynth/tiny-random", prompt="<image>\nRead.")
    assert sample_of(set_for_all, SCAN).prompt == "<image>\nRead."
    assert sample_of(set_for_all, replace(SCAN, prompt="<image>\nOwn.")).prompt == "<image>\nOwn."


def test_each_of_several_pages_stands_where_the_prompt_has_it(processor: OcrProcessor) -> None:
    image = Image.new("RGB", (64, 64), "white")
    two = replace(SCAN, image=(image, image), one_sample=True)
    together = sample_of(processor, two)
    assert texts_of(processor, together) == ["\nFree OCR."]
    apart = sample_of(processor, replace(two, prompt="1: <image> 2: <image> compare"))
    assert texts_of(processor, apart) == ["1: ", " 2: ", " compare"]
    assert together.images["pixel_values"].shape[0] == apart.images["pixel_values"].shape[0] == 2
    assert apart.target == "a text"
    with pytest.raises(UserError, match=r"document 'a': its prompt holds <image> 3 times, and it has 2 pages"):
        sample_of(processor, replace(two, prompt="<image><image><image>"))


def test_a_sample_of_too_many_pages_is_refused(processor: OcrProcessor) -> None:
    image = Image.new("RGB", (64, 64), "white")
    many = replace(SCAN, image=(image,) * 3, one_sample=True)
    with pytest.raises(UserError, match=r"document 'a' is one sample of more than 2 pages \(data.max_pages\)"):
        Pipeline(TextRenderer(**PAGE), None, processor, max_pages=2).sample(many, 0, 0)


def test_batches_mix_prompts(processor: OcrProcessor) -> None:
    samples = [
        sample_of(processor, replace(SCAN, prompt=prompt)) for prompt in (None, "<image>\nRead the total, please.")
    ]
    batch = Collator(processor.pad_token_id)(samples)
    assert batch.prompt_texts == ["<image>\nFree OCR.", "<image>\nRead the total, please."]
    ids, mask = batch.prompt_tokens["input_ids"], batch.prompt_tokens["attention_mask"]
    for row, sample in enumerate(samples):
        assert ids[row][mask[row].bool()].tolist() == sample.input_ids[: sample.prompt_length].tolist()


class Fixed(Source):
    def __init__(self, *documents: Document) -> None:
        self.documents = documents

    def __iter__(self):
        return iter(self.documents)


def test_a_mix_gives_each_source_a_prompt() -> None:
    first = Fixed(Document("1", "a"), Document("2", "b", prompt="Own."))
    second = Fixed(Document("1", "c"), Document("2", "c"))
    mix = MixedSource({"a": first, "b": second}, prompts={"a": "Sum."})
    prompts = {document.id: document.prompt for document in mix}
    assert prompts == {"a/1": "Sum.", "a/2": "Own.", "b/1": None, "b/2": None}
    with pytest.raises(UserError, match=r"prompts names 'c'; the sources are a"):
        MixedSource({"a": Fixed()}, prompts={"c": "Sum."})


@pytest.mark.parametrize("copy", ["a.png~2", "a.png~turn2", "a.png~prompt3", "a.png~turn2~3"])
def test_copies_of_a_document_are_in_its_split(copy: str) -> None:
    assert original_id(copy) == "a.png"


def test_figures_by_prompt() -> None:
    metrics = TextMetrics(profiles=["none"], metrics=["cer"], confidence=None)
    row = {"page": 0, "language": None, "source": None, "target": "ab"}
    rows = [
        {**row, "document_id": "1", "prediction": "ab", "prompt": "<image>\nFree OCR."},
        {**row, "document_id": "2", "prediction": "a", "prompt": "<image>\nRead the a/b."},
    ]
    figures = metrics.figures(rows)
    assert figures == {"cer/none": 0.25, "cer/none/prompt=Free OCR.": 0.0, "cer/none/prompt=Read the a b.": 0.5}
    questions = [{**rows[0], "document_id": str(i), "prompt": f"question {i}"} for i in range(MOST_PROMPTS + 1)]
    assert list(metrics.figures(questions)) == ["cer/none"]


def test_a_record_of_prompts_warns_of_those_that_were_not_trained() -> None:
    record = PromptRecord()
    assert record.state() == {"prompt": None, "prompts": []}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.add(["a", "b", "a"])
    assert record.state() == {"prompt": "a", "prompts": ["a", "b"]}
    loaded = PromptRecord()
    loaded.load(record.state())
    with pytest.warns(UserWarning, match=r"trained with the prompt 'a', 'b'; the data's is now 'c'"):
        loaded.add(["b", "c"])
    older = PromptRecord()
    older.load({"prompt": "a"})
    assert older.trained == ["a"]
    record.add([str(number) for number in range(30)])
    assert len(record.prompts) == PromptRecord.most
