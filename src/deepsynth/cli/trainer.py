"""The Trainer's subcommands: LightningCLI with links between what must agree, and a run folder."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

import deepsynth.callbacks
import deepsynth.data
from deepsynth.callbacks import (
    AdapterCheckpoint,
    PredictionWriter,
    ProcessGuard,
    RunPlan,
    RunReport,
    SampleGallery,
    Throughput,
    VramMonitor,
)
from deepsynth.cli import console
from deepsynth.cli.errors import DeepSynthArgumentParser, one_line, wrapped_user_error
from deepsynth.cli.metrics_csv import MetricsCsv, RowsBeforeCheckpoints
from deepsynth.cli.named_checkpoint import take_checkpoint
from deepsynth.cli.run_folder import RunConfig, RunFolder, free_names, run_of
from deepsynth.data import TextImageDataModule
from deepsynth.distributed.ranks import launched_rank
from deepsynth.distributed.support import check_strategy_option
from deepsynth.errors import UserError
from deepsynth.hub.pull import is_reference, resolve_checkpoint
from deepsynth.io.paths import check_name
from deepsynth.lazy_imports import import_all
from deepsynth.modules import DeepSynthModule
from deepsynth.modules.adapter import adapter_settings
from deepsynth.modules.checkpoint_io import read_checkpoint
from deepsynth.modules.settings import ADAPTER_SHAPE, NOT_TAKEN_OVER, flat_settings, stored_settings

# A configuration may call a class by its bare name once it is imported.
import_all(deepsynth.data)


class DeepSynthCLI(LightningCLI):
    """``deepsynth fit | validate | test | predict``.

    Args:
        args: of the command line; by default ``sys.argv``.
        run: whether to run the subcommand that ``args`` begins with; without it ``args`` are options alone, and only
            the objects are made.
        parser_kwargs: of the parser.
    """

    _run_folder: RunFolder | None = None
    _asked_ckpt_path: str | None = None
    _first_step = 0  # the optimizer step that the run starts from

    def __init__(
        self, args: Sequence[str] | None = None, *, run: bool = True, parser_kwargs: dict[str, Any] | None = None
    ) -> None:
        try:
            super().__init__(
                DeepSynthModule,
                TextImageDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_callback=RunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                parser_class=DeepSynthArgumentParser,
                trainer_defaults={"default_root_dir": "runs", "log_every_n_steps": 10, "enable_model_summary": False},
                args=list(args) if args is not None else None,
                run=run,
                parser_kwargs=parser_kwargs,
            )
        except BaseException:
            trainer: Trainer | None = getattr(self, "trainer", None)
            if self._run_folder and (trainer is None or trainer.global_step in (0, self._first_step)):
                # So that the next run can have its name. What a fit logs before a step is its learning rate.
                self._run_folder.discard_start(started=("metrics.csv",) if self.subcommand == "fit" else ())
            raise
        finally:
            if data := getattr(self, "datamodule", None):  # after an error, Lightning calls no teardown of the data
                data.workers.close()
            if self._run_folder:
                self._run_folder.release()

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the Trainer's methods that are subcommands, with the arguments that the CLI fills."""
        loaders = {"model", "dataloaders", "datamodule"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": loaders,
            "test": loaders,
            # Predictions go to a file as they come; in memory they would grow with the data.
            "predict": loaders | {"return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what must agree, and name the run."""
        parser.set_defaults(
            {"model": {"class_path": "deepsynth.modules.PeftModule"}, "data": {"class_path": "TextImageDataModule"}}
        )
        parser.link_arguments("model.init_args.model_name", "data.init_args.model_name")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the folder below trainer.default_root_dir; by default the stem of the first config.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``, and merge the settings of a checkpoint into them.

        Lightning's own warns whenever ``args`` are passed from Python, and merges a checkpoint's settings over those of
        the command where it finds ``ckpt_path``; so that waits for :meth:`before_instantiate_classes`.
        """
        self.config = parser.parse_args(args)
        self.subcommand = self.config.get("subcommand")
        config = self.config[self.subcommand] if self.subcommand else self.config
        self._ckpt_path = take_checkpoint(config, self.run_name(), new=self.subcommand == "fit")
        self._asked_ckpt_path = self._ckpt_path
        if self._ckpt_path:
            self._merge_checkpoint(config, self._ckpt_path)
            try:
                parser.validate(self.config)
            except TypeError as error:
                raise UserError(f"{one_line(str(error))} (a setting of --ckpt_path {self._ckpt_path!r})") from None

    def before_instantiate_classes(self) -> None:
        """Set the checkpoint's path again."""
        if self._ckpt_path:
            self.config[self.config["subcommand"]]["ckpt_path"] = self._ckpt_path

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; a mistake is raised as the constructor says it, not wrapped."""
        console.check_loggers(self.setting("trainer").get("logger"))
        try:
            super().instantiate_classes()
        except ValueError as error:
            if mistake := wrapped_user_error(error):
                raise mistake from None
            raise
        self.model.stays_on_device = True  # until the process ends, which is soon

    # ------------------------------------------------------------------ checkpoints

    def _merge_checkpoint(self, config: Any, path: str) -> None:
        """Merge the settings of a checkpoint into the configuration, and log which won.

        The adapter's shape is the checkpoint's, and so is what the command left at its default; the rest is the
        command's.
        """
        init = config.model.init_args
        if is_reference(path) or Path(path).is_dir():
            folder = resolve_checkpoint(path)
            stored = adapter_settings(folder)
            init["adapter"], self._ckpt_path = str(folder), None
            used = f"weights of {path if is_reference(path) else folder}"
            rank_zero_info(f"starting from the {used} alone, at step 0" if self.subcommand == "fit" else used)
        else:
            checkpoint = read_checkpoint(path)
            stored, self._first_step = stored_settings(checkpoint["hyper_parameters"]), checkpoint["global_step"]
        chosen: type[DeepSynthModule] = pkgutil.resolve_name(config.model.class_path)
        bases = [c for c in reversed(chosen.__mro__) if issubclass(c, DeepSynthModule)]
        signatures = {name: p.default for c in bases for name, p in inspect.signature(c).parameters.items()}
        defaults = flat_settings(signatures)
        for key, value in stored.items():
            if key not in defaults or key in NOT_TAKEN_OVER or init[key] == value:
                continue
            if key in ADAPTER_SHAPE and chosen.TRAINS_ADAPTERS:
                rank_zero_info(f"model.{key}: {value!r} as in the checkpoint, not {init[key]!r}")
                init[key] = value
            elif init[key] == defaults[key]:
                rank_zero_info(f"model.{key}: {value!r} as in the checkpoint")
                init[key] = value
            else:
                rank_zero_info(f"model.{key}: {init[key]!r} as asked for, not {value!r} as in the checkpoint")

    # ------------------------------------------------------------------ the run folder

    def setting(self, key: str, *, instantiated: bool = False) -> Any:
        """Return a value of the parsed or the instantiated configuration, that of the subcommand where there is one."""
        config = self.config_init if instantiated else self.config
        return config.get(str(self.subcommand), config).get(key)

    def run_name(self) -> str:
        """Return ``--run_name``, or the name of the run whose checkpoint is used, or the stem of the first config."""
        if (name := self.setting("run_name")) is not None:
            check_name("--run_name", name)
            return str(name)
        if self.subcommand != "fit" and self._asked_ckpt_path and (run := run_of(self._asked_ckpt_path)):
            return f"{run.name}-{self.subcommand}"
        files = self.setting("config") or []
        return Path(str(files[0])).stem if files else str(self.subcommand)

    def choose_run_folder(self, root: Path) -> Path:
        """Return the run's folder: that of the run to resume, or a new one.

        Args:
            root: the parent of all run folders.

        Raises:
            UserError: when the run to go on with is still alive.
        """
        earlier = run_of(self.setting("ckpt_path") or "") if self.subcommand == "fit" else None
        if earlier is not None and earlier.parent == root.resolve():
            earlier = root / earlier.name
        if not self.subcommand or launched_rank():  # writes nothing; ProcessGuard tells the first process's folder
            return earlier or next(free_names(root, self.run_name()))
        self._run_folder = RunFolder.resume(earlier) if earlier else RunFolder.claim(root, self.run_name())
        return self._run_folder.path

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with its run folder, loggers and default callbacks, each unless the user gave one."""
        trainer = self.setting("trainer", instantiated=True)
        console.check_accelerator(trainer)
        console.check_weights(self.model, self.subcommand, self._asked_ckpt_path)
        check_strategy_option(trainer.get("strategy"))
        folder = self.choose_run_folder(Path(trainer["default_root_dir"]))
        kwargs["default_root_dir"] = str(folder)
        # A run of a few batches to try things out leaves nothing behind, as Lightning's users expect.
        trial = bool(trainer.get("fast_dev_run"))
        loggers = trainer.get("logger")
        if loggers is not False and not trial:
            own = [TensorBoardLogger(folder, name="tensorboard", version="")] if loggers in (None, True) else loggers
            # The first logger is the trainer's own, which a user's callbacks ask for: the user's, if there is one.
            kwargs["logger"] = [*(own if isinstance(own, list) else [own]), MetricsCsv(folder)]
        if trainer.get("precision") is None and self._needs_loss_scaling():
            kwargs["precision"] = "16-mixed"
        given = trainer.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        checkpoints = trainer.get("enable_checkpointing") is not False
        defaults = [] if trial else self.default_callbacks(folder, checkpoints=checkpoints)
        if self.subcommand != "fit" and not any(isinstance(own, Checkpoint) for own in given):
            kwargs["enable_checkpointing"] = False  # nothing is written, and the state of one would be looked for
        extra = [c for c in defaults if not any(isinstance(own, type(c)) for own in given)]
        kwargs["callbacks"] = [*console.progress_bar(trainer, given), *given, *extra]
        return super().instantiate_trainer(**kwargs)

    def default_callbacks(self, folder: Path, *, checkpoints: bool) -> list[Callback]:
        """Return the callbacks of the subcommand."""
        if self.subcommand == "predict":
            return [ProcessGuard(), VramMonitor(), PredictionWriter()]
        if self.subcommand != "fit":
            return [ProcessGuard(), VramMonitor()]
        callbacks: list[Callback] = [ProcessGuard(), VramMonitor(), Throughput(), RunPlan()]
        if self.setting("trainer", instantiated=True).get("logger") is not False:
            callbacks += [LearningRateMonitor("step"), RowsBeforeCheckpoints(), RunReport()]
        reads = bool(self.model.generation.samples) and self.datamodule.holds_out_validation
        if reads:
            callbacks.append(SampleGallery())
        if checkpoints:
            # The first saves when an epoch or the run ends, in whatever way; the second when the CER has fallen.
            last = ModelCheckpoint(
                folder / "checkpoints",
                filename="last",
                save_on_train_epoch_end=True,
                save_on_exception=True,
                enable_version_counter=False,
            )
            callbacks += [AdapterCheckpoint(str(folder / "adapter")), last]
            if reads:
                callbacks.append(
                    ModelCheckpoint(
                        folder / "checkpoints",
                        filename="best",
                        monitor="val/cer",
                        mode="min",
                        save_on_train_epoch_end=False,
                        enable_version_counter=False,
                    )
                )
        return callbacks

    def _needs_loss_scaling(self) -> bool:
        """Return whether the weights will be float16: on a GPU without bfloat16, or by request."""
        accelerator = self.setting("trainer", instantiated=True).get("accelerator")
        on_gpu = accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()
        return bool(self.model.dtype_on("cuda" if on_gpu else "cpu") == torch.float16)

    def predict(self, **kwargs: Any) -> None:
        """Generate the predictions; the callbacks write them to a file."""
        self.trainer.predict(**kwargs, return_predictions=False)

    def after_fit(self) -> None:
        """Say how good the model became, and where the run's files are."""
        rank_zero_info("\n".join(console.results(self.trainer)))
