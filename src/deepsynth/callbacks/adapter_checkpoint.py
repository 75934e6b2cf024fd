"""A plain peft folder beside the checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from deepsynth.io.files import atomic_folder, explain_write_errors
from deepsynth.modules import DeepSynthModule


class AdapterCheckpoint(Callback):
    """Writes the adapter as a plain peft folder beside each checkpoint, and the newest one as ``adapter``.

    ``checkpoints/best.ckpt`` gets ``checkpoints/best-adapter/``, which goes when Lightning removes the checkpoint. All
    of these folders load with plain ``peft.PeftModel.from_pretrained(base, folder)``. Each is put in its place when it
    is complete, so a run that dies while writing, or a disk that fills up, leaves the previous one. The command line
    adds this callback by itself.

    Example::

        callbacks+:
          - class_path: AdapterCheckpoint
            init_args: {folder: runs/mine/adapter}

    Args:
        folder: of the newest adapter; by default ``adapter`` in the trainer's root folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the trainer write an adapter after each checkpoint.

        Raises:
            TypeError: for a module that has no adapter.
        """
        if not isinstance(pl_module, DeepSynthModule):
            name = type(pl_module).__name__
            raise TypeError(f"AdapterCheckpoint writes the adapter of a DeepSynthModule; {name} is none")
        inner = trainer.strategy.checkpoint_io
        if isinstance(inner, _WithAdapter):  # the trainer was used before
            inner = inner.inner
        newest = Path(self.folder or Path(trainer.default_root_dir) / "adapter")
        trainer.strategy.checkpoint_io = _WithAdapter(inner, newest, pl_module.save_adapter)


class _WithAdapter(CheckpointIO):
    """Writes and removes adapters with the checkpoints of another CheckpointIO. Lightning calls it on rank zero."""

    def __init__(self, inner: CheckpointIO, newest: Path, save_adapter: Callable[[Path, Any], None]) -> None:
        self.inner = inner
        self.newest = newest
        self.save_adapter = save_adapter

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.inner.save_checkpoint(checkpoint, path, storage_options)

        trained = checkpoint["state_dict"]  # gathered, if it is sharded
        if "://" in str(path):  # beside a file in a bucket there is no folder
            self.save_adapter(self.newest, trained)
            return
        beside = _beside(path)
        self.save_adapter(beside, trained)
        with explain_write_errors(self.newest, "the adapter"), atomic_folder(self.newest) as new:
            shutil.copytree(beside, new, dirs_exist_ok=True)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        self.inner.remove_checkpoint(path)
        shutil.rmtree(_beside(path), ignore_errors=True)

    def teardown(self) -> None:
        self.inner.teardown()


def _beside(path: Any) -> Path:
    """Return the folder of the adapter that belongs to a checkpoint."""
    file = Path(path)
    return file.with_name(f"{file.stem}-adapter")
