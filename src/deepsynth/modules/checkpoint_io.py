"""How a checkpoint reaches the disk, complete or not at all, and how it is read back."""

from __future__ import annotations

import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from deepsynth.compat.torch import killed_worker
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, reason_and_remedy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file that it replaces, and renames when all is on the disk.

    Lightning's own class writes into the folder for temporary files and moves from there; onto another file system
    that is a copy over the previous checkpoint, and a disk that fills up meanwhile leaves neither. A module of
    DeepSynth puts this class in its place; it can also be given as ``Trainer(plugins=AtomicCheckpointIO())``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; addresses with a protocol are left to Lightning.

        Raises:
            UserError: when the disk is full or the folder cannot be written; what was at ``path`` is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with atomic_file(Path(path)) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer hides what the disk said: an OSError is the context of its RuntimeError.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError) or killed_worker(error):  # which arrives amid whatever is being done
                raise
            why = reason_and_remedy(reason, "another trainer.default_root_dir")
            raise UserError(f"{path}: the checkpoint cannot be written {why}") from reason


def write_atomically(trainer: Trainer) -> None:
    """Have a trainer write checkpoints by :class:`AtomicCheckpointIO`, unless it was given another way."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def read_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint's dictionary on the CPU, without running code from it.

    Raises:
        UserError: for a file that is missing, cut, or no checkpoint of DeepSynth.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--ckpt_path is {path!r}, and there is no such file")
    try:
        checkpoint = torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it all the same.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names {named[1]}" if named else "it is damaged, or no checkpoint"
        raise UserError(
            f"--ckpt_path {path!r} cannot be loaded: {what}; a checkpoint holds tensors and plain values, and nothing "
            "in it is run"
        ) from error
    except (EOFError, OSError, RuntimeError, ValueError, LookupError, struct.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"--ckpt_path {path!r} is truncated or not a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "deepsynth" not in checkpoint:
        raise UserError(f"--ckpt_path {path!r} was not written by DeepSynth: it has no 'deepsynth' entry")
    return checkpoint
