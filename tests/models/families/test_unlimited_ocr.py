"""Unlimited-OCR: its window in training, in packed rows and in our decoder is that of transformers' own generation."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, DynamicCache

from deepsynth.data import OcrProcessor
from deepsynth.data.processing.collator import Collator
from deepsynth.generation import Decoder, generate
from deepsynth.generation.cache import RowCache
from deepsynth.generation.steps import FreeSteps, StaticSteps
from deepsynth.models.engine.fast_paths import install_training_paths
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.engine.written_window import visible
from deepsynth.models.registry import family_of, load_pretrained
from deepsynth.profiling.flops import TrainingFlops
from deepsynth.types import Batch, Document, Page
from tests.helpers.processes import launch
from tests.helpers.tiny_models import unlimited_ocr
from tests.profiling.test_flops import GROUPED

WINDOW = 5
TEXTS = ("The quick brown fox jumps.", "Over", "the lazy dog, twice.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unlimited_ocr.make(tmp_path_factory.mktemp("model") / "windowed", window=WINDOW)


@pytest.fixture
def model(folder: Path) -> Any:
    return load_pretrained(AutoModelForImageTextToText, str(folder), dtype=torch.float32).eval()


def batch_of(folder: Path, texts: tuple[str, ...] = TEXTS, *, packed: bool = False) -> Batch:
    from PIL import Image

    processor = OcrProcessor(str(folder))
    samples = []
    for number, text in enumerate(texts):
        size = unlimited_ocr.PAGES[number % 2]
        pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
        page = Page(image=Image.fromarray(pixels.to(torch.uint8).numpy()), text=text, number=0)
        sample = processor(Document(id=str(number), text=text), [page])
        assert sample is not None
        samples.append(sample)
    return Collator(processor.pad_token_id, pad_to_multiple_of=8, packed=packed)(samples).with_pixel_values()


def own_losses(model: Any, batch: Batch) -> tuple[float, int]:
    """Return the loss of transformers' forward pass, with a cache that knows where each prompt ends, summed."""
    total, count = 0.0, 0
    tiles = batch.images["num_local_patches"].tolist()
    for row in range(len(batch)):
        mask = batch.tokens["attention_mask"][row].bool()
        labels = batch.tokens["labels"][row][mask]
        cache = DynamicCache(config=model.config.text_config)
        for layer in cache.layers:
            layer.set_prefill_length(int((labels == -100).sum()))
        views = {"pixel_values": batch.images["pixel_values"][row : row + 1]}
        if tiles[row]:
            first = sum(tiles[:row])
            views["pixel_values_local"] = batch.images["pixel_values_local"][first : first + tiles[row]]
        logits = model(
            input_ids=batch.tokens["input_ids"][row][mask][None],
            num_local_patches=[tiles[row]],
            patches_grid=batch.images["patches_grid"][row : row + 1].tolist(),
            cache=cache,
            use_cache=True,
            **views,
        ).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
        count += int((labels[1:] != -100).sum())
    return total, count


