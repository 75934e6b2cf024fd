"""Import Unsloth before transformers, in a run that asks for it: it patches what it finds, and wants to be first.

Nothing here imports more than the standard library and yaml, so that other runs do not wait.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

_MODULE = "UnslothModule"


def asks_for_unsloth(args: Sequence[str]) -> bool:
    """Return whether the last word about the model's class names UnslothModule.

    Args:
        args: of the command line, configuration files among them, later ones winning.
    """
    chosen = ""
    words = iter(args)
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("--config", "-c", "--model", "--model.class_path"):
            continue
        value = value if equals else next(words, "")
        if key in ("--config", "-c"):
            chosen = _class_in(Path(value)) or chosen
        elif not value.startswith(("{", "[")):
            chosen = value
        else:
            chosen = _class_of(_parsed(value)) or chosen
    return chosen.rpartition(".")[2] == _MODULE


def import_unsloth_first(args: Sequence[str]) -> None:
    """Import Unsloth if the run asks for it and it can be; the module itself says why it cannot.

    Args:
        args: of the command line.
    """
    if not asks_for_unsloth(args) or "--print_config" in args or not importlib.util.find_spec("unsloth"):
        return
    import torch

    if not torch.cuda.is_available():
        return
    prepare_environment(os.environ)
    try:
        import unsloth  # noqa: F401
    except (ImportError, NotImplementedError, RuntimeError):
        return  # UnslothModule imports it again, and turns the reason into a line


def prepare_environment(variables: MutableMapping[str, str]) -> None:
    """Set what Unsloth reads while it is imported; what is set already stays.

    It writes generated code into the working directory, and asks the Hub for files whose downloads count its users,
    which waits for a network that may not be there.

    Args:
        variables: of the process.
    """
    folder = Path(variables.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "deepsynth" / "unsloth"
    variables.setdefault("UNSLOTH_COMPILE_LOCATION", str(folder))
    variables.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")


def _class_in(file: Path) -> str:
    """Return the model's class that a configuration file names, or nothing; the parser complains about bad files."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return ""
    config = _parsed(text) if "class_path" in text or _MODULE in text else None
    return _class_of(config.get("model")) if isinstance(config, dict) else ""


def _class_of(model: Any) -> str:
    if isinstance(model, dict):
        model = model.get("class_path")
    return model if isinstance(model, str) else ""


def _parsed(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
