"""``deepsynth predict`` with where its results go."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from deepsynth.callbacks import PredictionWriter
from deepsynth.callbacks.prediction_files import check_formats
from deepsynth.callbacks.prediction_writer import NAME
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.errors import UserError


class PredictCLI(DeepSynthCLI):
    """``deepsynth predict --output DIR --format txt,md --resume``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one subcommand, with the arguments that the CLI fills."""
        return {"predict": DeepSynthCLI.subcommands()["predict"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder of the results, their formats, and whether to go on."""
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
            "--resume",
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help="Go on with what --output has of an interrupted run.",
        )

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
                "PredictionWriter too, which has options of its own; leave out the one or the other"
            )
        if resume and output is None:
            raise UserError("--resume needs --output: the folder where the interrupted run kept its predictions")
        file = None if output is None else str(Path(output) / NAME)
        writer = PredictionWriter(file, resume, formats, tokens)
        others = super().default_callbacks(folder, checkpoints=checkpoints)
        return [*(c for c in others if not isinstance(c, PredictionWriter)), writer]
