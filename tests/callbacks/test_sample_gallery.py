"""The gallery: what differs, the page, its pictures, and the first prediction that survives."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from deepsynth.callbacks import SampleGallery
from deepsynth.callbacks.gallery_page import GalleryEntry, Prediction, differences, gallery_page, mark_differences
from deepsynth.callbacks.sample_gallery import jpeg, pictures_of
from deepsynth.errors import UserError
from deepsynth.types import Batch
from tests.helpers.training import RankOf, make_data, make_module, make_trainer


class Tags(HTMLParser):
    """Collects open tags and addresses, and fails on a tag that closes another."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def entry(name: str = "d1", prediction: str = "a cat", target: str = "a bat", step: int = 0) -> GalleryEntry:
    prediction_ = Prediction(step, prediction)
    return GalleryEntry(name, target, prediction_, prediction_, [jpeg(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy())])


@given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=30))
def test_the_parts_are_both_texts(prediction: str, target: str) -> None:
    parts = list(differences(prediction, target))
    assert "".join(predicted for predicted, _ in parts) == prediction
    assert "".join(expected for _, expected in parts) == target


def test_what_is_wrong_and_what_is_missing_is_marked() -> None:
    assert mark_differences("a quick cat", "a quick bat") == "a quick <del>c</del><ins>b</ins>at"
    assert mark_differences("one two", "one two three") == "one two<ins> three</ins>"
    assert mark_differences("one\ntwo", "one two") == "one<del>↵\n</del><ins> </ins>two"
    assert mark_differences("<b>&", "<b>&") == "&lt;b&gt;&amp;"
    # One letter in common in the middle of two differences is chance.
    assert mark_differences("xxexx", "yyeyy") == "<del>xxexx</del><ins>yyeyy</ins>"


def test_the_page_stands_alone_and_says_the_figures() -> None:
    one = entry("d1", "a cat", "a bat")
    two = entry("<d2>", "abcde", "fghij")
    two.latest = Prediction(40, "fghij")
    page = gallery_page("Samples of quickstart", [one, two])
    tags = Tags(page)
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.addresses)
    assert "http" not in page
    assert "2 samples, the same in every validation. CER 60.0% at step 0, 10.0% at step 40." in tags.text
    assert tags.text.count("Prediction at step 0 CER") == 2
    assert "Prediction at step 40 CER 0.0%" in tags.text
    assert "<d2>" in tags.text
    assert "prefers-color-scheme: dark" in page


@pytest.fixture(scope="module")
def module() -> Any:
    module = make_module()
    module.configure_model()  # loads the processor too
    return module


def batch_of(module: Any, image_tokens: list[int], views: int) -> Batch:
    size = len(image_tokens)
    ids = torch.zeros(size, 20, dtype=torch.long)
    for position, count in enumerate(image_tokens):
        ids[position, :count] = module.processor.image_token_id
    pixels = torch.stack([torch.full((3, 4, 4), view / 5 * 2 - 1) for view in range(views)])
    names, unknown = [f"d{i}" for i in range(size)], [None] * size
    return Batch(
        {"input_ids": ids},
        {},
        {"pixel_values": pixels},
        names,
        names,
        names,
        [0] * size,
        [*unknown],
        [*unknown],
        ["<image>"] * size,
    )


@pytest.mark.parametrize(
    ("image_tokens", "views", "shares"),
    [
        ([5, 5], 2, [[0], [1]]),
        ([5, 9], 2, [[0], [1]]),  # one of them in tiles
        ([4, 12, 8], 6, [[0], [1, 2, 3], [4, 5]]),
        ([4, 13, 8], 6, [[], [], []]),
    ],
)
def test_each_sample_gets_its_own_pages(
    module: Any, image_tokens: list[int], views: int, shares: list[list[int]]
) -> None:
    pictures = pictures_of(batch_of(module, image_tokens, views), module)
    assert [[round(int(array[0, 0, 0]) / 51) for array in arrays] for arrays in pictures] == shares


def row(name: str, prediction: str) -> dict[str, Any]:
    return {"id": name, "prediction": prediction, "target": name}


