"""Imports on first use, so that nobody waits for what they do not need, and how to install what is optional."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType


def importing(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__``, which imports a name from its home.

    Args:
        package: its name.
        homes: the module of each name.
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    Args:
        extra: a name in ``project.optional-dependencies`` of pyproject.toml.
    """
    return f"pip install 'deepsynth-ocr[{extra}]'"


def import_all(package: ModuleType) -> None:
    """Import all public names of a package."""
    for name in package.__all__:
        getattr(package, name)
