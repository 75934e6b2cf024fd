"""The native model against what the published code computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deepsynth.models.deepseek_ocr.checkpoint import published_state

Tensors = dict[str, torch.Tensor]
VARIANTS = ["base256", "large288", "small160", "text_only", "gundam"]


@pytest.fixture(scope="module", params=[("grouped_mm", "sdpa"), ("eager", "eager")], ids="-".join)
def model(request: pytest.FixtureRequest, loader: Callable[..., Any]) -> Any:
    """The tiny model with each implementation of experts and attention."""
    experts, attention = request.param
    return loader(experts_implementation=experts, attn_implementation=attention).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_loss(
    variant: str, model: Any, tensors: Callable[[str], Tensors], model_inputs: Callable[[Tensors], Tensors]
) -> None:
    """Logits max < 1e-3 and mean < 5e-5."""
    batch = tensors(f"forward/{variant}")
    with torch.no_grad():
        output = model(**model_inputs(batch), labels=batch["labels"])
    difference = (output.logits - batch["logits"])[batch["attention_mask"].bool()].abs()
    assert difference.max() < 1e-3
    assert difference.mean() < 5e-5
    torch.testing.assert_close(output.loss, batch["loss"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "text_only"])
def test_features(
    variant: str, model: Any, tensors: Callable[[str], Tensors], model_inputs: Callable[[Tensors], Tensors]
) -> None:
    """Features of SAM, CLIP, the projector, and of the whole image, < 2e-5."""
    batch = tensors(f"forward/{variant}")
    inputs = {name: value for name, value in model_inputs(batch).items() if name not in ("input_ids", "attention_mask")}
    vision = model.model.vision_tower
    with torch.no_grad():
        for key in (name for name in batch if name.endswith("pixels")):
            stem = key.removesuffix("pixels")
            feature_map = vision.sam_encoder(batch[key]).last_hidden_state
            clip = vision.vision_encoder(feature_map)
            projected = model.model.multi_modal_projector(vision(batch[key]).last_hidden_state)
            for found, name in ((feature_map, "sam"), (clip, "clip"), (projected, "post_projector")):
                expected = batch[stem + name]
                expected = expected[:, 1:] if name == "clip" else expected
                assert (found - expected).abs().max() < 2e-5, stem + name
        features = model.get_image_features(**inputs).pooler_output
    for index, feature in enumerate(features):
        assert (feature - batch[f"s{index}.image_embeds"]).abs().max() < 2e-5


@pytest.mark.parametrize("variant", ["base256", "gundam"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text(
    variant: str,
    use_cache: bool,
    model: Any,
    tensors: Callable[[str], Tensors],
    model_inputs: Callable[[Tensors], Tensors],
) -> None:
    """The same tokens, and the same logits at each step, with and without the cache."""
    expected = tensors(f"generate/{variant}")
    batch = tensors(f"forward/{variant}")
    first = {name: value for name, value in model_inputs(batch).items() if name not in ("input_ids", "attention_mask")}
    first = {name: value[:1] if name != "pixel_values_local" else value for name, value in first.items()}
    output = model.generate(
        input_ids=expected["input_ids"],
        attention_mask=torch.ones_like(expected["input_ids"]),
        **first,
        max_new_tokens=len(expected["new_tokens"]),
        do_sample=False,
        use_cache=use_cache,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert output.sequences[0, expected["input_ids"].shape[1] :].tolist() == expected["new_tokens"].tolist()
    assert (torch.cat(output.logits) - expected["step_logits"]).abs().max() < 1e-3


def test_greedy_text_in_a_padded_batch(model: Any, tiny_processor: Any, reference: Path) -> None:
    """Left-padded beside another page, with other tiles, and a prompt without image: the same tokens as alone."""
    pages = [Image.open(reference / f"forward/gundam_img{index}.png") for index in range(2)]
    ours = tiny_processor.image_processor
    before = ours.size, ours.tile_size
    ours.size, ours.tile_size = type(ours.size)(height=256, width=256), 192
    try:
        prompts = ["<image>\nFree OCR. ", "<image>\nWhat does this page say, word by word? ", "Hello."]
        alone = []
        for prompt, page in zip(prompts, [*pages, None], strict=True):
            inputs = tiny_processor(images=page, text=prompt)
            output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
            alone.append(output[0, inputs["input_ids"].shape[1] :].tolist())
        inputs = tiny_processor(images=pages, text=prompts)
        assert inputs["patches_grid"].tolist() == [[2, 3], [1, 1]]
        assert (inputs["attention_mask"] == 0).any()
        output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    finally:
        ours.size, ours.tile_size = before
    together = [sequence.tolist() for sequence in output[:, inputs["input_ids"].shape[1] :]]
    # A sequence that ended is filled with padding.
    assert [[token for token in sequence if token != 2] for sequence in together] == alone
    expected = json.loads((reference / "generate/expected_tokens.json").read_text())["gundam"]
    assert alone[0] == expected


@pytest.mark.parametrize("case", ["published_noaux", "published_aux", "vision_trainable_noaux"])
@pytest.mark.parametrize("experts", ["grouped_mm", "eager"])
@pytest.mark.parametrize(
    "checkpointing", [pytest.param(False, id="kept"), pytest.param(True, id="recomputed", marks=pytest.mark.slow)]
)
def test_gradients(
    case: str,
    experts: str,
    checkpointing: bool,
    loader: Callable[..., Any],
    reference: Path,
    tensors: Callable[[str], Tensors],
    model_inputs: Callable[[Tensors], Tensors],
) -> None:
    """Loss, every gradient's norm and some gradients in full, within 1e-4 of the gradient's size."""
    model = loader(experts_implementation=experts).train()
    model.freeze_vision(not case.startswith("vision"))
    model.config.router_aux_loss_coef = 0.001 if case == "published_aux" else 0.0
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch = tensors("forward/gundam")
    output = model(**model_inputs(batch), labels=batch["labels"])
    output.loss.backward()
    assert (output.logits - batch["logits"])[batch["attention_mask"].bool()].abs().max() < 1e-3
    expected = tensors(f"train/{case}")
    balance = 0.0 if output.aux_loss is None else 0.001 * output.aux_loss.item()
    assert output.loss.item() - balance == pytest.approx(expected.pop("loss").item(), abs=1e-5)
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    published = published_state(model, gradients)
    for name, gradient in expected.items():
        found = published[name.removeprefix("grad.")]
        assert (found - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name
    norms = json.loads((reference / "train/grad_norms.json").read_text())[case]["grad_norm"]
    assert norms.keys() == published.keys()
    for name, norm in norms.items():
        assert published[name].norm().item() == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-7), name


def test_balance_loss_is_apart_and_only_in_training(
    loader: Callable[..., Any], tensors: Callable[[str], Tensors], model_inputs: Callable[[Tensors], Tensors]
) -> None:
    """Off by default; on, it is in the loss and stands beside it; evaluation has none."""
    batch = tensors("forward/text_only")
    inputs = {**model_inputs(batch), "labels": batch["labels"]}
    model = loader().train()
    plain = model(**inputs)
    assert plain.aux_loss is None
    model.config.router_aux_loss_coef = 0.5
    balanced = model(**inputs)
    # One per layer with experts when all are used alike, never much less.
    assert balanced.aux_loss.item() > 0.9 * 3
    torch.testing.assert_close(balanced.loss, plain.loss + 0.5 * balanced.aux_loss)
    assert model.eval()(**inputs).aux_loss is None


def test_vision_is_frozen_when_loaded_and_trainable_when_new(tiny_model: Any, loader: Callable[..., Any]) -> None:
    """By requires_grad alone; CLIP's patch embedding is never used and never trained."""
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {
        "vision_tower",
        "multi_modal_projector",
        "image_newline",
        "view_separator",
    }
    assert not any("language_model" in name or "lm_head" in name for name in frozen)
    unused = "model.vision_tower.vision_encoder.embeddings.patch_embedding.weight"
    model = type(tiny_model)(tiny_model.config)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {unused}


