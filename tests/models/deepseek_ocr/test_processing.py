"""Views byte by byte, prompts, batches, and images that are not pages."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from deepsynth.data.scans import load_image
from deepsynth.export.published import write_processor
from deepsynth.models.deepseek_ocr import DeepseekOcrImageProcessor
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration
from deepsynth.models.tokens import MODES, image_layout
from deepsynth.types import Document
from tests.helpers.tiny_config import tiny_config

EXPECTED = json.loads((Path(__file__).parents[2] / "fixtures/deepseek_ocr_v1/preproc/expected.json").read_text())
Tensors = dict[str, torch.Tensor]


def _sha256(view: torch.Tensor) -> str:
    pixels = np.round((view.numpy().transpose(1, 2, 0) * 0.5 + 0.5) * 255).astype(np.uint8)
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("case", EXPECTED["cases"])
def test_views_are_byte_identical(case: str, reference: Path, tiny_processor: Any) -> None:
    """Global view, tiles, their order, and the prompt's length."""
    name, mode = case.split("/")
    expected = EXPECTED["cases"][case]
    page = Image.open(reference / f"preproc/{name}.png")
    inputs = tiny_processor(images=[page], text="<image>\nFree OCR. ", mode=mode)
    assert list(inputs["pixel_values"].shape) == expected["global_shape"]
    assert _sha256(inputs["pixel_values"][0]) == expected["global_sha256"]
    assert inputs["patches_grid"].tolist() == [expected["ratio_w_h"]]
    tiles = expected.get("tiles_sha256", [])
    assert inputs["num_local_patches"].tolist() == [len(tiles)]
    assert [_sha256(tile) for tile in inputs.get("pixel_values_local", [])] == tiles
    assert inputs["input_ids"].shape[1] == expected["input_len"]
    assert (inputs["input_ids"] == 815).sum() == expected["n_image_tokens"]


@pytest.mark.parametrize(
    ("batch", "page", "size", "tile", "stretch"),
    [
        ("base256", "base", 256, None, False),
        ("large288", "base", 288, None, False),
        ("small160", "base", 160, None, True),
        ("gundam", "gundam", 256, 192, False),
    ],
)
def test_views_are_what_the_published_code_fed_its_model(
    batch: str,
    page: str,
    size: int,
    tile: int | None,
    stretch: bool,
    reference: Path,
    tensors: Callable[[str], Tensors],
) -> None:
    """Float by float, several images at once."""
    expected = tensors(f"forward/{batch}")
    processor = DeepseekOcrImageProcessor(
        size={"height": size, "width": size}, crop_to_patches=tile is not None, tile_size=tile or size, stretch=stretch
    )
    pages = [Image.open(reference / f"forward/{page}_img{index}.png") for index in range(2)]
    inputs = processor(images=pages, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], torch.cat([expected[f"s{index}.global.pixels"] for index in range(2)]))
    if tile:
        assert torch.equal(inputs["pixel_values_local"], expected["s0.local.pixels"])
    assert inputs["patches_grid"].tolist() == expected["images_spatial_crop"].tolist()


@pytest.mark.parametrize("prompt", EXPECTED["prompts"])
def test_prompts_are_stripped_and_begin_with_bos(prompt: str, reference: Path, tiny_processor: Any) -> None:
    """No roles, no template."""
    page = Image.open(reference / "preproc/small_500x380.png")
    ids = tiny_processor(images=page, text=prompt, mode="tiny")["input_ids"][0].tolist()
    text = EXPECTED["prompts"][prompt]
    encode = tiny_processor.tokenizer.encode
    before, after = text.split("<image>")
    assert ids == [0, *encode(before, add_special_tokens=False), *[815] * 73, *encode(after, add_special_tokens=False)]


def test_processor_keeps_its_settings(tmp_path: Path, tiny_processor: Any, reference: Path) -> None:
    """Through the native format and the published one."""
    tiny_processor.save_pretrained(tmp_path / "native")
    (tmp_path / "native/config.json").write_text(tiny_config().to_json_string(use_diff=False))
    again = AutoProcessor.from_pretrained(tmp_path / "native")
    assert type(again) is type(tiny_processor)
    assert image_layout(again) == image_layout(tiny_processor) == MODES["deepseek_ocr"]["gundam"]
    write_processor(tiny_processor, tmp_path)
    (tmp_path / "config.json").write_text((reference / "model/config.json").read_text())
    published = AutoProcessor.from_pretrained(tmp_path)
    assert image_layout(published) == MODES["deepseek_ocr"]["gundam"]
    ours, theirs = (
        json.loads((place / "processor_config.json").read_text()) for place in (tmp_path, reference / "model")
    )
    assert ours.keys() == theirs.keys()
    text = "Grüße, 你好 <|ref|> <image>\n  x"
    assert again.tokenizer.encode(text) == published.tokenizer.encode(text) == tiny_processor.tokenizer.encode(text)


