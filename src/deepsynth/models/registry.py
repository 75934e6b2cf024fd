"""The models that DeepSynth supports: their names, files and families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.models.tokens import Family

#: Folders of the models in this package, by the name a user types. The full-size ones hold architecture and processor
#: without weights, for measurements with ``weights: random``.
BUILTIN: dict[str, str] = {
    "deepsynth/tiny": "tiny",
    "deepsynth/tiny-random": "tiny_random",
    "deepsynth/full-size-ocr": "full_size_ocr",
    "deepsynth/full-size-ocr-2": "full_size_ocr_2",
}

#: The published repository of each family. A family is named by the ``model_type`` of its configuration.
PUBLISHED: dict[Family, str] = {
    "deepseek_ocr": "deepseek-ai/DeepSeek-OCR",
    "deepseek_ocr2": "deepseek-community/DeepSeek-OCR-2",
}


def resolve_model_name(model_name: str) -> str:
    """Return the folder of a built-in model, and any other name (a local folder, a Hub repository) as it is.

    Raises:
        UserError: for a ``deepsynth/…`` name that is not in the package, and for a path that does not exist.
    """
    if model_name in BUILTIN:
        return str(Path(__file__).parent / "builtin" / BUILTIN[model_name])
    if model_name.startswith("deepsynth/"):
        raise UserError(f"model_name is {model_name!r}; it must be one of {', '.join(sorted(BUILTIN))}")
    looks_like_path = model_name.startswith((".", "/", "~")) or model_name.count("/") != 1
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        return str(folder)
    if looks_like_path:
        raise UserError(
            f"model_name is {model_name!r}, which is not a folder; it must be a folder with config.json, a Hub "
            f"repository (owner/name) or one of {', '.join(sorted(BUILTIN))}"
        )
    return model_name


def load_pretrained(auto_class: Any, model_name: str, **kwargs: Any) -> Any:
    """Return ``auto_class.from_pretrained`` of a model name, a model in one dtype.

    Args:
        auto_class: ``AutoConfig``, ``AutoProcessor`` or ``AutoModelForImageTextToText``.
        model_name: a built-in model, a local folder or a Hub repository.
        kwargs: for ``from_pretrained``.

    Raises:
        UserError: when the files are missing or cannot be downloaded.
    """
    from deepsynth.compat.transformers import unify_dtype
    from deepsynth.models.deepseek_ocr.registration import register

    register()
    try:
        loaded = auto_class.from_pretrained(resolve_model_name(model_name), **kwargs)
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model_name {model_name!r} cannot be loaded: {reason} (a folder with the model's files works offline)"
        ) from error
    return unify_dtype(loaded) if hasattr(loaded, "named_parameters") else loaded


def family_of(config: Any) -> Family:
    """Return the family of a model's configuration.

    Args:
        config: as ``AutoConfig.from_pretrained`` returns it.

    Raises:
        UserError: for any other model, with the list of supported ones.
    """
    found = getattr(config, "model_type", None)
    for family in PUBLISHED:
        if family == found:
            return family
    listed = ", ".join([*(f"{name} ({family})" for family, name in PUBLISHED.items()), *sorted(BUILTIN)])
    raise UserError(f"the model's type is {found!r}; it must be one of {listed}")
