"""``deepsynth quickstart``: teach the built-in model something new, and measure it before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deepsynth.callbacks.prediction_writer import NAME
from deepsynth.cli import console
from deepsynth.cli.commands import print_line
from deepsynth.cli.config_files import find_config
from deepsynth.cli.help.subcommands import SUBCOMMANDS, examples
from deepsynth.cli.predict import PredictCLI
from deepsynth.cli.trainer import DeepSynthCLI

#: What is measured: a label, and the options that draw those pages.
PAGES: dict[str, tuple[str, ...]] = {
    "new skill: light text on a dark background": (),
    "old skill: dark text on a light background": (
        "--data.renderer.text_color=[black]",
        "--data.renderer.background_color=[white]",
    ),
}


def fit_arguments() -> list[str]:
    """Return the options of the quickstart's training."""
    return ["--config", find_config("quickstart"), "--config", find_config("data/inverse_video")]


def predict_arguments(run: Path, name: str, adapter: Path | None) -> list[str]:
    """Return the options of a prediction of the unseen passages.

    Args:
        run: folder of the training run.
        name: of the prediction, whose files go to ``unseen/NAME`` in that folder.
        adapter: the tuned one; the model as it comes without.
    """
    return [
        *("--config", find_config("quickstart"), "--data.source=JsonlSource"),
        f"--data.source.path={find_config('quickstart_unseen.jsonl')}",
        *(f"--trainer.default_root_dir={run / 'unseen'}", f"--run_name={name}", "--trainer.enable_progress_bar=false"),
        *([f"--ckpt_path={adapter}"] if adapter else []),
    ]


def quickstart(args: Sequence[str]) -> None:
    """Train, predict 32 unseen passages on both kinds of pages with and without the adapter, and print a table.

    Args:
        args: options of ``deepsynth fit``, which change the training alone.
    """
    if {"-h", "--help"} & set(args):
        print_line("usage: deepsynth quickstart [--KEY=VALUE ...]\n")
        print_line(f"{SUBCOMMANDS['quickstart'].capitalize()}.\n".replace("\n", ""))
        print_line("It takes the options of deepsynth fit; the defaults take minutes on a laptop.\n")
        print_line(examples("quickstart").rstrip("\n"))
        return
    cli = DeepSynthCLI(["fit", *fit_arguments(), *args])
    run = Path(cli.trainer.default_root_dir)
    rows: list[tuple[str, float, float]] = []
    for number, (label, options) in enumerate(PAGES.items()):
        kind = ("dark", "light")[number]
        print_line(f"measuring on 32 passages that the model was not trained on, before and after: {kind} pages")
        with console.quiet():
            before = _cer(run, f"{kind}-before", None, options)
            after = _cer(run, f"{kind}-after", run / "adapter", options)
        rows.append((label, before, after))
    width = max(len(label) for label, _, _ in rows)
    print_line("")
    print_line(f"{'character error rate on unseen passages':<{width}}  before   after")
    for label, before, after in rows:
        print_line(f"{label:<{width}}  {before:6.3f}  {after:6.3f}")
    print_line("")
    print_line(f"Look at the pages and what the model made of them: {run / 'gallery.html'}")
    print_line(f"Learning curves and errors: {run / 'report.html'}")
    print_line("Next, your own scans: deepsynth fit --config finetune --data.source.path=FOLDER")


def _cer(run: Path, name: str, adapter: Path | None, options: Sequence[str]) -> float:
    """Return the corpus CER of a prediction of the unseen passages."""
    cli = PredictCLI(["predict", *predict_arguments(run, name, adapter), *options])
    file = Path(cli.trainer.default_root_dir) / Path(NAME).with_suffix(".metrics.json").name
    return float(json.loads(file.read_text(encoding="utf-8"))["cer"])
