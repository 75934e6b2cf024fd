"""What the seeds of layout and augmentation reach: the same where promised, and nothing but that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deepsynth.data import OcrProcessor, TextRenderer
from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.loading.dataset import PageDataset
from deepsynth.data.pipeline import Pipeline, stable_hash
from deepsynth.data.processing.targets import make_targets
from deepsynth.data.sources.mixed import MixedSource
from deepsynth.data.sources.text_files import CsvSource, JsonlSource, ParquetSource, TextFolderSource
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.errors import UserError
from deepsynth.models.prompts import DEEPSEEK_PROMPTS
from deepsynth.types import Document, Page, Word
from tests.helpers.training import PAGE

OPTIONS: dict[str, Any] = PAGE
LONG = Document("long", "some words of a document that takes several pages " * 40)


class FirstDraw(Augmenter):
    """Writes what the page's generator gives first in the place of its text."""

    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        return replace(page, text=str(rng.integers(2**63)))


@pytest.fixture(scope="module")
def processor() -> OcrProcessor:
    return OcrProcessor("deepsynth/tiny-random")


def draws(processor: OcrProcessor, document: Document = LONG, epoch: int = 0, **settings: Any) -> list[str]:
    """Return the first draw of the augmenter for each of the first two pages."""
    pipeline = Pipeline(TextRenderer(**OPTIONS), FirstDraw(), processor, **settings)
    assert pipeline.count_pages(document) >= 2
    return [page.text for number in (0, 1) for page in pipeline.pages(document, number, epoch)]


def test_the_augmenter_is_seeded_by_seed_epoch_document_and_page(processor: OcrProcessor) -> None:
    first = draws(processor)
    assert draws(processor) == first
    renamed = replace(LONG, id="other")
    all_draws = [*first, *draws(processor, epoch=1), *draws(processor, seed=1), *draws(processor, renamed)]
    assert len(set(all_draws)) == len(all_draws) == 8


def test_a_page_of_a_whole_document_is_degraded_as_the_page_alone(processor: OcrProcessor) -> None:
    pipeline = Pipeline(TextRenderer(**OPTIONS), FirstDraw(), processor, max_pages=50)
    assert [page.text for page in pipeline.pages(LONG, None, 0)[:2]] == draws(processor)


def test_variants_of_a_page_come_again_in_turn(processor: OcrProcessor) -> None:
    epochs = [draws(processor, epoch=epoch, variants=2) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]


def test_the_layout_follows_from_seed_and_document_alone(processor: OcrProcessor) -> None:
    document = Document("d", "a few words")

    def layout(document: Document, epoch: int = 0, seed: int = 0) -> tuple[Any, ...]:
        options: dict[str, Any] = {**OPTIONS, "font_size_px": (8.0, 40.0)}
        renderer = TextRenderer(**options)
        (page,) = Pipeline(renderer, None, processor, seed=seed).pages(document, 0, epoch)
        return page.lines, page.image.tobytes()

    assert layout(document) == layout(document, epoch=3)
    assert layout(document) != layout(document, seed=1)
    assert layout(document) != layout(replace(document, id="e"))


def test_labels_have_the_lines_that_the_page_shows(processor: OcrProcessor) -> None:
    document = Document("d", "one soft\u00adhyphen\u200b and e\u0301 words " * 8)
    renderer = TextRenderer(**OPTIONS)

    def label(**options: Any) -> str:
        sample = Pipeline(renderer, None, processor, text=TextCleaning(**options)).sample(document, 0, 0)
        assert sample is not None
        ids = sample.labels[sample.labels >= 0].tolist()
        assert processor.hf_processor.tokenizer.decode(ids, skip_special_tokens=True) == sample.target
        return sample.target

    (page,) = Pipeline(renderer, None, processor).pages(document, 0, 0)
    shown, source = label(), label(line_breaks="source")
    assert shown.count("\n") == len(page.lines) - 1 > 0
    assert "\n" not in source
    assert shown.replace("-\n", "").replace("\n", " ") == source
    assert source == "one softhyphen and é words " * 7 + "one softhyphen and é words"
    assert "\u00ad" in label(invisible="keep")
    pixels = [Pipeline(renderer, None, processor, text=TextCleaning(invisible=keep)) for keep in ("keep", "remove")]
    assert len({pipeline.pages(document, 0, 0)[0].image.tobytes() for pipeline in pixels}) == 1


