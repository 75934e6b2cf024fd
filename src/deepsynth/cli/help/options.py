"""All options of a run, taken from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
from lightning.pytorch import Trainer

import deepsynth.callbacks
import deepsynth.data
from deepsynth.data import Augmenter, Processor, Renderer, Source, TextImageDataModule
from deepsynth.lazy_imports import import_all
from deepsynth.modules import DeepSynthModule, FullModule, PeftModule, UnslothModule

# The classes that an option may name are found once they are imported.
import_all(deepsynth.data)

#: How values of plain types are written.
_TYPE_NAMES = {"str": "TEXT", "int": "N", "float": "NUMBER", "bool": "true|false", "Path": "PATH", "dict": "MAP"}


@dataclass(frozen=True)
class Option:
    """An option of the command line.

    Attributes:
        key: whole name, such as ``model.lora.rank``.
        kind: what its value may be, in short.
        default: as it would be written; "" where there is none.
        text: description.
    """

    key: str
    kind: str
    default: str
    text: str


def module_options() -> list[Option]:
    """Return the options below ``model``, those of the default backend first."""
    found = {option.key: option for option in options_of(PeftModule, "model")}
    for backend in (UnslothModule, FullModule):
        for option in options_of(backend, "model"):
            found.setdefault(option.key, option)
    return list(found.values())


def optimizer_options() -> list[Option]:
    """Return the options of the default optimizer."""
    from deepsynth.modules.optim import FusedAdamW

    return options_of(FusedAdamW, "model.optimizer", leave_out=("params",))


def data_options() -> list[Option]:
    """Return the options below ``data``."""
    return options_of(TextImageDataModule, "data")


def trainer_options() -> list[Option]:
    """Return the options of Lightning's Trainer."""
    return options_of(Trainer, "trainer")


def class_options() -> dict[str, tuple[str, type, list[Option]]]:
    """Return, by its short name, each class that an option may name, with that option's key and its own options."""
    found: dict[str, tuple[str, type, list[Option]]] = {}
    bases = {"data.source": Source, "data.renderer": Renderer, "data.augmenter": Augmenter, "data.processor": Processor}
    for key, base in bases.items():
        for leaf in concrete_classes(base):
            if leaf.__module__.startswith("deepsynth."):
                found[leaf.__name__] = (key, leaf, options_of(leaf, key))
    for name in deepsynth.callbacks.__all__:
        callback: type = vars(deepsynth.callbacks)[name]
        found[name] = ("trainer.callbacks", callback, options_of(callback, "trainer.callbacks"))
    return found


@cache
def all_options() -> dict[str, Option]:
    """Return every option by its whole name."""
    groups = [module_options(), optimizer_options(), data_options(), trainer_options()]
    groups += [options for _, _, options in class_options().values()]
    found: dict[str, Option] = {}
    for option in (option for group in groups for option in group):
        found.setdefault(option.key, option)
    for name, text in (
        ("config", "configuration: a file, or the name of a shipped one"),
        ("ckpt_path", "checkpoint, run or adapter to start from"),
        ("run_name", "name of the run's folder"),
        ("seed_everything", "seed of everything random"),
    ):
        found[name] = Option(name, "TEXT", "", text)
    return found


def class_names() -> list[str]:
    """Return the short names of all classes of the package that a configuration may name."""
    backends = [leaf.__name__ for leaf in concrete_classes(DeepSynthModule)]
    return sorted({*class_options(), *backends, TextImageDataModule.__name__})


def concrete_classes(base: type) -> list[type]:
    """Return a class and its subclasses, abstract ones left out."""
    found: list[type] = [] if inspect.isabstract(base) else [base]
    subclasses: list[type] = base.__subclasses__()
    return found + [leaf for subclass in subclasses for leaf in concrete_classes(subclass)]


def options_of(owner: type, prefix: str, leave_out: tuple[str, ...] = ()) -> list[Option]:
    """Return the options of a class: the parameters of its signature and, where it hands on the rest, of its bases.

    Args:
        owner: class; groups of settings among its parameters give options of their own.
        prefix: of the keys.
        leave_out: names of parameters that are no options.
    """
    found: dict[str, Option] = {}
    for base in owner.__mro__:
        parameters = inspect.signature(base).parameters.values()
        types, texts = _type_hints(base), _descriptions(base)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in leave_out:
                continue
            key, kind = f"{prefix}.{parameter.name}", types.get(parameter.name, parameter.annotation)
            group = _settings_group(kind)
            for option in options_of(group, key) if group else [_option(key, kind, parameter, texts)]:
                found.setdefault(option.key, option)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return list(found.values())


def first_line(owner: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(owner) or "").partition("\n")[0]


def kind_of(annotation: Any) -> str:
    """Return what a value of a type is written as: ``N``, ``true|false``, ``a|b|c``, …."""
    if isinstance(annotation, str):
        return _TYPE_NAMES.get(annotation, annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (Union, UnionType):
        return "|".join(dict.fromkeys(kind_of(part) for part in parts if part is not NoneType))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable) and parts:
        inner = dict.fromkeys(kind_of(part) for part in parts if part is not Ellipsis)
        return f"[{', '.join(inner)}, …]" if Ellipsis in parts or origin is not tuple else _bracket(parts)
    name = getattr(annotation, "__name__", str(annotation).rpartition(".")[2])
    return _TYPE_NAMES.get(name, "CLASS" if name in ("Callable", "OptimizerCallable") else name)


def _bracket(parts: tuple[Any, ...]) -> str:
    return f"[{', '.join(kind_of(part) for part in parts)}]"


def _option(key: str, kind: Any, parameter: inspect.Parameter, texts: dict[str, str]) -> Option:
    default = "" if parameter.default in (parameter.empty, None) else _written(parameter.default)
    return Option(key, kind_of(kind), default, texts.get(parameter.name, ""))


def _written(value: Any) -> str:
    """Return a default as YAML would have it; "" for what has no short form."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    return str(value) if isinstance(value, (str, int, float)) else ""


def _settings_group(kind: Any) -> type | None:
    """Return the class whose fields are options below an option, if a type is one or may be one."""
    candidates = [part for part in get_args(kind) if part is not NoneType] if get_args(kind) else [kind]
    group = candidates[0] if len(candidates) == 1 else None
    named = (Source, Renderer, Augmenter, Processor)  # their classes are chosen by name
    if isinstance(group, type) and is_dataclass(group) and not issubclass(group, named):
        return group
    return None


def _type_hints(owner: type) -> dict[str, Any]:
    constructor = next(vars(base)["__init__"] for base in owner.__mro__ if "__init__" in vars(base))
    try:
        return get_type_hints(owner if is_dataclass(owner) else constructor)
    except NameError:  # a type that is imported for type checkers alone is shown as it is written
        return {}


def _descriptions(owner: type) -> dict[str, str]:
    """Return the description of each parameter or attribute of a class and of its bases, as plain text."""
    found: dict[str, str] = {}
    for base in (base for base in owner.__mro__ if base.__module__.partition(".")[0] in ("deepsynth", "lightning")):
        for param in docstring_parser.parse(inspect.cleandoc(base.__doc__ or "")).params:
            found.setdefault(param.arg_name, _plain(param.description or ""))
    return found


def _plain(text: str) -> str:
    """Return a docstring's text without its markup, on one line."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").split())
