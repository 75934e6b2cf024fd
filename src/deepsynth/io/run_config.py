"""What the ``config.yaml`` of a run says to those who use its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepsynth.errors import UserError


def run_of(folder: Path) -> Path:
    """Return the folder of the run that a folder of weights belongs to; of other weights their own."""
    folder = folder.resolve()
    if folder.parent.name == "checkpoints":
        return folder.parents[1]
    return folder.parent if folder.name == "adapter" else folder


def mode_of(run: Path) -> str | None:
    """Return the resolution that a run was trained with; ``None`` when it does not say.

    Raises:
        UserError: when its file cannot be read.
    """
    import yaml

    config = run / "config.yaml"
    if not config.is_file():
        return None
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{config}: cannot be read ({reason}); give --mode and move it away") from None
    data = _at(found, "data", "init_args")
    # A processor of the user's own has its own options.
    mode = _at(data, "mode") or _at(data, "processor", "init_args", "mode")
    return mode if isinstance(mode, str) else None


def _at(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings
