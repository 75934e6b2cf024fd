"""What ``deepsynth serve`` makes of its options and folders, without loading a model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.errors import UserError
from deepsynth.hub import pull
from deepsynth.serving.address import Address
from deepsynth.serving.command import Serve, served_models
from deepsynth.serving.jobs import Limits
from deepsynth.serving.models import ModelSettings, ServedModel

NAME = "deepsynth/tiny-random"


def folder(path: Path, **files: Any) -> Path:
    """Write a folder with JSON files of these names."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("files", "base", "expected"),
    [
        ({"config": {}}, None, (None, "FOLDER", None, 2048)),
        ({"config": {}, "deepsynth": {"prompt": "<image>\nA."}}, "x/y", (None, "FOLDER", "<image>\nA.", 2048)),
        ({"adapter_config": {"base_model_name_or_path": "p/q"}}, None, ("FOLDER", "p/q", None, 2048)),
        ({"adapter_config": {"base_model_name_or_path": "p/q"}}, "x/y", ("FOLDER", "x/y", None, 2048)),
        (
            {"adapter_config": {"base_model_name_or_path": "p/q"}, "deepsynth": {"model_name": "d/s", "prompt": "A."}},
            None,
            ("FOLDER", "d/s", None, 2048),
        ),
        (
            {"adapter_config": {}, "deepsynth": {"model_name": "d/s", "prompt": "<image><image>"}, "config": {}},
            None,
            ("FOLDER", "d/s", None, 2048),
        ),
        ({"adapter_config": {}, "deepsynth": {"model_name": "d/s", "prompt": 5}}, None, ("FOLDER", "d/s", None, 2048)),
        ({"config": {}, "deepsynth": {"longest_target": 1000}}, None, (None, "FOLDER", None, 1280)),
    ],
)
def test_a_folder_is_an_adapter_or_a_whole_model(
    files: dict[str, Any], base: str | None, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    where = folder(tmp_path / "x", **files)
    own, named, prompt, limit = (str(where) if value == "FOLDER" else value for value in expected)
    found = ServedModel.of("n", where, base, None)
    assert found == ServedModel("n", None if own is None else where, named, prompt, limit)
    assert ServedModel.of("n", where, base, 7).max_new_tokens == 7


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("n", {"adapter_config": {}}, "x/adapter_config.json names no base model; give it with --model_name"),
        ("n", {"adapter_config": {"base_model_name_or_path": 5}}, "names no base model"),
        ("n", {}, "which holds no adapter_config.json and no config.json"),
        ("a b", {"config": {}}, "the name 'a b' must be letters, digits, dots and dashes: NAME=FOLDER"),
        ("", {"config": {}}, "the name '' must be letters"),
        ("x" * 101, {"config": {}}, "must be letters"),
    ],
)
def test_what_is_no_model_is_refused(name: str, files: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ServedModel.of(name, folder(tmp_path / "x", **files), None, None)
    assert message in str(caught.value)
    assert ServedModel.of("x" * 100, folder(tmp_path / "y", config={}), None, None).name == "x" * 100


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("{run}", "my-run"),
        ("{run}/adapter", "my-run"),
        ("{run}/other", "other"),
        ("mine={run}/other", "mine"),
        ("hf://someone/ocr", "ocr"),
        ("hf://someone/ocr@v1/2", "ocr"),
        ("mine=hf://someone/ocr", "mine"),
    ],
)
def test_a_model_has_the_name_of_its_run_or_its_own(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my-run"
    for part in ("adapter", "other"):
        folder(run / part, adapter_config={}, deepsynth={"model_name": NAME})
    (run / "config.yaml").write_text("data: {init_args: {mode: tiny, processor: null}}")
    folder(tmp_path / "cache", config={})
    monkeypatch.setattr(pull, "pull", lambda reference: tmp_path / "cache")
    (found,), mode = served_models([given.format(run=run)], None, None)
    assert found.name == name
    assert mode == ("tiny" if name == "my-run" else None)


@pytest.mark.parametrize(("base", "name"), [("someone/ocr", "ocr"), ("./models/ocr/", "ocr"), ("ocr", "ocr")])
def test_a_base_model_has_the_last_part_of_its_name(base: str, name: str) -> None:
    assert served_models([], base, None) == ((ServedModel(name, None, base, None, 2048),), None)
    assert served_models([], base, 5) == ((ServedModel(name, None, base, None, 5),), None)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ("data: {init_args: {processor: {init_args: {mode: base}}}}", "base"),
        ("data: {init_args: {processor: {init_args: {mode: 5}}}}", None),
        ("data: {init_args: {processor: null}}", None),
        ("data: [1, 2]", None),
        ("", None),
    ],
)
def test_the_resolution_is_that_of_the_first_run(config: str, mode: str | None, tmp_path: Path) -> None:
    for name, content in (("one", config), ("two", "data: {init_args: {processor: {init_args: {mode: large}}}}")):
        folder(tmp_path / name / "adapter", adapter_config={}, deepsynth={"model_name": NAME})
        (tmp_path / name / "config.yaml").write_text(content)
    models, found = served_models([str(tmp_path / "one"), str(tmp_path / "two")], None, None)
    assert ([model.name for model in models], found) == (["one", "two"], mode)
    (tmp_path / "one" / "config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"one/config\.yaml: cannot be read \(.*\); give --mode and move it away"):
        served_models([str(tmp_path / "one")], None, None)


def test_nothing_to_serve_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="there is nothing to serve: give --ckpt_path runs/NAME/adapter, or --model_name"
    ):
        Serve()
    with pytest.raises(UserError, match="--ckpt_path is nowhere, and there is no such folder; give an adapter's"):
        Serve(ckpt_path=["a=nowhere"])


