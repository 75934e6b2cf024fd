"""Defaults of the data module that depend on the machine."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image

from deepsynth.data import JsonlSource, TextImageDataModule, TextRenderer
from deepsynth.data.processing.processor import Processor
from deepsynth.errors import UserError
from deepsynth.models.prompts import DEEPSEEK_PROMPTS
from deepsynth.types import Document
from tests.helpers.training import make_data, make_module, make_trainer


@pytest.mark.parametrize(("gpu", "given", "multiple"), [(True, None, 64), (False, None, 1), (True, 1, 1)])
def test_lengths_are_rounded_where_a_gpu_plans_kernels_for_each(
    gpu: bool, given: int | None, multiple: int, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    data = make_data(jsonl, pad_to_multiple_of=given)
    data.setup("fit")
    lengths = {batch.tokens["input_ids"].shape[1] for batch in data.train_dataloader()}
    assert all(length % multiple == 0 for length in lengths)
    assert multiple == 64 or any(length % 64 for length in lengths)


def test_the_limit_of_pixels_reaches_the_scans(jsonl: Path, tmp_path: Path) -> None:
    Image.new("1", (300, 300)).save(tmp_path / "scan.png")
    scan = Document("scan", "", image=tmp_path / "scan.png")
    assert make_data(jsonl).pipeline().pages(scan, None, 0)[0].image.size == (300, 300)
    with pytest.raises(UserError, match=r"300 x 300 pixels, more than 89,999"):
        make_data(jsonl, max_image_pixels=89_999).pipeline().pages(scan, None, 0)
    with pytest.raises(UserError, match=r"data.max_image_pixels is 0; it must be at least 2"):
        make_data(jsonl, max_image_pixels=0)


@pytest.mark.parametrize("mode", [None, "gundam"])
@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_pages_travel_as_bytes_and_become_the_models_input(stage: str, mode: str | None, jsonl: Path) -> None:
    name = "deepsynth/full-size-ocr-2"  # it has queries for every mode
    data = make_data(jsonl, mode=mode, val_fraction=0.4, max_tokens=10**6, model_name=name)
    if mode == "gundam":  # with a side beyond that of a tile
        data.renderer = TextRenderer(page_width_px=800, page_height_px=400)
    data.setup(stage)
    loaders = {"fit": data.train_dataloader, "validate": data.val_dataloader, "predict": data.predict_dataloader}
    batch = next(iter(loaders[stage]()))
    views = {name: value for name, value in batch.images.items() if name.startswith("pixel_values")}
    assert ("pixel_values_local" in views) == (mode == "gundam")
    assert {value.dtype for value in views.values()} == {torch.uint8}
    processor = data.processor
    moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert moved.images["pixel_values"].dtype == torch.uint8
    moved = moved.with_pixel_values()
    documents = {document.id: document for document in data.source}
    for row, (identifier, number) in enumerate(zip(batch.document_ids, batch.pages, strict=True)):
        (page,) = data.pipeline().pages(documents[identifier], number, 0)
        expected = processor.hf_processor.image_processor(
            images=[page.image], return_tensors="pt", **processor.layout.processor_kwargs()
        )
        assert torch.equal(moved.images["pixel_values"][row], expected["pixel_values"][0])
        tiles = expected.get("pixel_values_local")
        if tiles is not None:
            count = len(tiles)
            assert torch.equal(moved.images["pixel_values_local"][row * count : (row + 1) * count], tiles)
    assert moved.pixel_table is None


def test_numbers_of_tiles_stay_where_the_model_reads_them(jsonl: Path) -> None:
    data = make_data(jsonl)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {name: value.device.type for name, value in moved.images.items()} == {
        "pixel_values": "meta",
        "num_local_patches": "cpu",
    }
    assert moved.images["num_local_patches"].tolist() == batch.images["num_local_patches"].tolist() == [0, 0]
    assert {value.device.type for value in (*moved.tokens.values(), *moved.prompt_tokens.values())} == {"meta"}


def test_a_source_is_read_once_for_all_splits(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    data = make_data(jsonl, val_fraction=0.4)
    read = type(data.source).__iter__

    def counted(source: Any) -> Any:
        for document in read(source):
            given.append(document.id)
            yield document

    monkeypatch.setattr(type(data.source), "__iter__", counted)
    data.setup("fit")
    assert len(data.datasets["train"].documents) + len(data.datasets["val"].documents) == 8
    assert sorted(given) == [f"d{number}" for number in range(8)]
    data.reader.read(["val"], None)
    assert len(given) == 16


def test_the_target_of_the_guide_reaches_the_samples(jsonl: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/targets.md").read_text()
    target = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[0])["data"]["target"]
    data = make_data(jsonl, target=target)
    data.setup("fit")
    prompts = {text.split("<|ref|>")[0] for batch in data.train_dataloader() for text in batch.prompt_texts}
    assert prompts <= {DEEPSEEK_PROMPTS[kind].split("<|ref|>")[0] for kind in target}
    assert len(prompts) > 1


class OtherProcessor(Processor):
    def __call__(self, document: Document, pages: Any, *, prompt_only: bool = False) -> None:
        raise NotImplementedError

    @property
    def pad_token_id(self) -> int:
        return 0

    def prompt_for(self, document: Document) -> str:
        return "<image>"


def test_pages_are_as_large_as_the_processor_takes_them(jsonl: Path) -> None:
    own = TextImageDataModule(JsonlSource(str(jsonl)), mode="small", model_name="deepsynth/full-size-ocr-2")
    other = TextImageDataModule(JsonlSource(str(jsonl)), processor=OtherProcessor())
    for data, side in ((own, 768), (other, 1024)):
        renderer = data.pipeline().renderer
        assert isinstance(renderer, TextRenderer)
        assert (renderer.page_width_px, renderer.page_height_px) == (side, side)


def test_workers_begin_while_the_model_is_loaded(jsonl: Path, tmp_path: Path) -> None:
    class Looks(Callback):
        children = 0

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.children = len(multiprocessing.active_children())

    looks = Looks()
    before = len(multiprocessing.active_children())
    data = make_data(jsonl, num_workers=2)
    make_trainer(tmp_path, callbacks=[looks], max_steps=1).fit(make_module(), data)
    assert looks.children == before + 2
    assert len(multiprocessing.active_children()) == before
