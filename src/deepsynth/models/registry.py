"""Where a model's files are: built-in names, local folders, Hub repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Models that the package carries, by the name a user types. The full-size ones are architecture and processor without
#: weights, for measurements with ``weights: random``.
BUILTIN: dict[str, str] = {
    "deepsynth/tiny": "tiny",
    "deepsynth/tiny-random": "tiny_random",
    "deepsynth/full-size-ocr": "full_size_ocr",
    "deepsynth/full-size-ocr-2": "full_size_ocr_2",
}


def resolve_model_name(model_name: str) -> str:
    """Return the folder of a built-in model, and any other name (a local folder, a Hub repository) as it is.

    Raises:
        ValueError: for a ``deepsynth/…`` name that the package does not carry, and for a path that does not exist.
    """
    if model_name in BUILTIN:
        return str(Path(__file__).parent / "builtin" / BUILTIN[model_name])
    if model_name.startswith("deepsynth/"):
        raise ValueError(f"model_name is {model_name!r}; the built-in models are {', '.join(sorted(BUILTIN))}")
    looks_like_path = model_name.startswith((".", "/", "~")) or model_name.count("/") != 1
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        return str(folder)
    if looks_like_path:
        raise ValueError(
            f"model_name is {model_name!r}, which is no folder; give a folder with config.json, a Hub repository "
            f"(owner/name) or one of {', '.join(sorted(BUILTIN))}"
        )
    return model_name


def load_pretrained(auto_class: Any, model_name: str, **kwargs: Any) -> Any:
    """Return ``auto_class.from_pretrained`` of a model name.

    Args:
        auto_class: AutoConfig, AutoProcessor, AutoModelForImageTextToText.
        model_name: a built-in model, a local folder or a Hub repository.
        kwargs: for ``from_pretrained``.

    Raises:
        ValueError: when the files are not there or cannot be had, with the name.
    """
    import deepsynth.models  # noqa: F401  registers the native classes

    try:
        return auto_class.from_pretrained(resolve_model_name(model_name), **kwargs)
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model_name {model_name!r} cannot be loaded: {reason} (a folder with the model's files works offline)"
        ) from error
