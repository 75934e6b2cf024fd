"""The subcommands beside the Trainer's: each parses its own few options and calls one function of the package."""

from __future__ import annotations

from collections.abc import Callable

COMMANDS: dict[str, Callable[[list[str]], int]] = {}