def validate(gallery: SampleGallery, trainer: Trainer, module: LightningModule, predictions: list[list[str]]) -> None:
    gallery.on_validation_start(trainer, module)
    for number, batch in enumerate(predictions):
        names = [f"d{number}{i}" for i in range(len(batch))]
        rows = [row(name, prediction) for name, prediction in zip(names, batch, strict=True)]
        inputs = batch_of(module, [4] * len(batch), len(batch))
        gallery.on_validation_batch_end(trainer, module, {"rows": rows}, inputs, 0)
    gallery.on_validation_end(trainer, module)


def trainer_at(folder: Path, step: int = 0, rank: int = 0) -> Trainer:
    """Return a trainer that has taken so many optimizer steps."""
    trainer = make_trainer(folder, strategy=RankOf(rank, rank + 1))
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    trainer.strategy.connect(LightningModule())  # Lightning counts no steps without a module
    return trainer


def test_the_first_samples_are_shown_with_the_first_and_the_latest_prediction(module: Any, tmp_path: Path) -> None:
    gallery = SampleGallery(samples=3)
    validate(gallery, trainer_at(tmp_path, 0), module, [["x", "y"], ["z", "too many"]])
    validate(gallery, trainer_at(tmp_path, 5), module, [["d00", "y"], ["middle", "q"]])
    validate(gallery, trainer_at(tmp_path, 9), module, [["d00", "d01"], ["d10", "q"]])
    text = Tags((tmp_path / "gallery.html").read_text()).text
    assert "3 samples, the same in every validation. CER 100.0% at step 0, 0.0% at step 9." in text
    assert "middle" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.html"]


def test_a_resumed_run_keeps_its_first_predictions(module: Any, tmp_path: Path) -> None:
    before = SampleGallery()
    validate(before, trainer_at(tmp_path, 0), module, [["x"]])
    torch.save(before.state_dict(), tmp_path / "state")
    after = SampleGallery()
    after.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    validate(after, trainer_at(tmp_path, 7), module, [["d00"]])
    assert "CER 100.0% at step 0, 0.0% at step 7." in Tags((tmp_path / "gallery.html").read_text()).text


def test_a_page_that_cannot_be_written_is_named(module: Any, tmp_path: Path) -> None:
    (tmp_path / "gallery.html").mkdir()
    with pytest.raises(UserError, match=r"gallery.html: the gallery cannot be written"):
        validate(SampleGallery(samples=1), trainer_at(tmp_path), module, [["a"]])


def test_other_ranks_write_nothing(module: Any, tmp_path: Path) -> None:
    validate(SampleGallery(), trainer_at(tmp_path, rank=1), module, [["x"]])
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_a_page_and_tensorboard_entries(tmp_path: Path, jsonl: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    steps = {"max_steps": 1, "val_check_interval": 1, "num_sanity_val_steps": 1}
    trainer = make_trainer(tmp_path, callbacks=[SampleGallery(samples=1)], logger=logger, **steps)
    trainer.fit(make_module(max_new_tokens=3, samples=1), make_data(jsonl, val_fraction=0.3, batch_size=1))
    page = (tmp_path / "gallery.html").read_text()
    assert re.search(
        r"1 sample, the same in every validation. CER <strong>[0-9.]+%</strong> at step 0, .* at step 1", page
    )
    picture = Image.open(io.BytesIO(base64.b64decode(Tags(page).addresses[0].partition(",")[2])))
    assert picture.size[0] == picture.size[1] > 100
    assert picture.convert("L").getextrema() == pytest.approx((0, 255), abs=40)  # ink and paper, as before the model
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0}).Reload()
    assert len(events.Tags()["images"]) == 1
    (tag,) = events.Tags()["tensors"]
    assert [event.step for event in events.Tensors(tag)] == [0, 1]


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"SampleGallery has nothing to show: .*model\.generation\.samples is 0"):
        SampleGallery().on_fit_start(make_trainer(tmp_path), make_module(samples=0))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"SampleGallery\.samples is 0; it must be at least 1"):
        SampleGallery(samples=0)
