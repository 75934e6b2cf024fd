"""Private parts of peft that the package relies on, and why no public one serves."""

from __future__ import annotations

from typing import Any

from torch import nn


def register_custom_module(config: Any, kind: type[nn.Module], layer: type[nn.Module]) -> None:
    """Have peft put its adapter class ``layer`` on modules of ``kind``.

    peft documents the method under its private name: which layers it adapts is no field of a configuration.
    """
    config._register_custom_module({kind: layer})
