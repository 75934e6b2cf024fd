"""The models that DeepSynth supports: their names, files and families."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from deepsynth.errors import UserError
from deepsynth.models import families
from deepsynth.models.family import Family
from deepsynth.models.reachability import REMEMBERED_S, hub_options

#: Folders of the models in this package, by the name a user types. The full-size ones hold architecture and processor
#: without weights, for measurements with ``weights: random``.
BUILTIN: dict[str, str] = {
    "deepsynth/tiny": "tiny",
    "deepsynth/tiny-random": "tiny_random",
    "deepsynth/full-size-ocr": "full_size_ocr",
    "deepsynth/full-size-ocr-2": "full_size_ocr_2",
    "deepsynth/full-size-paddleocr-vl": "full_size_paddleocr_vl",
    "deepsynth/full-size-glm-ocr": "full_size_glm_ocr",
    "deepsynth/full-size-qwen2.5-vl": "full_size_qwen2_5_vl",
    "deepsynth/full-size-qwen3-vl": "full_size_qwen3_vl",
}

#: How transformers 5.17 begins to name libraries that an image processor needs, in a ``ValueError``.
_MISSING = "Missing optional dependencies"


def _find_families() -> dict[str, Family]:
    """Return the family of every file in ``models/families``, by name; the generic one is asked last."""
    names = sorted(module.name for module in iter_modules(families.__path__))
    found = [import_module(f"{families.__name__}.{name}").FAMILY for name in names]
    return {family.name: family for family in sorted(found, key=lambda family: not family.model_types)}


#: What DeepSynth knows of each kind of model, by name.
FAMILIES: dict[str, Family] = _find_families()


def resolve_model_name(model_name: str) -> str:
    """Return the folder of a built-in model, and any other name (a local folder, a Hub repository) as it is.

    Raises:
        UserError: for a ``deepsynth/…`` name that is not in the package, a path that does not exist, and a folder
            without a model's configuration.
    """
    if model_name in BUILTIN:
        return str(Path(__file__).parent / "builtin" / BUILTIN[model_name])
    if model_name.startswith("deepsynth/"):
        raise UserError(f"model_name is {model_name!r}; it must be one of {', '.join(sorted(BUILTIN))}")
    looks_like_path = model_name.startswith((".", "/", "~")) or model_name.count("/") != 1
    folder = Path(model_name).expanduser()
    if model_name and folder.is_dir():  # an empty path is the current folder
        if (folder / "config.json").is_file():
            return str(folder)
        fault = "a folder without config.json"
        if (folder / "adapter_config.json").is_file():
            fault = "an adapter's folder; give that as --ckpt_path"
    elif looks_like_path:
        fault = "which is not a folder"
    else:
        return model_name
    raise UserError(
        f"model_name is {model_name!r}, {fault}; it must be a folder with config.json, a Hub repository (owner/name) "
        f"or one of {', '.join(sorted(BUILTIN))}"
    )


def load_pretrained(auto_class: Any, model_name: str, **kwargs: Any) -> Any:
    """Return ``auto_class.from_pretrained`` of a model name, a model in one dtype.

    A model is data: code that comes with it is never run, and weights are read from safetensors alone.

    Configurations and processors are read once, as a run asks for them several times; each caller gets a copy.

    Args:
        auto_class: ``AutoConfig``, ``AutoProcessor`` or ``AutoModelForImageTextToText``.
        model_name: a built-in model, a local folder or a Hub repository.
        kwargs: for ``from_pretrained``.

    Raises:
        UserError: when the files are missing or cannot be downloaded, or when only its own remote code could load it.
    """
    from deepsynth.compat.transformers import unify_dtype
    from deepsynth.models.deepseek_ocr.registration import register as register_deepseek_ocr
    from deepsynth.models.unlimited_ocr.registration import register as register_unlimited_ocr

    register_deepseek_ocr()
    register_unlimited_ocr()
    source = resolve_model_name(model_name)
    hub = {} if Path(source).is_dir() else hub_options(source)
    if auto_class.__name__ == "AutoProcessor":
        auto_class = family_of_model(model_name).processor_class() or auto_class
    if not auto_class.__name__.startswith("AutoModel"):
        if kwargs:
            return _from_pretrained(auto_class, model_name, source, kwargs | hub)
        return deepcopy(_read_once(auto_class, model_name, source, tuple(hub.items()), _state_of(source)))
    if "config" not in kwargs:
        from transformers import AutoConfig

        kwargs["config"] = load_pretrained(AutoConfig, model_name)
    return unify_dtype(_from_pretrained(auto_class, model_name, source, kwargs | hub | {"use_safetensors": True}))


def _state_of(source: str) -> Any:
    """Return a value that is another once files of a model have changed; of the Hub's, it is another every minute."""
    folder = Path(source)
    if not folder.is_dir():
        return time.monotonic() // REMEMBERED_S
    found = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # removed since, or a link to nothing
            found.append((file.name, file.stat().st_mtime_ns, file.stat().st_size))
    return tuple(sorted(found))


