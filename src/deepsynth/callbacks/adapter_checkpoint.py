"""A plain peft folder beside the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class AdapterCheckpoint(Callback):
    """Writes ``<folder>`` whenever a checkpoint is saved: it always holds the adapter of the newest one.

    The folder loads with plain ``peft.PeftModel.from_pretrained(base, folder)``. It is replaced whole, so a run that
    dies while writing leaves the previous one. The command line adds this callback by itself.

    Example::

        callbacks+:
          - class_path: AdapterCheckpoint
            init_args: {folder: runs/mine/adapter}

    Args:
        folder: by default ``adapter`` in the trainer's root folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the folder on rank zero."""
        if trainer.is_global_zero:
            pl_module.save_adapter(Path(self.folder or Path(trainer.default_root_dir) / "adapter"))
