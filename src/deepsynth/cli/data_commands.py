"""``deepsynth data``: a look at the data before training, and the data in other formats."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from deepsynth.cli.commands import Components, PagesCLI, call, print_line, skip_of
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors


class CheckDataCLI(PagesCLI):
    """Look at all data before training: what cannot be used, lengths, scripts, repeated and empty pages."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder for the contact sheet and the report."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output", type=Path | None, default=None, help="Folder for contact.png and check.json; by default none."
        )
        parser.add_argument("--num", type=PositiveInt, default=16, help="Number of pages on the contact sheet.")


def check(args: list[str]) -> None:
    """Run ``deepsynth data check --config …``.

    Raises:
        UserError: when some of the data cannot be used, so that the exit code is 1.
    """
    from deepsynth.data.check import check_data
    from deepsynth.data.preview import contact_sheet

    cli = CheckDataCLI(args, "data check")
    data, folder = cli.datamodule, cli.config["output"]
    sources = [source for source in (data.source, data.val_source, data.test_source) if source is not None]
    report = check_data(sources, data.pipeline(), int(cli.config["num"]))
    for line in report.lines():
        print_line(line)
    if folder is not None:
        folder = Path(folder)
        with explain_write_errors(folder, "the check"):
            folder.mkdir(parents=True, exist_ok=True)
            if report.pages:
                contact_sheet(report.pages).save(folder / "contact.png")
            found = {one.name: getattr(report, one.name) for one in fields(report) if one.name != "pages"}
            with atomic_file(folder / "check.json") as temporary:
                temporary.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        print_line(f"{'contact.png and ' if report.pages else ''}check.json in {folder}")
    if report.errors:
        raise UserError(f"the data have errors ({len(report.errors)}); the lines above name them")


class ConvertDataCLI(PagesCLI):
    """Write the samples that training would see as JSON lines and images, Parquet, PAGE XML or ALTO."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder, the format and the part of the work."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=Path, required=True, help="Folder for the files.")
        parser.add_argument(
            "--format", type=Literal["jsonl", "parquet", "page", "alto"], default="jsonl", help="Format of the files."
        )
        parser.add_argument(
            "--shard",
            type=str | None,
            default=None,
            help="Part I of N of the documents as I/N, I from 0; by default torchrun's rank, or all.",
        )


def convert(args: list[str]) -> None:
    """Run ``deepsynth data convert --config … --output DIR --format page``."""
    from deepsynth.data.convert import convert as convert_documents
    from deepsynth.data.shards import Shard
    from deepsynth.data.sources.base import checked_documents

    cli = ConvertDataCLI(args, "data convert")
    skip = skip_of(cli.datamodule)
    lines = convert_documents(
        checked_documents(cli.datamodule.source, need_text=True, skip=skip),
        cli.datamodule.pipeline(),
        Path(cli.config["output"]),
        cli.config["format"],
        Shard.chosen(cli.config["shard"]),
        skip=skip,
    )
    for line in lines:
        print_line(line)


def data(args: list[str]) -> None:
    """Run ``deepsynth data check | convert``."""
    # They take the options of a fit, and stand here for the help alone.
    components: Components = {"check": CheckDataCLI, "convert": ConvertDataCLI}
    commands = {"check": check, "convert": convert}
    if args and args[0] in commands:
        commands[args[0]](args[1:])
    else:
        call("data", components, args)
