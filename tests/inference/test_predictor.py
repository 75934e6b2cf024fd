"""One call predicts an image, in all forms of it; notebooks show pages and escape texts."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepsynth
from deepsynth.data import TextRenderer
from deepsynth.errors import UserError
from deepsynth.inference import Gallery, Predictor
from deepsynth.modules import PeftModule
from deepsynth.types import Document, Page
from tests.helpers.training import make_data, make_module, make_trainer


@pytest.fixture(scope="module")
def page() -> Page:
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=10, font_size_px=12.0)
    return renderer(Document("a", "Scan number 7 of 12."), np.random.default_rng(0))[0]


def test_an_image_in_every_form_has_its_text(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    page.image.save(file)
    predictor = Predictor(model_name="deepsynth/tiny")
    assert predictor(file) == "Scan number 7 of 12."
    assert predictor.predict([str(file), file.read_bytes(), page.image]) == ["Scan number 7 of 12."] * 3
    assert deepsynth.predict(file, model_name="deepsynth/tiny") == "Scan number 7 of 12."


def test_an_adapter_brings_its_model_its_shape_and_its_prompt(page: Page, tmp_path: Path, jsonl: Path) -> None:
    module = make_module(rank=3, mlp=True, max_new_tokens=8)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, make_data(jsonl, prompt="<image>\nRead."))
    module.save_adapter(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", max_new_tokens=8)
    assert predictor.module.model_name == module.model_name
    assert (predictor.module.lora.rank, predictor.module.lora.mlp) == (3, True)
    assert predictor.prompt == "<image>\nRead."
    trained = {name: p for name, p in module.named_parameters() if "lora_" in name}
    loaded = dict(predictor.module.named_parameters())
    assert trained
    assert all(loaded[name].equal(p) for name, p in trained.items())
    assert isinstance(predictor(page.image), str)


def test_nothing_to_predict_with_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give one of them"):
        Predictor()
    with pytest.raises(UserError, match="holds no adapter"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("model_name", "mode", "message"),
    [
        ("deepsynth/tiny", "nosuch", "mode is 'nosuch'; deepseek_ocr has tiny, small"),
        ("deepsynth/tiny-random", "small", "leave mode out"),
    ],
)
def test_a_mode_is_refused_before_weights_are_loaded(
    model_name: str, mode: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeftModule, "configure_model", lambda self: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=message):
        Predictor(model_name=model_name, mode=mode)


def test_a_notebook_shows_pages_and_escapes_their_texts(page: Page) -> None:
    assert page._repr_png_().startswith(b"\x89PNG")
    html = Gallery([page, page.image], ["<b>bold</b>", "two"])._repr_html_()
    assert html.count("<img ") == 2
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "Scan number 7 of 12." in Gallery([page])._repr_html_()


@pytest.mark.parametrize(
    ("stored", "asked", "prompt"),
    [
        ({"prompt": "<image>\nStored."}, None, "<image>\nStored."),
        ({"prompt": "<image>\nStored."}, "<image>\nAsked.", "<image>\nAsked."),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_the_prompt_is_the_one_asked_for_else_that_of_the_training(
    stored: dict[str, str] | None, asked: str | None, prompt: str | None, adapter: Path
) -> None:
    file = adapter / "deepsynth.json"
    if stored is None:
        file.unlink()
    else:
        file.write_text(json.dumps({"model_name": NAME, "lora": {"rank": 2}, **stored}))
    predictor = Predictor(adapter, model_name=NAME, prompt=asked, max_new_tokens=7)
    assert predictor.prompt == prompt
    assert predictor.module.lora.rank == 2
    assert predictor.module.generation.max_new_tokens == 7
    assert not predictor.module.training


def test_the_resolution_is_that_of_the_adapters_run(adapter: Path) -> None:
    (adapter.parent / "config.yaml").write_text("data: {init_args: {mode: gigantic}}")
    with pytest.raises(UserError, match="mode is 'gigantic'"):
        Predictor(adapter, model_name=NAME)


def test_an_adapter_of_another_program_needs_the_name_of_its_model(adapter: Path) -> None:
    (adapter / "deepsynth.json").unlink()
    with pytest.raises(UserError, match=f"^{adapter} does not say which model it belongs to; give model_name"):
        Predictor(adapter)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    module = make_module(rank=2)
    module.configure_model()
    module.save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


NAME = "deepsynth/tiny-random"


def test_a_mode_that_the_model_does_not_have_is_a_mistake() -> None:
    with pytest.raises(UserError, match="mode is 'gigantic'"):
        Predictor(model_name=NAME, mode="gigantic")(Image.new("RGB", (8, 8)))


def test_a_gallery_has_a_text_for_each_image_at_the_width_asked_for(page: Page) -> None:
    html = Gallery([page, page.image], width_px=99)._repr_html_()
    assert html.count("width:99px") == 2
    assert html.count("Scan number 7 of 12.") == 1
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    for image in data:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))), np.asarray(page.image))
    assert len(data) == 2
    assert "width:256px" in Gallery([page])._repr_html_()
    with pytest.raises(ValueError, match="zip"):
        Gallery([page], ["one", "two"])._repr_html_()