A, B = ServedModel("a", Path("a"), "base"), ServedModel("b", Path("b"), "base")
WHOLE = ServedModel("w", None, "base")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": (A, ServedModel("c", Path("c"), "another"))}, "one service has one base model, not another, base"),
        ({"models": (A, B, A)}, "a, b, a are not all different; name them: NAME=FOLDER"),
        ({"slots": 0}, "--slots is 0; it must be at least 1"),
        ({"models": (A, B), "quantization": "nf4"}, "--quantization is for one adapter"),
        ({"models": (WHOLE,), "quantization": "int8"}, "a whole model keeps its weights"),
        ({"models": (A, WHOLE)}, "several adapters of one base can be served together, but not whole models"),
        ({"models": (WHOLE,)}, None),
        ({"models": (A, B), "slots": 1}, None),
        ({"models": (A,), "quantization": "nf4"}, None),
    ],
)
def test_what_cannot_be_served_together(settings: dict[str, Any], message: str | None) -> None:
    options = {"models": (A,), "slots": 2, **settings}
    if message is None:
        assert ModelSettings(**options).slots == options["slots"]
        return
    with pytest.raises(UserError) as caught:
        ModelSettings(**options)
    assert message in str(caught.value)


def test_each_option_reaches_what_it_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Serve(model_name=NAME, accelerator="cpu")
    assert plain.settings == ModelSettings((ServedModel("tiny-random", None, NAME),), slots=8)
    assert (plain.limits, plain.address, plain.accelerator) == (Limits(), Address(), "cpu")
    run = tmp_path / "run"
    adapter = folder(run / "adapter", adapter_config={}, deepsynth={"model_name": NAME})
    model: dict[str, Any] = {
        "dtype": "bfloat16", "quantization": "int8", "compile": "none", "mode": "base", "weights": "random",
        "stop_on_repetition": False, "slots": 3,
    }  # fmt: skip
    limits = {
        "max_bytes": 11, "max_pixels": 12, "max_pages": 13, "max_new_tokens": 14, "max_requests": 15, "timeout_s": 16.0,
        "body_timeout_s": 17.0,
    }  # fmt: skip
    address: dict[str, Any] = {"host": "::", "port": 2000, "api_key_file": tmp_path / "key"}
    serve = Serve(ckpt_path=[str(run / "adapter")], **model, **limits, **address)  # type: ignore[arg-type]
    assert serve.settings == ModelSettings((ServedModel("run", adapter, NAME, None, 14),), **model)
    assert serve.limits == Limits(**limits)  # type: ignore[arg-type]
    assert serve.address == Address(**address)
    (run / "config.yaml").write_text("data: {init_args: {processor: {init_args: {mode: tiny}}}}")
    assert Serve(ckpt_path=[str(run)]).settings.mode == "tiny"
    assert Serve(ckpt_path=[str(run)], mode="base").settings.mode == "base"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for accelerator, found, slots in (("auto", "cuda", 64), ("cuda", "cuda", 64), ("cpu", "cpu", 8)):
        served = Serve(model_name=NAME, accelerator=accelerator)  # type: ignore[arg-type]
        assert (served.accelerator, served.settings.slots) == (found, slots)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Serve(model_name=NAME).accelerator == "cpu"
    with pytest.raises(UserError, match="--accelerator is cuda, and torch sees no GPU"):
        Serve(model_name=NAME, accelerator="cuda")


def test_it_says_what_it_serves_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepsynth.serving import server

    calls: list[Any] = []
    monkeypatch.setattr(server, "run_service", lambda *args: calls.append(args))
    lines: list[str] = []
    (tmp_path / "key").write_text("sesame")
    prepare: Callable[[], None] = lines.clear
    for options, line in (
        ({}, "serving tiny-random on cpu at http://127.0.0.1:8000"),
        (
            {"host": "0.0.0.0", "port": 2000, "api_key_file": tmp_path / "key"},
            "serving tiny-random on cpu at http://0.0.0.0:2000, with the key of --api_key_file",
        ),
    ):
        serve = Serve(model_name=NAME, accelerator="cpu", **options)  # type: ignore[arg-type]
        serve.run(lines.append, prepare)
        assert lines.pop() == line
        assert calls.pop() == (serve.settings, serve.limits, serve.address, "cpu", prepare)
    with pytest.raises(UserError, match="mode"):  # before a process has loaded the model
        Serve(model_name=NAME, accelerator="cpu", mode="small").run(lines.append, prepare)
    assert not lines
    assert not calls
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^deepsynth serve needs litserve and prometheus_client: "):
        serve.run(lines.append, prepare)