def test_targets_are_cleaned_like_transcriptions(processor: OcrProcessor) -> None:
    sample = Pipeline(TextRenderer(**OPTIONS), None, processor).sample(
        Document("d", "a", target="su\u00adm\r\n"), None, 0
    )
    assert sample is not None
    assert sample.target == "sum"


def test_a_target_is_drawn_anew_in_every_epoch_and_comes_with_its_prompt(processor: OcrProcessor) -> None:
    renderer = TextRenderer(**{**OPTIONS, "markup": "markdown"})
    targets = make_targets({"markdown": 1.0, "grounded": 1.0})
    pipeline = Pipeline(renderer, None, processor, targets=targets, variants=1)
    document = Document("d", "# Title\n\nwords")
    prompts = set()
    for epoch in range(8):
        sample = pipeline.sample(document, 0, epoch)
        assert sample is not None
        grounded = "<|grounding|>" in sample.prompt
        assert sample.target.startswith("<|ref|>title<|/ref|><|det|>[[") if grounded else sample.target[0] == "#"
        prompts.add(sample.prompt)
        again = pipeline.sample(document, 0, epoch)
        assert again is not None
        assert again.target == sample.target
    assert prompts == {DEEPSEEK_PROMPTS["markdown"], DEEPSEEK_PROMPTS["grounded"]}


def test_a_users_own_prompt_stands_before_that_of_the_target() -> None:
    processor = OcrProcessor("deepsynth/tiny-random", prompt="<image>\nWrite it.")
    targets = make_targets("markdown", processor.prompt)
    renderer = TextRenderer(**{**OPTIONS, "markup": "markdown"})
    sample = Pipeline(renderer, None, processor, targets=targets).sample(Document("d", "# Title"), 0, 0)
    assert sample is not None
    assert (sample.prompt, sample.target) == ("<image>\nWrite it.", "# Title")


def test_other_targets_than_text_need_a_drawn_page(processor: OcrProcessor) -> None:
    pipeline = Pipeline(TextRenderer(**OPTIONS), None, processor, targets=make_targets("grounded"))
    for document in (Document("d", "a", target="b"), Document("d", "a", image=Image.new("RGB", (9, 9)))):
        with pytest.raises(UserError, match=r"data\.target is grounded; it must be 'text' for it"):
            pipeline.pages(document, None, 0)


def test_a_page_is_dropped_when_one_of_its_targets_is_too_long() -> None:
    renderer = TextRenderer(**{**OPTIONS, "markup": "markdown"})
    document = Document("d", "\n\n".join(["a b", "c d", "e f", "g h"]))
    plain = Pipeline(renderer, None, OcrProcessor("deepsynth/tiny-random"))
    lengths = {}
    for kind in ("text", "grounded"):
        sample = replace(plain, targets=make_targets(kind)).sample(document, 0, 0)
        assert sample is not None
        lengths[kind] = len(sample.input_ids)
    assert lengths["text"] < lengths["grounded"]
    processor = OcrProcessor("deepsynth/tiny-random", max_tokens=lengths["grounded"] - 1, on_max_tokens="drop")
    for target, kept in (("text", 1), ({"text": 100.0, "grounded": 0.001}, 0)):
        dataset = PageDataset([document], replace(plain, processor=processor, targets=make_targets(target)))
        assert (len(dataset), dataset.dropped) == (kept, 1 - kept)


def test_a_target_that_grows_too_long_is_that_of_the_first_epoch() -> None:
    class Grows(Augmenter):
        """Moves the page's boxes so far that their numbers have more digits, in all epochs but the first."""

        def __call__(self, page: Page, rng: np.random.Generator) -> Page:
            far = rng.integers(2**63) != first
            moved = [
                replace(line, words=tuple(Word(w.text, (200, 200, 250, 250)) for w in line.words))
                for line in page.lines
            ]
            return replace(page, lines=tuple(moved)) if far else page

    renderer = TextRenderer(**{**OPTIONS, "markup": "markdown", "margin_px": 0})
    document = Document("d", "a")
    first = np.random.default_rng([0, 0, stable_hash("d"), 0]).integers(2**63)
    pipeline = Pipeline(renderer, Grows(), OcrProcessor("deepsynth/tiny-random"), targets=make_targets("lines"))
    sample, later = (pipeline.sample(document, 0, epoch) for epoch in (0, 1))
    assert sample is not None
    assert later is not None
    assert len(later.input_ids) > len(sample.input_ids)
    budget = OcrProcessor("deepsynth/tiny-random", max_tokens=len(sample.input_ids), on_max_tokens="drop")
    again = replace(pipeline, processor=budget).sample(document, 0, 1)
    assert again is not None
    assert again.target == sample.target


