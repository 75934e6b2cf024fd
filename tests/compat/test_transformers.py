"""Names and dtypes that differ between releases of transformers."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from deepsynth.compat.transformers import (
    are_shared_out,
    attention_function,
    attention_implementation,
    cache_name,
    convert_back,
    experts_implementation,
    grouped_experts,
    implementations,
    initialize,
    register_attention,
    register_causal_attention,
    register_experts,
    sdpa_attention,
    sees_all,
    set_attention_implementation,
    set_experts_implementation,
    unify_dtype,
)
from deepsynth.generation.cache import RowCache
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.models.registry import load_pretrained, resolve_model_name

MODELS = ("deepsynth/tiny", "deepsynth/tiny-random")


@pytest.mark.parametrize("meta", [False, True])
def test_routers_get_the_dtype_of_the_other_weights(meta: bool) -> None:
    config = AutoConfig.from_pretrained(resolve_model_name("deepsynth/tiny-random"))
    with torch.device("meta" if meta else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    router = model.model.language_model.layers[1].mlp.gate.weight
    router.data = router.data.float()  # as newer releases make it
    rotation = model.model.language_model.rotary_emb.inv_freq.dtype
    assert unify_dtype(model) is model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.language_model.rotary_emb.inv_freq.dtype == rotation == torch.float32


def test_other_weights_keep_their_dtype() -> None:
    class Model(torch.nn.Module):
        dtype = torch.bfloat16

    model, mlp = Model(), torch.nn.Module()
    for parent, name in ((mlp, "gate"), (mlp, "gate_proj"), (model, "gate")):
        parent.add_module(name, torch.nn.Linear(2, 2))
    model.add_module("mlp", mlp)
    unify_dtype(model)
    cast = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert cast == {"mlp.gate.weight"}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_deprecated_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the model's forward pass and transformers' generation, nor by our decoding."""
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "warning_once", lambda self, *args, **kwargs: said.append(args[0]))
    model: Any = load_pretrained(AutoModelForImageTextToText, name).eval()
    ids = torch.arange(5)[None] + 20
    reader = ModelRunner(model)
    cache = RowCache(len(reader.layers), 1, reader.device)
    cache.reserve(8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error", FutureWarning)
        whole = model(input_ids=ids)
        model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        with reader.at_work():
            hidden, last = reader.embed([Prompt(ids[0], None)])
            token = reader.prefill(hidden, torch.tensor([0]), last, cache)
            reader.step(token[:, 0].long(), torch.tensor([5]), cache, 6)
    assert token[0, 0].item() == whole.logits[0, -1].argmax().item()
    assert not said


def test_the_cache_goes_by_its_new_name_and_by_its_old_one() -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny").eval()
    ids = torch.arange(8)[None] + 20
    with torch.inference_mode():
        whole = model(input_ids=ids).logits[:, -1]
        for name in ("cache", "past_key_values"):
            cache = DynamicCache(config=model.config.text_config)
            first = model(input_ids=ids[:, :7], use_cache=True, **{name: cache})
            assert first[cache_name()] is cache
            last = model(input_ids=ids[:, 7:], **{name: cache}).logits[:, -1]
            torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)


def test_implementations_hold_for_a_block() -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random")
    config = model.config.text_config
    before = attention_implementation(config), experts_implementation(config)
    with implementations(config, attention="eager", experts="batched_mm"):
        assert (attention_implementation(config), experts_implementation(config)) == ("eager", "batched_mm")
        layer = model.model.language_model.layers[1]
        assert attention_implementation(layer.self_attn.config) == "eager"
        assert experts_implementation(layer.mlp.experts.config) == "batched_mm"
    assert (attention_implementation(config), experts_implementation(config)) == before
    assert experts_implementation(None) is None


def test_implementations_are_put_back_after_an_error_and_experts_stay_where_none_are_named() -> None:
    config: Any = PreTrainedConfig()
    set_attention_implementation(config, "sdpa")
    set_experts_implementation(config, "grouped_mm")
    with pytest.raises(RuntimeError, match="in the block"), implementations(config, attention="eager", experts="x"):
        raise RuntimeError("in the block")
    assert (attention_implementation(config), experts_implementation(config)) == ("sdpa", "grouped_mm")
    with implementations(config, attention="eager"):
        assert (attention_implementation(config), experts_implementation(config)) == ("eager", "grouped_mm")
        set_experts_implementation(config, "chosen in the block")
    assert (attention_implementation(config), experts_implementation(config)) == ("sdpa", "chosen in the block")


def test_experts_are_shared_out_where_a_layer_says_so() -> None:
    layer = torch.nn.Module()
    assert not are_shared_out(layer)
    for value in (True, False):
        layer._is_expert_parallel = value  # type: ignore[assignment]
        assert are_shared_out(layer) is value


def test_layers_run_the_implementations_that_are_registered() -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random").eval()
    ids, seen = torch.arange(5)[None] + 20, []

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append("attention")
        return sdpa_attention(module, *args, **kwargs), None

    def experts(*args: Any) -> torch.Tensor:
        seen.append("experts")
        return grouped_experts(*args)

    register_attention("recorded", attend)
    register_experts("recorded", experts)
    assert attention_function("recorded") is attend
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        with implementations(model.config.text_config, attention="recorded", experts="recorded"):
            found = model(input_ids=ids).logits
    assert set(seen) == {"attention", "experts"}
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_causal_attention_computes_the_same_and_nothing_looks_for_several_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda *_: looked.append("here"))
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random").train()
    register_causal_attention("causal")
    ids = torch.arange(12).view(2, 6) + 20
    wanted = model(input_ids=ids, use_cache=False).logits
    assert looked
    looked.clear()
    with implementations(model.config.text_config, attention="causal"):
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, wanted)
    assert not looked


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"sliding_window": None, "layer_types": ["full_attention"] * 2}, True),
        ({"sliding_window": 128}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"sliding_window": 128, "layer_types": ["full_attention"]}, False),
        ({"sliding_window": 0, "layer_types": ["chunked_attention"]}, False),
    ],
)
def test_windows_of_attention_are_known(settings: dict[str, Any], expected: bool) -> None:
    assert sees_all(PreTrainedConfig(**settings)) is expected


def test_modules_are_initialized_one_by_one() -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random")
    layer = model.model.language_model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(torch.full_like(layer.weight, 9.0))  # loaded ones are left as they are
    initialize(model, layer)
    assert 0 < float(layer.weight.detach().std()) < 1


def test_state_is_converted_back_and_the_model_stays_as_it_is() -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random")
    before = vars(model).get("_weight_conversions")
    converted = convert_back(model, model.state_dict())
    assert sum(tensor.numel() for tensor in converted.values()) == sum(t.numel() for t in model.state_dict().values())
    assert vars(model).get("_weight_conversions") == before


def test_what_our_classes_override_is_what_transformers_calls() -> None:
    """The hooks of ``PreTrainedModel`` and of image processors, which have no public names."""
    hooks = {
        PreTrainedModel: ("_can_set_experts_implementation", "_init_weights", "_no_split_modules"),
        BaseImageProcessor: ("_preprocess",),
    }
    for kind, names in hooks.items():
        assert [name for name in names if not hasattr(kind, name)] == []