@lru_cache(maxsize=16)
def _read_once(auto_class: Any, model_name: str, source: str, hub: tuple[tuple[str, Any], ...], state: Any) -> Any:
    """Return a configuration or a processor, which nobody may change; ``state`` says which of its files it is of."""
    return _from_pretrained(auto_class, model_name, source, dict(hub))


def _from_pretrained(auto_class: Any, model_name: str, source: str, kwargs: dict[str, Any]) -> Any:
    """Return what ``auto_class`` loads, its errors as those of the user."""
    try:
        if auto_class.__name__ == "AutoConfig":
            _refuse_kernels(model_name, source, kwargs)
        with _without_bar(source):
            return auto_class.from_pretrained(source, trust_remote_code=False, **kwargs)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if _MISSING in str(error):
            raise _lacks_library(model_name, source, f"{_MISSING}{str(error).partition(_MISSING)[2]}") from error
        if "trust_remote_code" not in str(error):
            if auto_class.__name__ != "AutoConfig":
                raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"model_name {model_name!r} cannot be loaded: config.json: {reason}") from error
        raise UserError(
            f"model_name is {model_name!r}, a model with remote code, which DeepSynth never runs; it must be one "
            f"of {_supported()}, or one fine-tuned from them"
        ) from None
    except ImportError as error:
        raise _lacks_library(model_name, source, str(error)) from error
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model_name {model_name!r} cannot be loaded: {reason} (a folder with the model's files works offline)"
        ) from error


def _lacks_library(model_name: str, source: str, message: str) -> UserError:
    """Return the error for a library that transformers needs for a model and names, in a paragraph.

    The type of the model is said where its folder is there.
    """
    config = Path(source, "config.json")
    kind = f" ({json.loads(config.read_text()).get('model_type')})" if config.is_file() else ""
    reason = " ".join(message.split()).partition(". ")[0]
    return UserError(
        f"model_name {model_name!r}{kind} cannot be loaded: {reason}; install that library, or use another model"
    )


@contextmanager
def _without_bar(source: str | Path) -> Iterator[None]:
    """Show no progress bar while a model of this package is loaded, which takes no time."""
    from transformers.utils import logging

    hidden = Path(source).is_relative_to(Path(__file__).parent) and logging.is_progress_bar_enabled()
    if hidden:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            logging.enable_progress_bar()


def _refuse_kernels(model_name: str, source: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a configuration that chooses kernels of the Hub, which transformers would download and run.

    Raises:
        UserError: with the key and its value.
    """
    from transformers import PretrainedConfig

    hub = {name: kwargs[name] for name in ("local_files_only", "revision", "token") if name in kwargs}
    settings, _ = PretrainedConfig.get_config_dict(source, **hub)
    todo: list[tuple[str, Any]] = list(settings.items())
    while todo:
        key, value = todo.pop()
        if isinstance(value, Mapping):
            chosen = "_implementation" in key
            todo += [(f"{key}.{inner}" if chosen else inner, found) for inner, found in value.items()]
        elif "_implementation" in key and "/" in str(value):
            raise UserError(
                f"model_name is {model_name!r}, whose config.json has {key} {value!r}: a kernel, which is code that "
                "DeepSynth never runs; remove the line from a copy of the folder"
            )


def family_of(config: Any) -> Family:
    """Return the family of a model's configuration.

    Args:
        config: as ``AutoConfig.from_pretrained`` returns it, or of a loaded model.

    Raises:
        UserError: for any other model, with the list of supported ones.
    """
    for family in FAMILIES.values():
        if family.matches(config):
            return family
    listed = ", ".join(getattr(config, "architectures", None) or []) or "no architectures"
    raise UserError(
        f"the model's type is {getattr(config, 'model_type', None)!r} ({listed}); it must be one of {_supported()}, or "
        "another image-text-to-text model of transformers with a decoder and a chat template"
    )


def family_of_model(model_name: str) -> Family:
    """Return the family of a model by its name; its configuration is read.

    Raises:
        UserError: when it cannot be loaded, or is no model that DeepSynth can use.
    """
    from transformers import AutoConfig

    return family_of(load_pretrained(AutoConfig, model_name))


def _supported() -> str:
    known = [f"{model.repository} ({family.name})" for family in FAMILIES.values() for model in family.published[:1]]
    return ", ".join([*known, *sorted(BUILTIN)])
