"""What a run says on the terminal: our lines and the libraries', without those that no user can act on."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any

import torch
from tqdm import tqdm

#: Warnings between the libraries below, and about what this package does on purpose.
KNOWN_NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning about torch
    r"`is_gradient_checkpointing` is deprecated",  # peft about transformers
    r"The .* does not have many workers",  # rendering in the main process is a choice: data.num_workers
    r"It is recommended to use `self.log\('.*', ..., sync_dist=True\)`",  # every process logs the figures of all
    r"Total length of `list` across ranks is zero",  # a source that holds no validation documents out
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
)
#: The same, of commands that only read a checkpoint.
NOISE_OF_READING = (
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # they belong to training
)
#: Lines of Lightning's log that advertise, or say again what the next line says.
KNOWN_CHATTER = re.compile(r"Tip:|^TPU available: False|^Restoring states from the checkpoint path")


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records to standard error on lines of their own, also while a progress bar is on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take the bars away, write the record, and draw the bars again."""
        self.stream = sys.stderr  # as it is now: tests and notebooks put others in its place
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def prepare(*, reads_only: bool) -> None:
    """Send the log of this package and of Lightning to the terminal, one line a message, and drop known noise.

    Args:
        reads_only: no training: callbacks that a checkpoint knows are not missed.
    """
    logging.basicConfig(format="%(message)s", handlers=[LineHandler()])
    logging.getLogger("deepsynth").setLevel(logging.INFO)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        own = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
        for handler in own:
            logger.removeHandler(handler)
        if own:
            logger.addHandler(LineHandler())
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_news)
    for message in (*KNOWN_NOISE, *(NOISE_OF_READING if reads_only else ())):
        warnings.filterwarnings("ignore", message=message)


def _is_news(record: logging.LogRecord) -> bool:
    return not KNOWN_CHATTER.search(record.getMessage())


def check_accelerator(trainer: Any) -> None:
    """Refuse a GPU that is not there, before Lightning does without naming the key.

    Args:
        trainer: the trainer's part of the configuration.

    Raises:
        ValueError: with the key, and the two ways out.
    """
    asked = trainer.get("accelerator")
    found = torch.cuda.is_available() or (asked == "gpu" and torch.backends.mps.is_available())
    if asked in ("gpu", "cuda") and not found:
        raise ValueError(
            f"trainer.accelerator is {asked!r}, but PyTorch {torch.__version__} sees no GPU here: set "
            "trainer.accelerator to auto or cpu, or install a PyTorch with CUDA and NVIDIA's driver (nvidia-smi shows "
            "whether it works)"
        )