def test_vision_that_is_let_train_has_no_weight_without_a_gradient(
    loader: Callable[..., Any], tensors: Callable[[str], Tensors], model_inputs: Callable[[Tensors], Tensors]
) -> None:
    """The one weight that the forward pass never uses stays frozen: several processes would wait for its gradient."""
    model = loader().train()
    model.freeze_vision(False)
    batch = tensors("forward/gundam")
    model(**model_inputs(batch), labels=batch["labels"]).loss.backward()
    vision = {name: p for name, p in model.named_parameters() if "language_model" not in name and "lm_head" not in name}
    assert {name for name, p in vision.items() if p.requires_grad} == {
        name for name, p in vision.items() if p.grad is not None
    }
    assert [name for name, p in vision.items() if not p.requires_grad] == [
        "model.vision_tower.vision_encoder.embeddings.patch_embedding.weight"
    ]
    model.freeze_vision()
    assert not any(p.requires_grad for p in vision.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_learns(
    checkpointing: bool,
    loader: Callable[..., Any],
    tensors: Callable[[str], Tensors],
    model_inputs: Callable[[Tensors], Tensors],
) -> None:
    """After one backward pass every LoRA B of the decoder has a gradient, though vision is frozen."""
    from peft import get_peft_model

    from deepsynth.models.lora import LoraSettings, lora_config, untrained_adapters

    model = loader()
    model.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    lora = LoraSettings(rank=4, mlp=True, experts="all")
    adapted = get_peft_model(model, lora_config(model, lora, base_model_name="base")).train()
    batch = tensors("forward/gundam")
    adapted(**model_inputs(batch), labels=batch["labels"]).loss.backward()
    assert untrained_adapters(adapted) == []
