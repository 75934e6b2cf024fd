"""The log on the terminal: lines of this package and of Lightning, without those that no user can act on."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import torch
from tqdm import tqdm

from deepsynth.errors import UserError
from deepsynth.io.text import visible

#: Warnings that no user can act on, each with the module that gives it: between the libraries, or about what this
#: package does on purpose. A test finds every text in its module.
KNOWN_NOISE = (
    ("torch.utils._pytree", r"`isinstance\(treespec, LeafSpec\)` is deprecated"),  # lightning calls torch
    ("transformers.modeling_utils", r"`is_gradient_checkpointing` is deprecated"),  # peft calls transformers
    # Rendering in the main process is a choice: data.num_workers.
    ("lightning.pytorch.trainer.connectors.data_connector", r"The .* does not have many workers"),
    # Every process logs the figures of all.
    (
        "lightning.pytorch.trainer.connectors.logger_connector.result",
        r"It is recommended to use `self.log\(.*, sync_dist=True\)`",
    ),
    ("lightning.pytorch.utilities.data", r"Total length of `list` across ranks is zero"),  # no validation documents
    ("lightning.pytorch.callbacks.model_checkpoint", r"Checkpoint directory .* exists and is not empty"),  # resumed
)
#: The same, for commands that only read a checkpoint: its callbacks belong to training.
NOISE_WITHOUT_TRAINING = (
    (
        "lightning.pytorch.trainer.call",
        r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    ),
)
#: Lines of Lightning's log that advertise, or repeat what the next line says.
KNOWN_CHATTER = (
    ("lightning.pytorch.trainer.connectors.callback_connector", "Tip: For seamless cloud uploads"),
    ("lightning.pytorch.trainer.connectors.logger_connector.logger_connector", "Tip: For seamless cloud logging"),
    ("lightning.pytorch.trainer.setup", "TPU available: False"),
    ("lightning.pytorch.trainer.connectors.checkpoint_connector", "Restoring states from the checkpoint path"),
)


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes records to standard error on lines of their own, also beside a progress bar."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ids and texts in it cannot command the terminal."""
        return visible(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the bars, write the record, and draw the bars again."""
        self.stream = sys.stderr  # as it is now: tests and notebooks put others in its place
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def prepare(*, trains: bool) -> None:
    """Send the log of this package and of Lightning to the terminal, one line a message, and drop known noise.

    Args:
        trains: whether the command trains; otherwise the callbacks of a checkpoint are not missed.
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
    for _, message in (*KNOWN_NOISE, *(() if trains else NOISE_WITHOUT_TRAINING)):
        warnings.filterwarnings("ignore", message=message)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for _, text in KNOWN_CHATTER)


def check_accelerator(trainer: Any) -> None:
    """Refuse a GPU that is not there, before Lightning does without naming the key.

    Args:
        trainer: the trainer's part of the configuration.

    Raises:
        UserError: with the key, and the two ways out.
    """
    asked = trainer.get("accelerator")
    found = torch.cuda.is_available() or (asked == "gpu" and torch.backends.mps.is_available())
    if asked in ("gpu", "cuda") and not found:
        raise UserError(
            f"trainer.accelerator is {asked!r}, but PyTorch {torch.__version__} sees no GPU here: set "
            "trainer.accelerator to auto or cpu, or install a PyTorch with CUDA and NVIDIA's driver (nvidia-smi shows "
            "whether it works)"
        )