def test_the_published_type_is_transformers_own(folder: Path, tmp_path: Path) -> None:
    """Weights have DeepSeek-OCR's names; decoder and window stand elsewhere in config.json."""
    published = Path(shutil.copytree(folder, tmp_path / "published"))
    config = json.loads((published / "config.json").read_text())
    text = config.pop("text_config")
    config |= {"model_type": "unlimited-ocr", "architectures": ["UnlimitedOCRForCausalLM"], "language_config": text}
    config["sliding_window"] = text.pop("sliding_window")
    (published / "config.json").write_text(json.dumps(config))
    with safe_open(published / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert "model.layers.1.mlp.experts.0.gate_proj.weight" in names
    assert "model.sam_model.blocks.0.attn.qkv.weight" in names
    found = load_pretrained(AutoModelForImageTextToText, str(published), dtype=torch.float32)
    assert type(found).__module__ == "transformers.models.unlimited_ocr.modeling_unlimited_ocr"
    assert found.config.text_config.sliding_window == WINDOW
    assert family_of(found.config).name == "unlimited_ocr"
    expected = load_pretrained(AutoModelForImageTextToText, str(folder), dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_tokens_are_those_that_transformers_processor_writes_for_any_size(folder: Path) -> None:
    """Its own count, of its own text, for pages in one view and in two to four tiles, long and wide."""
    from PIL import Image

    processor = OcrProcessor(str(folder))
    counts = set()
    for width in range(8, 400, 61):
        for height in range(8, 400, 53):
            ids = processor.hf_processor(images=[Image.new("RGB", (width, height))], text="<image>")["input_ids"]
            tokens = sum(int(index) == processor.hf_processor.image_token_id for index in ids[0])
            assert processor.layout.tokens(width, height) == tokens, (width, height)
            counts.add(tokens)
    assert len(counts) > 4


def test_adapters_have_the_parameters_of_the_parts(model: Any, folder: Path) -> None:
    """Of 3 layers: 4 matrices of attention, 3 of one dense MLP, 3 shared and 2 fused ones of two with experts."""
    from peft import get_peft_model

    from deepsynth.models.lora import LoraSettings, lora_config

    lora = LoraSettings(rank=2, mlp=True, experts="all", vision=True, projector=True)
    adapted = get_peft_model(model, lora_config(model, lora, base_model_name=str(folder)))
    found = {name.partition(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    in_vision = [name for name in found if "vision_tower" in name]
    assert len(found) - len(in_vision) == 3 * 4 + 3 + 2 * (3 + 2) + 1
    assert len(in_vision) == 2 * 4 + 2 * 6  # SAM's and CLIP's layers


def test_what_a_token_sees() -> None:
    """The prompt, which has no label, and the last tokens; nothing where that is all before it."""
    labels = torch.tensor([[-100, -100, 5, 5, 5, 5, -100]])
    mask = visible(labels, 2)
    assert mask is not None
    rows = ["1000000", "1100000", "1110000", "1111000", "1101100", "1100110", "1100011"]
    assert mask[0, 0].int().tolist() == [[int(seen) for seen in row] for row in rows]
    assert visible(labels, 3) is None  # the last label is predicted by the third token of the text
    assert visible(torch.full((2, 4), -100), 1) is None


@pytest.mark.parametrize("loss", ["chunked", "plain"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@torch.no_grad()
def test_the_loss_is_that_of_the_text_as_it_is_written(
    folder: Path, model: Any, loss: Any, attention: str, packed: bool
) -> None:
    """Without logits and by the model's own forward, padded and packed."""
    total, count = own_losses(model, batch_of(folder))
    model.set_attn_implementation({"text_config": attention})
    model.train()
    paths = install_training_paths(model)
    assert paths.uses("SAM attention")
    assert paths.uses("frozen experts") is False  # nothing is frozen here
    found = TrainingForward(model, loss=loss, fast_paths=paths)(batch_of(folder, packed=packed).inputs)
    assert float(found) == pytest.approx(total / count, rel=1e-5)
    paths.undo()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_texts_within_the_window_see_their_own_sequence_alone(folder: Path, model: Any, attention: str) -> None:
    texts = ("a", "bc", "d")
    total, count = own_losses(model, batch_of(folder, texts))
    model.set_attn_implementation({"text_config": attention})
    found = TrainingForward(model.train(), loss="chunked")(batch_of(folder, texts, packed=True).inputs)
    assert float(found) == pytest.approx(total / count, rel=1e-5)


@torch.no_grad()
def test_without_the_window_it_would_be_another_loss(folder: Path, model: Any) -> None:
    batch = batch_of(folder)
    whole = float(model(**family_of(model.config).arguments(batch.inputs), use_cache=False).loss)
    total, count = own_losses(model, batch)
    assert abs(whole - total / count) > 1e-3


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_frozen_experts_and_adapters_have_the_gradients_of_the_models_own_layers(folder: Path, packed: bool) -> None:
    from peft import get_peft_model

    from deepsynth.models.lora import LoraSettings, lora_config

    gradients = []
    for loss in ("plain", "chunked"):
        torch.manual_seed(0)
        base = load_pretrained(AutoModelForImageTextToText, str(folder), dtype=torch.float32)
        base.requires_grad_(False)
        lora = LoraSettings(rank=4, mlp=True, experts="all", vision=True, projector=True)
        adapted = get_peft_model(base, lora_config(base, lora, base_model_name=str(folder)))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        adapted.train()
        paths = None
        if loss == "chunked":
            paths = install_training_paths(adapted.get_base_model())
            assert paths.uses("frozen experts")
            assert paths.uses("adapters of experts")
        forward = TrainingForward(adapted, loss=loss, fast_paths=paths)  # type: ignore[arg-type]
        forward(batch_of(folder, packed=packed and loss == "chunked").inputs).backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=2e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("steps", [FreeSteps, StaticSteps])
@torch.no_grad()
def test_our_decoder_writes_what_transformers_generates(folder: Path, model: Any, steps: Any) -> None:
    """Far beyond the window, rows alone and together, slots that are taken again."""
    batches = [batch_of(folder, (text,)) for text in TEXTS]
    by_transformers = [
        generate(model, _tokenizer(folder), batch, max_new_tokens=40, implementation="transformers")
        for batch in batches
    ]
    expected = [found[0] for found in by_transformers if found]
    decoder = Decoder(model, _tokenizer(folder), slots=2, steps=steps)
    for batch, limit in zip(batches, (40, 7, 40), strict=True):
        decoder.submit(batch, limit)
    found = decoder.advance(drain=True)
    assert found is not None
    assert [one.ids for one in found] == [one.ids[:limit] for one, limit in zip(expected, (40, 7, 40), strict=True)]
    assert {len(one.ids) for one in expected} == {40}  # a random model does not stop
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs[: len(one.logprobs)], abs=1e-4)


def _tokenizer(folder: Path) -> Any:
    return OcrProcessor(str(folder)).hf_processor.tokenizer


def test_the_cache_keeps_the_prompt_and_the_window() -> None:
    """A token that nothing sees any more gives its place to a new one; a row that moves takes its places along."""
    cache = RowCache(1, 3, torch.device("cpu"), window=3)
    cache.begin([0, 1], [4, 2])
    positions = [9, 2]
    places, last = cache.places(torch.tensor(positions))
    assert (places.tolist(), last.tolist()) == ([6, 2], [6, 2])
    assert cache.needed(positions) == 7
    assert not cache.are_places(positions)
    assert cache.are_places([6, 4])
    cache.reserve(cache.needed([1000, 1000]))
    cache.fill(torch.tensor([0, 1]))
    cache.update(torch.rand(2, 1, 4, 8), torch.rand(2, 1, 4, 8), 0)
    cache.move(0, 2, 9)
    assert cache.places(torch.tensor([0, 0, 10]))[0].tolist() == [0, 0, 4]
    assert cache.needed([0, 0, 10]) == 7
    assert not cache.are_places([0, 0, 7])


def test_pytorch_counts_the_same_operations_in_a_step(folder: Path) -> None:
    """Eager attention computes all pairs, which is the one thing that a step does beyond what is needed."""
    from tests.models.families.runs import module_of

    module = module_of(folder, experts="all", vision=True, attn_implementation="eager", activation_memory="none")
    module.configure_model()
    batch = batch_of(folder, TEXTS[:1])
    flops = TrainingFlops.of_module(module)
    assert flops is not None
    assert flops.window == WINDOW
    tokens, pairs, labels = flops.amounts(batch.inputs, WINDOW).tolist()
    seen = visible(batch.inputs["labels"], WINDOW)
    assert seen is not None
    assert pairs == int(seen[0, 0, :tokens].sum())
    with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter:
        module.train().compute_loss(batch).backward()
    length = batch.inputs["labels"].shape[1]
    needed = flops.of_text([tokens, length**2, labels]) + flops.of_images(batch.inputs)
    assert counter.get_total_flops() == pytest.approx(needed, rel=0.02)


def train(folder: Path, to: Path, processes: int) -> list[float]:
    """Train adapters on all parts for two steps, the weights sharded over several processes; return the losses."""
    from deepsynth.distributed import FullyShardedStrategy
    from tests.helpers.training import make_trainer
    from tests.models.families.runs import TEXTS as RUN_TEXTS
    from tests.models.families.runs import Losses, data_of, module_of

    losses = Losses()
    strategy: dict[str, Any] = {"strategy": FullyShardedStrategy()} if processes > 1 else {}
    trainer = make_trainer(to, max_steps=2, callbacks=[losses], limit_val_batches=0, devices=processes, **strategy)
    data = data_of(folder, unlimited_ocr.PAGES, batch_size=len(RUN_TEXTS) // processes)
    trainer.fit(module_of(folder, experts="all"), data)
    return losses.values


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_do(folder: Path, tmp_path: Path) -> None:
    """FSDP2 in the dtype of the weights; with 4 bits it is refused for every family."""
    one = train(folder, tmp_path / "one", 1)
    assert len(one) == 2
    for several in launch(2, tmp_path / "two", train, folder, tmp_path / "two", 2):
        assert several == pytest.approx(one, rel=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)")
@torch.no_grad()
def test_four_bits_have_the_loss_of_the_models_own_forward(folder: Path) -> None:
    """Dense layers and routed experts are quantized, and the engine computes with them what the layers do."""
    from tests.models.families.runs import module_of

    losses = []
    for loss in ("plain", "chunked"):
        module = module_of(folder, quantization="nf4", loss=loss)
        module.configure_model()
        layer = module.model.get_base_model().model.language_model.layers[1]
        assert hasattr(layer.mlp.experts, "quantized")
        assert type(layer.self_attn.q_proj.base_layer).__name__ == "Linear4bit"
        losses.append(float(module.train().compute_loss(batch_of(folder))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
