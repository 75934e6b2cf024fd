"""``deepsynth predict`` with where its results go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.callbacks import PredictionWriter
from deepsynth.callbacks.prediction_files import check_formats
from deepsynth.callbacks.prediction_writer import NAME
from deepsynth.cli.run_folder import run_of
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.data.shards import Shard
from deepsynth.errors import UserError

#: Source by the suffix of a file with texts; folders, images and PDFs are read by DocumentSource.
_SOURCES = {
    ".jsonl": "JsonlSource",
    ".json": "JsonlSource",
    ".csv": "CsvSource",
    ".tsv": "CsvSource",
    ".parquet": "ParquetSource",
}


def with_defaults(args: Sequence[str]) -> list[str]:
    """Return the arguments of ``predict PATH --ckpt_path …`` with what they leave to be understood.

    That is the configuration of the run that the checkpoint belongs to, and the source that reads ``PATH``, whose pages
    are taken as they are. Configurations come first, so that the source of none replaces ``PATH``.

    Args:
        args: of the command line, the subcommand first.

    Raises:
        UserError: for a ``PATH`` that does not exist.
    """
    subcommand, *rest = args
    source: list[str] = []
    if rest and not rest[0].startswith("-"):
        path = Path(rest.pop(0))
        if not path.exists():
            raise UserError(f"{path}: no such file or folder to predict")
        name = _SOURCES.get(path.suffix.lower(), "DocumentSource")
        source = [f"--data.source={name}", f"--data.source.path={path}", "--data.augmenter=null"]
        source += ["--data.source.recursive=true"] if name == "DocumentSource" and path.is_dir() else []
    config: list[str] = []
    given, others = _configurations(rest)
    if not given and (run := run_of(_checkpoint(rest))):
        rank_zero_info(f"settings of {run / 'config.yaml'}")
        config = ["--config", str(run / "config.yaml"), f"--run_name={run.name}-predict", "--ckpt_path=null"]
    return [subcommand, *given, *config, *source, *others] if source else [subcommand, *config, *rest]


def _configurations(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options that name configurations, with their values, and all other arguments."""
    found: list[str] = []
    others: list[str] = []
    following = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        is_config = name in ("--config", "-c")
        (found if is_config or following else others).append(arg)
        following = is_config and not equals
    return found, others


def _checkpoint(args: Sequence[str]) -> str:
    """Return the value of ``--ckpt_path``; "" without one."""
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == "--ckpt_path":
            return value if equals else "".join(args[position + 1 : position + 2])
    return ""


class PredictCLI(DeepSynthCLI):
    """``deepsynth predict [PATH] --ckpt_path … --output DIR --format txt,md --resume``.

    Args:
        args: of the command line, ``predict`` first.
    """

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(with_defaults(args))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one subcommand, with the arguments that the CLI fills."""
        return {"predict": DeepSynthCLI.subcommands()["predict"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options for the output folder, the formats and resuming."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output",
            type=Path | None,
            default=None,
            help=f"Folder for {NAME} and the other results; by default that of the run.",
        )
        parser.add_argument(
            "--format",
            type=str,
            default="jsonl",
            help="Formats with commas between: jsonl (always written), a file for each document as txt or md, and "
            "where predictions have boxes, for each page as page (PAGE XML) or alto.",
        )
        parser.add_argument(
            "--token_logprobs",
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help=f"Also write the log-probability of every token to {NAME}; those of pages are always there.",
        )
        parser.add_argument(
            "--shard",
            type=str | None,
            default=None,
            help="Part I of N of the documents as I/N, I from 0, for machines that share no torchrun; its predictions "
            "are in predictions.I-of-N.jsonl.",
        )
        parser.add_argument(
            "--resume",
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help="Go on with what --output has of an interrupted run.",
        )

    @property
    def shard(self) -> Shard:
        """The part of the documents that is predicted here.

        Raises:
            UserError: for one that is none, or that is given without a folder of results.
        """
        text = self.setting("shard")
        if text and self.setting("output") is None:
            raise UserError("--shard needs --output: the folder that all parts write to")
        return Shard.parse(text) if text else Shard()

    def before_predict(self) -> None:
        """Tell the data which documents are predicted here, and refuse a mode that the model cannot serve."""
        self.datamodule.predict_shard = self.shard
        processor = self.datamodule.processor
        if mode := getattr(processor, "mode", None):
            processor.layout.check(mode)

    def default_callbacks(self, folder: Path, *, checkpoints: bool) -> list[Callback]:
        """Return the callbacks of a prediction, whose writer has the options of the command.

        Raises:
            UserError: for an unknown format, ``--resume`` without ``--output``, or a second writer.
        """
        output, resume = self.setting("output"), bool(self.setting("resume"))
        names = [name.strip() for name in str(self.setting("format")).split(",")]
        formats = check_formats([name for name in names if name])
        given = self.setting("trainer", instantiated=True).get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        tokens = bool(self.setting("token_logprobs"))
        options = (output, resume, formats, tokens)
        if any(isinstance(own, PredictionWriter) for own in given) and options != (None, False, ["jsonl"], False):
            raise UserError(
                "--output, --format, --resume or --token_logprobs is given, and trainer.callbacks has a "
                "PredictionWriter too, with its own options; use only one of them"
            )
        if resume and output is None:
            raise UserError("--resume needs --output: the folder where the interrupted run kept its predictions")
        shard = self.shard
        name = NAME if shard.count == 1 else f"predictions.{shard.index}-of-{shard.count}.jsonl"
        file = None if output is None else str(Path(output) / name)
        writer = PredictionWriter(file, resume, formats, tokens)
        others = super().default_callbacks(folder, checkpoints=checkpoints)
        return [*(c for c in others if not isinstance(c, PredictionWriter)), writer]
