"""``deepsynth evaluate`` with a model: predict the documents of the source, then evaluate what was predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from deepsynth.callbacks import PredictionWriter
from deepsynth.cli.predict import PredictCLI
from deepsynth.data import TextImageDataModule

_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "against": (Path | None, None, "Predictions of another system on the same documents."),
    "profile": (str, "none", "Normalization of both texts, such as layout or arabic+case."),
    "structure": (bool | None, None, "Also score tables, boxes and Markdown; by default where targets have them."),
    "worst": (int, 20, "Number of documents to show, those with the most edits."),
    "confidence": (float, 0.95, "Probability between the bounds."),
    "resamples": (int, 1000, "Resamples of the bootstrap."),
}


class EvaluateCLI(PredictCLI):
    """``deepsynth predict`` with the options of ``deepsynth evaluate``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the evaluation."""
        super().add_arguments_to_parser(parser)
        for name, (kind, default, words) in _OPTIONS.items():
            parser.add_argument(f"--{name}", type=kind, default=default, help=words)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the evaluation."""
        return {name: self.setting(name) for name in _OPTIONS}


def evaluate_model(args: Sequence[str], print_line: Callable[[str], None]) -> None:
    """Run ``deepsynth evaluate --config … [--ckpt_path …]``: the options are those of ``deepsynth predict``, and more.

    Metrics and the report are written beside the predictions.
    """
    from deepsynth.measurement.evaluation.command import Evaluate

    cli = EvaluateCLI(["predict", *args])
    trainer: Any = cli.trainer
    if not trainer.is_global_zero:
        return
    (writer,) = (own for own in trainer.callbacks if isinstance(own, PredictionWriter))
    path = writer.path(trainer)
    data = cli.datamodule

    def pages(ids: Sequence[str]) -> Mapping[str, Sequence[Image.Image]]:
        return page_images(data, ids)

    Evaluate(path, output=path.parent, **cli.options).run(print_line, pages)


def page_images(data: TextImageDataModule, ids: Sequence[str]) -> dict[str, list[Image.Image]]:
    """Return the pages of documents as they were predicted.

    Args:
        data: that the documents came from.
        ids: of the documents.
    """
    wanted, found = set(ids), {}
    pipeline = data.pipeline()
    for document in data.source if wanted else ():
        if document.id in wanted:
            found[document.id] = [page.image for page in pipeline.pages(document, None, 0)]
            if len(found) == len(wanted):
                break
    return found
