"""``deepsynth data`` and ``deepsynth hub``: the data checked, in other formats, and what goes to and from the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from deepsynth.cli.commands import Components, PagesCLI, call, print_line
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors


def skip_of(data: Any) -> Callable[[str, UserError], None] | None:
    """Return what names rows and samples that are passed over, where ``data.on_error`` is ``skip``."""

    def skip(place: str, error: UserError) -> None:
        print_line(f"skipped: {place}: {str(error).removeprefix(f'{place}: ')}")

    return skip if data.on_error == "skip" else None


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
    for line in report.lines(data.on_error):
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
        raise UserError(f"the data has errors ({len(report.errors)}); the lines above list them")


class ConvertDataCLI(PagesCLI):
    """Write the samples that training would see as images with their texts, in one of five formats."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder, the format and the part of the work."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=Path, required=True, help="Folder for the files.")
        parser.add_argument(
            "--format",
            type=Literal["jsonl", "parquet", "txt", "page", "alto"],
            default="jsonl",
            help="Format of the files.",
        )
        parser.add_argument(
            "--num", type=PositiveInt | None, default=None, help="Number of documents, the first; by default all."
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
        islice(checked_documents(cli.datamodule.source, need_text=True, skip=skip), cli.config["num"]),
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


# ---------------------------------------------------------------------- the Hub


class PushDataCLI(PagesCLI):
    """Render the pages that training would see and push them to the Hub as a dataset."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the repository and where shards wait."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--repo_id", type=str, required=True, help="Dataset repository: owner/name.")
        parser.add_argument("--revision", type=str, default="main", help="Branch.")
        parser.add_argument("--private", type=bool, default=True, help="Whether a new repository is private.")
        parser.add_argument("--split", type=str, default="train", help="train, validation, test or another word.")
        parser.add_argument(
            "--work_folder",
            type=Path | None,
            default=None,
            help="Folder where a shard waits until it is delivered; by default below runs/push-data.",
        )
        parser.add_argument(
            "--shard",
            type=str | None,
            default=None,
            help="Part I of N of the files on the Hub as I/N, I from 0; by default torchrun's rank, or all.",
        )


def push_data(args: list[str]) -> None:
    """Run ``deepsynth hub push-data --config … --repo_id owner/name``."""
    from deepsynth.data.shards import Shard
    from deepsynth.data.sources.base import checked_documents, tell
    from deepsynth.hub import data as hub_data
    from deepsynth.hub.snapshot import Target

    cli = PushDataCLI(args, "hub push-data")
    target = Target(cli.config["repo_id"], cli.config["revision"], cli.config["private"], repo_type="dataset")
    pipeline = cli.datamodule.pipeline()
    recipe = {type(stage).__name__: repr(stage) for stage in (pipeline.renderer, pipeline.augmenter) if stage}
    folder = Path(cli.config["work_folder"] or f"runs/push-data/{target.repo_id.replace('/', '--')}")
    shard = Shard.chosen(cli.config["shard"])
    skip = skip_of(cli.datamodule)

    def pages(document: Any) -> Any:
        try:
            return pipeline.pages(document, None, 0)
        except UserError as error:
            tell(skip, document.id, error)
            return []

    pushed = hub_data.push_data(
        checked_documents(cli.datamodule.source, need_text=False, skip=skip),
        pages,
        target,
        folder if shard.count == 1 else folder / f"shard-{shard.index}-of-{shard.count}",
        split=cli.config["split"],
        recipe={**recipe, "seed": pipeline.seed, "text": repr(pipeline.text)},
        delivery=hub_data.Delivery(part=(shard.index, shard.count)),
    )
    for line in pushed:
        print_line(line)
    if not pushed:
        print_line(f"nothing to push: {target.repo_id}@{target.revision} is up to date")


def resume(run: Path, deadline_s: float = 600.0) -> None:
    """Send what a run left in its spool to the Hub.

    Args:
        run: the run's folder, or its ``hub_spool``.
        deadline_s: how long to try, in seconds.
    """
    from deepsynth.hub.worker import resume as resume_run

    lines = resume_run(run, deadline_s)
    for line in lines:
        print_line(line)


def pull(reference: str, *, output: Path | None = None) -> None:
    """Download an adapter from the Hub.

    Args:
        reference: ``hf://owner/repo@revision``; without a revision, the branch ``main``.
        output: folder for the files; by default they stay in the Hugging Face cache.
    """
    from deepsynth.hub.pull import pull as pull_adapter

    print_line(str(pull_adapter(reference, output)))


def hub(args: list[str]) -> None:
    """Run ``deepsynth hub resume | pull | push-data``."""
    # The last takes the options of a fit, and stands here for the help alone.
    components: Components = {"resume": resume, "pull": pull, "push-data": PushDataCLI}
    if args[:1] == ["push-data"]:
        push_data(args[1:])
    else:
        if args[:1] == ["pull"] and len(args) > 2 and not any(arg.startswith("-") for arg in args[1:3]):
            args = [*args[:2], f"--output={args[2]}", *args[3:]]  # the folder may stand after the reference
        call("hub", components, args)


#: Commands of this file.
DATA_COMMANDS: dict[str, Callable[[list[str]], None]] = {"data": data, "hub": hub}