def test_a_folder_that_says_nothing_of_views_has_the_published_ones(tmp_path: Path, tiny_processor: Any) -> None:
    tiny_processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "DeepseekOcrProcessor"}))
    found = type(tiny_processor).from_pretrained(tmp_path)
    assert image_layout(found) == MODES["deepseek_ocr"]["gundam"]
    assert (found.patch_size, found.downsample_ratio) == (16, 4)
    made = type(tiny_processor)(DeepseekOcrImageProcessor(), tiny_processor.tokenizer)
    assert image_layout(made) == MODES["deepseek_ocr"]["gundam"]
    assert (made.patch_size, made.downsample_ratio) == (16, 4)
    settings = {"candidate_resolutions": [[512, 512]], "patch_size": 8, "downsample_ratio": 2, "image_mean": [0.1] * 3}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    found = type(tiny_processor).from_pretrained(tmp_path)
    layout = image_layout(found)
    assert (layout.base_size, layout.tile_size, layout.patch_size, layout.downsample) == (512, 640, 8, 2)
    images = found.image_processor
    assert ([*images.image_mean], [*images.image_std]) == ([0.1] * 3, [0.5] * 3)


@pytest.mark.parametrize(
    ("tokens", "handed"),
    [
        ([{"content": "<|ref|>", "special": True}, "<|det|>"], ["<|ref|>", "<|det|>"]),
        (["<|ref|>", "<|det|>"], None),
        ([], None),
        (None, None),
    ],
)
def test_tokens_that_are_spelled_out_are_handed_over_by_their_text(
    tokens: Any, handed: Any, tmp_path: Path, tiny_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.17 does not read them from the file; later releases do, and take them either way."""
    tiny_processor.save_pretrained(tmp_path)
    if tokens is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": tokens}))
    given: dict[str, Any] = {}
    load = PreTrainedTokenizerFast.from_pretrained

    def recorded(folder: Any, **kwargs: Any) -> Any:
        given.update(kwargs)
        return load(folder, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", recorded)
    type(tiny_processor).from_pretrained(tmp_path)
    assert given == ({} if handed is None else {"additional_special_tokens": handed})


def test_the_published_llama_tokenizer_class_changes_nothing(
    tmp_path: Path, reference: Path, tiny_processor: Any
) -> None:
    """The Hub's file names LlamaTokenizerFast; the tokens are those of tokenizer.json."""
    for file in (reference / "model").iterdir():
        if "token" in file.name or file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "LlamaTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    text = " two  spaces\nand a line <|User|>"
    assert AutoProcessor.from_pretrained(tmp_path).tokenizer.encode(text) == tiny_processor.tokenizer.encode(text)


def test_images_and_placeholders_must_match(tiny_processor: Any) -> None:
    """Neither more nor fewer."""
    page = Image.new("RGB", (40, 30), "white")
    with pytest.raises(ValueError, match="2 images for 1 <image>"):
        tiny_processor(images=[page, page], text="<image>x")
    with pytest.raises(ValueError, match="0 images for 1 <image>"):
        tiny_processor(text="<image>x")


@pytest.fixture(scope="module")
def small() -> tuple[Any, DeepseekOcrImageProcessor]:
    """A model for pages of 128 pixels with tiles of 64, and its image processor."""
    torch.manual_seed(1)
    model = DeepseekOcrForConditionalGeneration(tiny_config(page_size=128)).eval()
    return model, DeepseekOcrImageProcessor(size={"height": 128, "width": 128}, tile_size=64)


def _page(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _sample(processor: DeepseekOcrImageProcessor, pages: list[Image.Image], tail: list[int]) -> tuple[list[int], Any]:
    layout = image_layout(processor)
    ids = [0]
    for page in pages:
        ids += [3] * layout.tokens(*page.size) + [9]
    return ids + tail, processor(images=pages, return_tensors="pt") if pages else {}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_its_samples_alone(side: str, small: tuple[Any, DeepseekOcrImageProcessor]) -> None:
    """Tiles beside no tiles, several pages in a sample, text alone, padding on either side."""
    model, processor = small
    samples = [
        _sample(processor, [_page(50, 40, 0)], [5, 6, 7]),
        _sample(processor, [_page(200, 90, 1), _page(60, 60, 2), _page(70, 300, 3)], [11]),
        _sample(processor, [], [20, 21, 22, 23]),
        _sample(processor, [_page(130, 70, 4)], [30, 31]),
    ]
    length = max(len(ids) for ids, _ in samples)
    rows, masks = [], []
    for ids, _ in samples:
        fill = [2] * (length - len(ids))
        rows.append(fill + ids if side == "left" else ids + fill)
        masks.append([0] * len(fill) + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * len(fill))
    names = {name for _, images in samples for name in images}
    joined = {name: torch.cat([images[name] for _, images in samples if name in images]) for name in names}
    assert joined["patches_grid"].tolist()[0] == [1, 1]
    assert joined["pixel_values_local"].shape[0] == joined["num_local_patches"].sum()
    mask = torch.tensor(masks)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(torch.tensor(rows), attention_mask=mask, position_ids=positions, **joined).logits
        for index, (ids, images) in enumerate(samples):
            alone = model(torch.tensor([ids]), **images).logits[0]
            torch.testing.assert_close(logits[index][mask[index].bool()], alone, rtol=1e-4, atol=1e-4)


def test_image_tokens_that_do_not_fit_are_an_error(small: tuple[Any, DeepseekOcrImageProcessor]) -> None:
    """Too few slots, tokens without an image, tiles without a grid: never silent."""
    model, processor = small
    ids, images = _sample(processor, [_page(200, 90, 1)], [5])
    with pytest.raises(ValueError, match=r"hold 16 image tokens .* make 17 features"):
        model(torch.tensor([ids[:1] + ids[2:]]), **images)
    with pytest.raises(ValueError, match="there is no pixel_values"):
        model(torch.tensor([ids]))
    with pytest.raises(ValueError, match="do not fit 8 tiles"):
        model(torch.tensor([ids]), **{name: value for name, value in images.items() if name != "patches_grid"})
    with pytest.raises(ValueError, match=r"num_local_patches \[1\]"):
        model(torch.tensor([ids]), **{**images, "num_local_patches": torch.tensor([1])})


@pytest.mark.parametrize("name", ["gray16.png", "gray12.tif", "cmyk.jpg", "alpha.png", "lying.jpg"])
def test_a_scan_has_the_pixels_that_training_gives_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    if name.startswith("gray"):
        Image.fromarray(noise * (16 if "16" in name else 1)).save(path)
    else:
        mode = {"cmyk.jpg": "CMYK", "alpha.png": "RGBA"}.get(name, "RGB")
        _page(64, 64, 0).convert(mode).save(path, **({"exif": exif} if name == "lying.jpg" else {}))
    trained = load_image(Document("x", "", image=path))
    seen = DeepseekOcrImageProcessor().process_image(Image.open(path))
    assert seen.tobytes() == trained.tobytes()
    assert np.ptp(np.asarray(seen)) > 200


@pytest.mark.parametrize("mode", MODES["deepseek_ocr"])
@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 2000)])
def test_lines_that_would_vanish_are_refused(mode: str, size: tuple[int, int]) -> None:
    """In every mode, also in those that would stretch them."""
    layout = MODES["deepseek_ocr"][mode]
    if round(min(size) * layout.base_size / max(size)) >= 1:
        pytest.skip("a pixel is left")
    with pytest.raises(ValueError, match="its short side would vanish"):
        DeepseekOcrImageProcessor()(images=[Image.new("RGB", size)], **layout.processor_kwargs())


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 700), (641, 640), (1, 1000)])
def test_odd_sizes_make_whole_views(size: tuple[int, int]) -> None:
    """Counts by the layout, views by the processor, one truth."""
    for layout in MODES["deepseek_ocr"].values():
        inputs = DeepseekOcrImageProcessor()(
            images=[Image.new("RGB", size)], return_tensors="pt", **layout.processor_kwargs()
        )
        columns, rows = layout.tile_grid(*size)
        assert inputs["patches_grid"].tolist() == [[columns, rows]]
        assert len(inputs.get("pixel_values_local", [])) == (0 if (columns, rows) == (1, 1) else columns * rows)
        assert inputs["pixel_values"].shape == (1, 3, layout.base_size, layout.base_size)


