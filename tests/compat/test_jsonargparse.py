"""The texts of jsonargparse's errors are those that ``compat.jsonargparse`` takes apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer

from deepsynth.compat.jsonargparse import (
    ChoicesHelpFormatter,
    class_not_chosen,
    innermost_error,
    missing_argument,
    other_base,
    unknown_class,
    unknown_option,
    unusable_path,
    wrong_value,
)
from deepsynth.data import Source


class Raising(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise RuntimeError(message)


class Needs(Callback):
    def __init__(self, folder: str) -> None: ...


def error_of(*args: str, **types: Any) -> str:
    parser = Raising()
    parser.add_class_arguments(Trainer, "trainer")
    parser.add_subclass_arguments(Callback, "callback", required=False)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--limit", type=int | float | None)
    parser.add_argument("--functions", type=list[Callable[[str, str], float]])
    with pytest.raises(RuntimeError) as error:
        parser.parse_args(list(args))
    return " ".join(innermost_error(str(error.value)).split())


def test_an_unknown_class() -> None:
    assert unknown_class(error_of("--callback=NoSuchCallback")) == "NoSuchCallback"
    assert unknown_class("something else") is None


def test_an_option_of_a_class_that_was_not_named() -> None:
    parser = Raising()
    parser.add_subclass_arguments(Source, "source", required=False)
    with pytest.raises(RuntimeError) as error:
        parser.parse_args(["--source.path=scans"])
    assert (class_not_chosen(innermost_error(str(error.value))) or "").endswith(".Source")
    assert class_not_chosen("something else") is None


def test_an_unknown_option() -> None:
    assert unknown_option(error_of("--trainer.max_stepz=1")) == "trainer.max_stepz"
    config = '{"class_path": "EarlyStopping", "init_args": {"monitor": "a", "pationce": 3}}'
    assert unknown_option(error_of(f"--callback={config}")) == "pationce"
    assert unknown_option("something else") is None


def test_a_wrong_value() -> None:
    key, reason = wrong_value(error_of("--rank=x")) or ("", "")
    assert key == "rank"
    assert "int" in reason
    assert "x" in reason
    assert "<class" not in reason
    config = '{"class_path": "EarlyStopping", "init_args": {"monitor": "a", "patience": "long"}}'
    key, reason = wrong_value(error_of(f"--callback={config}")) or ("", "")
    assert key.endswith("patience")
    assert wrong_value("something else") is None


def test_the_subtype_that_was_meant() -> None:
    text = error_of("--limit=many")
    assert "Does not validate against any of the Union subtypes" not in text
    key, reason = wrong_value(text) or ("", "")
    assert key == "limit"
    assert "int" in reason


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (int | None, "it must be a whole number or null"),
        (float | None, "it must be a number or null"),
        (bool | Literal["auto"], "it must be true, false or auto"),
        (Literal["none", "all"] | Literal["auto"] | None, "it must be none, all, auto or null"),
    ],
    ids=str,
)
def test_a_value_of_several_types_is_explained_by_what_is_allowed(kind: Any, allowed: str) -> None:
    parser = Raising()
    parser.add_argument("--own.value", type=kind)
    with pytest.raises(RuntimeError) as error:
        parser.parse_args(["--own.value=what"])
    assert wrong_value(" ".join(str(error.value).split())) == ("own.value", allowed)


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('Parser key "a": wrong', "a", "wrong"),
        ('Parser key "a": Parser key "b.c": Parser key "d": wrong', "a.b.c.d", "wrong"),
        ('Parser key "a": Expected a <class \'int\'>. Got value: x', "a", "Expected a int. Got value: x"),
        ('Parser key "a": Does not validate against any of the Union subtypes Subtypes: [int, Path] Errors: e',
         "a", "Does not validate against any of the Union subtypes Subtypes: [int, Path] Errors: e"),
        ('Parser key "a": Does not validate against any of the Union subtypes Subtypes: [str, bool] Errors: e',
         "a", "it must be a text, true or false"),
    ],
)  # fmt: skip
def test_keys_of_nested_parsers_are_joined(text: str, key: str, reason: str) -> None:
    found = wrong_value(text)
    assert found is not None
    assert found[0] == key
    assert found[1] == reason


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("error: unrecognized arguments: --data.sauce=x", "data.sauce"),
        ("unrecognized arguments: --a-b_c 3", "a-b_c"),
        ("Option 'x.y' is not accepted", "x.y"),
        ("No option 'z'", "z"),
        ("unrecognized arguments: word", None),
    ],
)
def test_options_that_do_not_exist_are_named(text: str, option: str | None) -> None:
    assert unknown_option(text) == option


@pytest.mark.parametrize(
    ("option", "path", "reason"),
    [
        ("callback", "nowhere.Mine", "No module named 'nowhere'"),
        ("callback", "deepsynth.types.Mine", "module 'deepsynth.types' has no attribute 'Mine'"),
        ("functions", "[nowhere.mine]", "No module named 'nowhere'"),
        ("functions", "[deepsynth.types.mine]", "module 'deepsynth.types' has no attribute 'mine'"),
    ],
)
def test_why_a_class_or_function_cannot_be_used_is_found(option: str, path: str, reason: str) -> None:
    assert unusable_path(error_of(f"--{option}={path}")) == (path.strip("[]"), reason)


def test_a_class_of_another_kind_is_found() -> None:
    assert other_base(error_of("--callback=deepsynth.types.Document")) == "Callback"
    assert other_base(error_of("--rank=many")) is None


def test_an_argument_that_a_class_needs_is_found() -> None:
    assert missing_argument(error_of("--callback=Needs")) == "folder"
    assert missing_argument(error_of("--rank=many")) is None


def test_an_error_without_a_union_is_as_it_was() -> None:
    assert innermost_error("anything\nat all") == "anything\nat all"
    union = "Does not validate against any of the Union subtypes\nSubtypes: [A, NoneType]\nErrors:\n"
    listed = f"{union}  - the first\n  - Expected a <class 'NoneType'>\nGiven value type: str"
    assert innermost_error(f'Parser key "a": {listed}') == 'Parser key "a": the first'
    assert innermost_error(listed) == "the first"


def test_choices_are_shown_once() -> None:
    parser = ArgumentParser(formatter_class=ChoicesHelpFormatter)
    parser.add_argument("--host", type=Literal["127.0.0.1", "::"], default="::", help="where to listen.")
    parser.add_argument("--port", type=int, default=80, help="of the host.")
    parser.add_argument("--file", type=Path, required=True, help="what to serve.")
    shown = " ".join(parser.format_help().split())
    assert "--host {127.0.0.1,::} where to listen. (default: ::)" in shown
    assert "--port PORT of the host. (type: int, default: 80)" in shown
    assert "--file FILE what to serve. (required, type: Path)" in shown
