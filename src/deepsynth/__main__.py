"""The command ``deepsynth``: answers what needs no library, and passes the rest to :mod:`deepsynth.cli.main`."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from deepsynth._version import __version__
from deepsynth.cli.config_files import list_configs, with_config_files
from deepsynth.cli.help.subcommands import SUBCOMMANDS
from deepsynth.cli.models import show_models
from deepsynth.errors import UserError
from deepsynth.io.garbage import no_garbage_collection
from deepsynth.io.text import shortened, visible


def overview() -> str:
    """Return the help of the bare command."""
    width = max(map(len, SUBCOMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in SUBCOMMANDS.items())
    return (
        f"deepsynth {__version__}: render text as pages and fine-tune vision-language OCR models on them\n\n"
        f"usage: deepsynth SUBCOMMAND [--config NAME|FILE ...] [--KEY=VALUE ...]\n\n{rows}\n\n"
        "  deepsynth quickstart           start here: no GPU, no download\n"
        "  deepsynth SUBCOMMAND --help    show the options of a subcommand, with an example\n"
        "  --debug                        show the traceback of an error, with any subcommand\n"
        "  --version                      print the version\n"
    )


def make_folder_importable() -> None:
    """Make modules in the current folder importable, as ``python -m deepsynth`` does, unless Python is told not to."""
    folder = os.getcwd()
    if not sys.flags.safe_path and folder not in sys.path:
        sys.path.insert(0, folder)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: without the program's name; by default ``sys.argv``.

    Returns:
        The exit code: 0, 1 for a run that failed on what it was given, 2 for arguments that cannot be used.
    """
    own_process = args is None
    if args is None:
        args = sys.argv[1:]
        make_folder_importable()
        atexit.register(gc.freeze)  # the process ends: a search for garbage among all modules takes seconds
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if args[0] == "--version":
        sys.stdout.write(f"deepsynth {__version__}\n")
        return 0
    if args[0] not in SUBCOMMANDS:
        sys.stderr.write(f"deepsynth: unknown subcommand {args[0]!r}; choose from {', '.join(SUBCOMMANDS)}\n")
        return 2
    if args[0] == "configs":
        return list_configs(args[1:])
    if args[0] == "models":
        return show_models(args[1:])
    try:
        args = with_config_files(args)
    except (UserError, OSError) as error:  # a name that no file can have is an OSError
        sys.stderr.write(f"deepsynth: {shortened(visible(str(error)), 600)}\n")
        return 2
    from deepsynth.data.loading.server import start_server_early

    start_server_early(args)
    with no_garbage_collection():  # each search goes through all that was imported: a quarter of the time
        from deepsynth.unsloth_import import import_unsloth_first

        import_unsloth_first(args)
        from deepsynth.cli.main import run

        if own_process:
            gc.freeze()  # libraries stay to the end: neither the first search nor a later one goes through them
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