def test_a_field_of_the_row_is_asked_for_beside_other_targets(tmp_path: Path, processor: OcrProcessor) -> None:
    rows = [{"text": "# Title\n\nwords", "total": total, "items": [{"name": "té"}]} for total in ("12.50", 7)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row | {"id": str(n)}) for n, row in enumerate(rows)))
    targets = make_targets({"field:total": 1, "field:items": 1, "markdown": 1, "field:unused": 0})
    documents = list(JsonlSource(tmp_path / "rows.jsonl").with_fields(targets.fields))
    pipeline = Pipeline(TextRenderer(**{**OPTIONS, "markup": "markdown"}), None, processor, targets=targets)
    for document, total in zip(documents, ("12.50", "7"), strict=True):
        found = {(page.prompt, page.text) for epoch in range(30) for page in pipeline.pages(document, 0, epoch)}
        assert found == {
            ("<image>\nExtract the field total.", total),
            ("<image>\nExtract the field items.", '[{"name": "té"}]'),
            ("<image>\nConvert the document to markdown.", "# Title\n\nwords"),
        }


def test_a_scan_without_a_text_is_learned_by_its_fields(tmp_path: Path, processor: OcrProcessor) -> None:
    Image.new("RGB", (20, 20), "white").save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("image,total\na.png,9.99\n")
    only, mixed = make_targets("field:total"), make_targets({"field:total": 0.001, "text": 1000})
    source = CsvSource(tmp_path / "rows.csv").with_fields(only.fields)
    (document,) = source.walk(need_text=True)
    sample = Pipeline(TextRenderer(**OPTIONS), None, processor, targets=only).sample(document, None, 0)
    assert sample is not None
    assert (sample.target, sample.prompt) == ("9.99", "<image>\nExtract the field total.")
    with pytest.raises(UserError, match=r"'a\.png' is a scan without a text.*leave 'text' out"):
        Pipeline(TextRenderer(**OPTIONS), None, processor, targets=mixed).sample(document, None, 0)


def test_a_field_belongs_to_one_page(processor: OcrProcessor) -> None:
    pipeline = Pipeline(TextRenderer(**OPTIONS), None, processor, targets=make_targets("field:total"))
    document = replace(LONG, fields={"total": "1"})
    with pytest.raises(UserError, match=r"has \d+ pages, and data\.target is field:total.*target_field"):
        pipeline.count_pages(document)
    with pytest.raises(UserError, match="has one target for all pages"):
        pipeline.pages(Document("d", "a", target="b", fields={"total": "1"}), None, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"rows\.jsonl, line 2: the field 'total', which data\.target names, is missing; .* 'text'"),
        ({"text": "a", "total": None}, r"line 2: the field 'total', which data\.target names, is empty"),
        ({"text": "a", "total": " "}, r"line 2: the field 'total', which data\.target names, is empty"),
    ],
)
def test_a_row_without_the_field_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps({'text': 'first', 'total': 1})}\n{json.dumps(row)}\n")
    source = JsonlSource(tmp_path / "rows.jsonl").with_fields(("total",))
    with pytest.raises(UserError, match=message):
        list(source.walk(need_text=True))
    skipped: list[str] = []
    kept = list(source.walk(need_text=True, skip=lambda place, error: skipped.append(place)))
    assert [document.fields for document in kept] == [{"total": "1"}]
    assert len(skipped) == 1
    assert [document.fields["total"] for document in source.walk()] == ["1", ""]  # to predict


def test_fields_are_read_from_every_source_of_rows_and_refused_of_others(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "total": [2.5], "more": ["x"]}), tmp_path / "rows.parquet")
    mixed = MixedSource({"one": ParquetSource(tmp_path / "rows.parquet")}).with_fields(("total",))
    assert [document.fields for document in mixed] == [{"total": "2.5"}]
    with pytest.raises(UserError, match=r"data\.target is 'field:total', and TextFolderSource .* has no rows"):
        TextFolderSource(tmp_path).with_fields(("total",))
