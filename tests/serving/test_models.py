"""What a service loads: adapters of one base side by side, and texts in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.errors import UserError
from deepsynth.generation import Decoder
from deepsynth.generation import cache as cache_module
from deepsynth.generation import decoder as decoder_module
from deepsynth.generation import steps as steps_module
from deepsynth.generation.steps import StaticSteps
from deepsynth.serving.command import served_models
from deepsynth.serving.models import ModelPool, ModelSettings, ServedModel
from deepsynth.serving.text_stream import TextStream
from tests.helpers.generation import samples, tokenizer_of
from tests.helpers.recorded_graph import stand_in
from tests.helpers.tiny_models import lighton_ocr
from tests.helpers.training import make_module

NAME = "deepsynth/tiny-random"


def adapter(folder: Path, seed: int, **settings: Any) -> Path:
    """Write an adapter whose weights change texts."""
    module = make_module(**settings)
    module.configure_model()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    module.save_adapter(folder)
    return folder


def texts_of(pool: ModelPool, name: str, of: Any, limit: int = 12) -> list[str]:
    numbers = pool.submit(name, of, [limit] * len(of))
    decoder, found = pool.use(name), {}
    while len(found) < len(of):
        found |= dict(decoder.step())
    return [found[number].text for number in numbers]


@pytest.mark.parametrize("second", [{"experts": "all", "rank": 4}, {"attention": False, "vision": True, "rank": 2}])
def test_adapters_side_by_side_write_what_each_writes_alone(tmp_path: Path, second: dict[str, Any]) -> None:
    folders = {"a": adapter(tmp_path / "a", 1), "b": adapter(tmp_path / "b", 2, **second)}
    of = samples(NAME, 3)

    def pool(*names: str) -> ModelPool:
        models, _ = served_models([f"{name}={folders[name]}" for name in names], None, None)
        return ModelPool(ModelSettings(models, slots=2), "cpu")

    alone = {name: texts_of(pool(name), name, of) for name in "ab"}
    assert alone["a"] != alone["b"]
    both = pool("a", "b")
    for name in ("b", "a", "b"):
        assert texts_of(both, name, of) == alone[name]


def test_a_model_that_is_warmed_up_records_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = stand_in(monkeypatch)

    def steps(runner: Any, cache: Any, compiled: bool) -> StaticSteps:
        return StaticSteps(runner, cache, 4, graphs=True)

    for module in (cache_module, steps_module):
        monkeypatch.setattr(module, "GROWTH", 64)
    monkeypatch.setattr(decoder_module, "steps_for", steps)
    model = ServedModel("m", None, "deepsynth/tiny", max_new_tokens=40)
    pool, of = ModelPool(ModelSettings((model,), slots=3), "cpu"), samples("deepsynth/tiny", 5)
    pool.warm_up()
    assert len(pool.use("m")) == 0
    recorded = len(graphs)
    # A page, prompts of 1, 2 and 3 pages, and 1, 2 and 3 rows of one or two lengths.
    lengths = {-(-(of[0].prompt_length + tokens + 4) // 64) for tokens in range(41)}
    assert recorded == 4 + 3 * len(lengths)
    found = texts_of(pool, "m", of[:3], 40) + texts_of(pool, "m", of[3:], 40)
    assert len(graphs) == recorded
    monkeypatch.undo()
    assert found == texts_of(ModelPool(ModelSettings((model,), slots=3), "cpu"), "m", of, 40)


def test_a_warm_up_without_memory_is_named_and_the_model_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = ServedModel("m", None, NAME, max_new_tokens=4)
    pool = ModelPool(ModelSettings((model,), slots=2), "cpu")

    def submit(self: Decoder, *args: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as full, caplog.at_level("WARNING", logger="deepsynth"):
        full.setattr(Decoder, "submit", submit)
        pool.warm_up()
    assert "lower --slots (2). no memory" in caplog.text
    assert len(texts_of(pool, "m", samples(NAME, 2), 4)) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_pieces_of_a_text_make_the_whole(count: int) -> None:
    tokenizer = tokenizer_of("deepsynth/tiny")
    text = "Wörter und “quotes”, 日本語, a line\nand  two spaces: 🙂"
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream, pieces = TextStream(tokenizer), []
    for end in range(count, len(ids), count):
        pieces.append(stream.add(ids[:end]))
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(pieces) + stream.rest(whole) == whole
    assert "\ufffd" not in "".join(pieces)
    assert sum(bool(piece) for piece in pieces) > len(pieces) // 3


def test_tokens_that_say_nothing_are_not_decoded_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of("deepsynth/tiny-random")
    broken = tokenizer.encode("日", add_special_tokens=False)[:1]  # the first byte of a character
    decode, decoded = tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: decoded.append(len(ids)) or decode(ids, **options))
    ids = broken * 4000 + tokenizer.encode("ab", add_special_tokens=False)
    stream = TextStream(tokenizer)
    pieces = [stream.add(ids[:end]) for end in range(1, len(ids))]
    whole = decode(ids)
    assert "".join(pieces) + stream.rest(whole) == whole
    assert sum(decoded) < 10 * len(ids)


def test_texts_of_random_weights_take_all_their_tokens() -> None:
    torch.manual_seed(50)  # whose weights would write the token that ends a text
    models, _ = served_models([], NAME, 200)
    pool = ModelPool(ModelSettings(models, slots=8, weights="random", stop_on_repetition=False), "cpu")
    pool.submit(models[0].name, samples(NAME, 8), [200] * 8)
    decoder, tokens = pool.use(models[0].name), []
    while len(decoder):
        tokens += [found.tokens for _, found in decoder.step()]
    assert tokens == [200] * 8


def test_a_model_that_the_decoder_does_not_know_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = str(lighton_ocr.make(tmp_path / "model"))
    models, _ = served_models([], folder, None)
    with pytest.raises(UserError, match=r"the model is .*does not work for models that DeepSynth does not know"):
        ModelPool(ModelSettings(models, slots=1), "cpu")
