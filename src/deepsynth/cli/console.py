"""The log on the terminal: lines of this package and of Lightning, without those that no user can act on."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
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
    # Steps are counted over epochs: of a small set, every tenth step of the run is logged.
    ("lightning.pytorch.loops.fit_loop", r"The number of training batches .* is smaller than the logging interval"),
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
#: Lines of the libraries' logs that advertise, repeat what the next line says, or name a choice of this package, each
#: with the module that writes it.
KNOWN_CHATTER = (
    ("lightning.pytorch.trainer.connectors.callback_connector", "Tip: For seamless cloud uploads"),
    ("lightning.pytorch.trainer.connectors.logger_connector.logger_connector", "Tip: For seamless cloud logging"),
    ("lightning.pytorch.trainer.setup", "TPU available: False"),
    ("lightning.pytorch.trainer.trainer", "Loading `train_dataloader` to estimate number of stepping batches"),
    ("lightning.pytorch.loops.fit_loop", "`Trainer.fit` stopped: `max_"),  # the plan has it
    ("lightning.fabric.utilities.seed", "Seed set to "),  # config.yaml has it
    ("lightning.pytorch.trainer.connectors.checkpoint_connector", "Restoring states from the checkpoint path"),
    ("lightning.fabric.accelerators.cuda", "that has Tensor Cores. To properly"),  # products of float32 stay exact
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community"),  # an option
    ("transformers.tokenization_utils_base", "Token indices sequence length is longer than"),  # data.max_tokens checks
)
#: The loggers that these lines go through.
_CHATTY_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "bitsandbytes.backends.cpu.ops",
    "transformers.tokenization_utils_base",
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
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).addFilter(_is_news)
    warnings.formatwarning = _format_warning
    for _, message in (*KNOWN_NOISE, *(() if trains else NOISE_WITHOUT_TRAINING)):
        warnings.filterwarnings("ignore", message=message)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for _, text in KNOWN_CHATTER)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as one line; those of other libraries keep the place that they come from."""
    text = visible(" ".join(str(message).split()))
    ours = category is UserWarning and ("/deepsynth/" in filename or "/lightning/" in filename)
    return f"warning: {text}\n" if ours else f"{filename}:{lineno}: {category.__name__}: {text}\n"


@contextmanager
def quiet() -> Iterator[None]:
    """Show warnings and errors alone within the block."""
    loggers = [logging.getLogger(name) for name in ("deepsynth", "lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


#: Loggers of Lightning that need a package of their own, with its name for Python and for pip.
_LOGGER_PACKAGES = {
    "WandbLogger": ("wandb", "wandb"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "CometLogger": ("comet_ml", "comet-ml"),
    "NeptuneLogger": ("neptune", "neptune"),
    "LitLogger": ("litlogger", "litlogger"),
}


def check_loggers(loggers: Any) -> None:
    """Refuse a logger whose package is missing, before the parser does without naming it.

    Args:
        loggers: ``trainer.logger`` of the parsed configuration.

    Raises:
        UserError: with the package.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        path = getattr(logger, "class_path", "")
        module, package = _LOGGER_PACKAGES.get(str(path).rpartition(".")[2], ("", ""))
        if module and find_spec(module) is None:
            raise UserError(
                f"trainer.logger is {path.rpartition('.')[2]}, which needs {package}: pip install {package}"
            )


def check_weights(model: Any, subcommand: str | None, checkpoint: str | None) -> None:
    """Say when the weights are random, or when a prediction is the untuned model's.

    Args:
        model: the module, nothing loaded yet.
        subcommand: of the Trainer.
        checkpoint: ``--ckpt_path``.
    """
    untuned = subcommand == "predict" and not checkpoint and model.adapter is None
    if untuned:
        rank_zero_info(f"predicting with {model.model_name} without fine-tuning: no --ckpt_path is given")
    if model.adapter is None and (model.weights == "random" or model.model_name == "deepsynth/tiny-random"):
        rank_zero_warn(
            f"{model.model_name} has random weights and is only for tests: choose a model with --model.model_name"
            + (", or an adapter with --ckpt_path" if untuned else "")
        )


def results(trainer: Any) -> list[str]:
    """Return the last lines of a fit: the error of its validations, and where its files are."""
    lines = []
    last = trainer.callback_metrics.get("val/cer")
    best = next((one for one in trainer.checkpoint_callbacks if one.monitor == "val/cer" and one.best_model_path), None)
    if last is not None:
        line = f"character error rate (val/cer): {float(last):.4f} after the last step"
        if best is not None and best.best_model_score is not None:
            line += f"; best {float(best.best_model_score):.4f}: {_relative(best.best_model_path)}"
        lines.append(line)
    lines.append(f"run folder: {trainer.default_root_dir}")
    report = Path(trainer.default_root_dir) / "report.html"
    return [*lines, f"report: {report}"] if report.is_file() else lines


def progress_bar(trainer: Any, given: Sequence[Callback]) -> list[Callback]:
    """Return the progress bar, unless it is switched off or given.

    It comes before the other callbacks: it is closed before they write their last lines, or it would be drawn again
    after each of them.

    Args:
        trainer: the trainer's part of the configuration.
        given: the user's callbacks.
    """
    wanted = trainer.get("enable_progress_bar") is not False and not any(isinstance(own, ProgressBar) for own in given)
    return [TQDMProgressBar()] if wanted else []


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


def _relative(path: str) -> str:
    """Return a path as seen from the current folder, if it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
