"""Removal of what must not leave this machine: access tokens, signed URLs, local paths."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r"\b(?:hf|xet|api)_[A-Za-z0-9_-]{20,}")
_URL_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
_ABSOLUTE = re.compile(r"(?:/|~|\.\.?/|file:|[A-Za-z]:[\\/]).*", re.DOTALL)
#: An absolute path within a text; a slash after a letter, a digit, ``:`` or ``/`` belongs to a URL or to "and/or".
_PATH_IN_TEXT = re.compile(r"(?<![\w:/.<])~?/(?:[\w.+@%-]+/)+[\w.+@%-]*")
#: Files in which every string is cleaned; in others only keys that name files, since a vocabulary holds slashes.
_OWN_FILES = ("deepsynth.json", "metrics.json")
_PATH_KEY = re.compile(r"(?:^|_)(?:path|file|dir|folder)$")


def redact(text: str) -> str:
    """Return the text without access tokens and without the signatures of URLs."""
    return _TOKEN.sub("<token>", _URL_QUERY.sub(r"\1", text))


def is_local_path(value: str) -> bool:
    """Return whether a string names a file or folder of this machine rather than a repository of the Hub."""
    if not value or "\n" in value:
        return False
    if _ABSOLUTE.fullmatch(value):
        return True
    try:
        return (os.sep in value or "." in value) and Path(value).exists()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def without_local_paths(value: Any) -> Any:
    """Return a copy of nested mappings, sequences and strings with every local path reduced to its last part."""
    if isinstance(value, Mapping):
        return {str(key): without_local_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_local_paths(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str):
        return Path(value).name if is_local_path(value) else clean_text(value)
    return value


def clean_text(text: str) -> str:
    """Return a text without tokens, signatures of URLs and absolute paths."""
    return redact(_PATH_IN_TEXT.sub(lambda found: Path(found[0]).name or "…", text))


def clean_json_files(folder: Path, base_model: str) -> None:
    """Remove local paths from the JSON files of an adapter's folder.

    Args:
        folder: adapter folder with adapter_config.json and the files of the processor.
        base_model: name of the base model in adapter_config.json; a local path becomes null.
    """
    for file in folder.glob("*.json"):
        if file.name in ("tokenizer.json", "vocab.json", "added_tokens.json"):
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            continue
        cleaned = without_local_paths(found) if file.name in _OWN_FILES else _clean_paths_by_key(found)
        if file.name == "adapter_config.json":
            cleaned["base_model_name_or_path"] = None if is_local_path(base_model) else base_model
        if cleaned != found:
            file.write_text(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _clean_paths_by_key(found: dict[str, Any]) -> dict[str, Any]:
    return {
        key: Path(value).name if isinstance(value, str) and _PATH_KEY.search(key) and is_local_path(value) else value
        for key, value in found.items()
    }