def test_arrays_are_taken_when_they_are_pages() -> None:
    """uint8 of (height, width, 3); others are not guessed."""
    page = _page(50, 40, 3)
    processor = DeepseekOcrImageProcessor()
    from_array = processor(images=[np.asarray(page)], return_tensors="pt")["pixel_values"]
    assert torch.equal(from_array, processor(images=[page], return_tensors="pt")["pixel_values"])
    with pytest.raises(ValueError, match=r"array \(40, 50, 3\) of float64"):
        processor(images=[np.asarray(page) / 255.0])


def test_second_version_uses_its_own_processor_without_torchvision(tmp_path: Path, tiny_processor: Any) -> None:
    """The same calls serve DeepSeek-OCR-2, and count what its model inserts."""
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed, whose processor transformers then takes")
    from transformers import DeepseekOcr2Config
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil
    from transformers.models.deepseek_ocr2.processing_deepseek_ocr2 import DeepseekOcr2Processor

    DeepseekOcr2Processor(DeepseekOcr2ImageProcessorPil(), tiny_processor.tokenizer).save_pretrained(tmp_path)
    DeepseekOcr2Config().save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor.image_processor) is DeepseekOcr2ImageProcessorPil
    for mode, layout in MODES["deepseek_ocr2"].items():
        assert image_layout(processor, mode) == layout
        for size in ((300, 200), (1500, 700), (768, 768), (769, 100)):
            inputs = processor.image_processor(
                images=[Image.new("RGB", size)], return_tensors="pt", **layout.processor_kwargs()
            )
            columns, rows = layout.tile_grid(*size)
            assert inputs["num_local_patches"].tolist() == [0 if (columns, rows) == (1, 1) else columns * rows]
            assert inputs["pixel_values"].shape[-1] == layout.base_size
