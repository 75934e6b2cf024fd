"""How a checkpoint reaches the disk, complete or not at all, and how it is read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file that it replaces, and renames when all is on the disk.

    Lightning's own class writes into the folder for temporary files and moves from there; onto another file system
    that is a copy over the previous checkpoint, and a disk that fills up meanwhile leaves neither. A module of
    DeepSynth puts this class in its place; it can also be given as ``Trainer(plugins=AtomicCheckpointIO())``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; addresses with a protocol are left to Lightning.

        Raises:
            OSError: when the disk is full or the folder cannot be written; what was at ``path`` is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch's writer hides what the disk said
            raise


def read_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint's dictionary on the CPU, without running code from it.

    Raises:
        ValueError: for a file that is missing, cut, or no checkpoint of DeepSynth.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"--ckpt_path is {path!r}, and there is no such file")
    try:
        checkpoint = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"--ckpt_path {path!r} is cut or no checkpoint: {' '.join(str(error).split())[:120]}"
        ) from error
    if not isinstance(checkpoint, dict) or "deepsynth" not in checkpoint:
        raise ValueError(f"--ckpt_path {path!r} was not written by DeepSynth: it has no 'deepsynth' entry")
    return checkpoint
