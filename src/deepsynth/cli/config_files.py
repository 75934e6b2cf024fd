"""The configurations that come with the package, which the command line finds by name."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from deepsynth.cli.help.subcommands import examples
from deepsynth.errors import UserError

#: Options whose values are configurations.
_OPTIONS = ("--config", "-c", "--backends")
#: Subcommands where several values may follow one option.
_SEVERAL = ("compare", "benchmark")
#: What is no name of a file: a configuration written on the command line itself, a list, or an address.
_INLINE = re.compile(r"[{\[\n]|: |://")


def config_folder() -> Path:
    """Return the folder of the shipped configurations: in the package, or in the repository that it runs from."""
    package = Path(__file__).parents[1]
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parents[1] / "configs"


def config_names() -> dict[str, str]:
    """Return the names of the shipped configurations, such as ``backend/peft``, each with its first comment line."""
    folder = config_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.relative_to(folder).parts), file))
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file.read_text("utf-8").partition("\n")[0].lstrip("# ")
        for file in files
    }


def find_shipped(name: str) -> Path | None:
    """Return the shipped file of a name, or None.

    Args:
        name: relative to the folder of the configurations or, as in the repository, to the folder above it; ``.yaml``
            may be left out.
    """
    relative = Path(name.removeprefix("./").removeprefix("configs/"))
    if relative.is_absolute() or ".." in relative.parts:
        return None
    folder = config_folder()
    for file in (folder / relative, folder / f"{relative}.yaml"):
        if file.is_file():
            return file
    return None


def find_config(name: str) -> str:
    """Return the file of a configuration's name; a file of that name comes before a shipped one.

    Args:
        name: a path, the name of a shipped configuration, or a configuration itself, which is returned as it is.

    Raises:
        UserError: when there is neither a file nor a shipped configuration of that name.
    """
    path = Path(name)
    if not name or _INLINE.search(name) or (path.exists() and not path.is_dir()):
        return name
    if shipped := find_shipped(name):
        return str(shipped)
    names = list(config_names())
    same_stem = [known for known in names if Path(known).name == path.name.removesuffix(".yaml")]
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    near = same_stem or difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`deepsynth configs` lists the shipped ones"
    raise UserError(f"there is no file {name!r}, and no configuration of that name comes with DeepSynth; {hint}")


def with_config_files(args: Sequence[str]) -> list[str]:
    """Return the arguments with the names of shipped files replaced by their paths.

    Those are the values of ``--config`` and ``--backends``, and any other word or value that begins with ``configs/``.

    Args:
        args: of the command line, the subcommand first.

    Raises:
        UserError: for a configuration that does not exist.
    """
    found: list[str] = []
    takes = False  # whether the next word without dashes is a configuration
    for word in args:
        if not word.startswith("-"):
            found.append(find_config(word) if takes else _find_other(word))
            takes = takes and args[0] in _SEVERAL
            continue
        option, equals, value = word.partition("=")
        takes = option in _OPTIONS and not equals
        value = find_config(value) if option in _OPTIONS else _find_other(value)
        found.append(f"{option}{equals}{value}")
    return found


def _find_other(name: str) -> str:
    """Return the shipped file that a ``configs/…`` stands for where there is no such file; else the name itself."""
    if not name.startswith("configs/") or Path(name).exists():
        return name
    return str(find_shipped(name) or name)


def list_configs(args: Sequence[str]) -> int:
    """Run ``deepsynth configs``.

    Args:
        args: without the subcommand.

    Returns:
        The exit code: 0, or 2 for arguments that it does not take.
    """
    args = [arg for arg in args if arg != "--debug"]
    if args and args not in (["-h"], ["--help"]):
        sys.stderr.write(f"deepsynth: deepsynth configs takes no arguments; found {' '.join(args)}\n")
        return 2
    if args:
        sys.stdout.write("usage: deepsynth configs\n\nList the configurations that come with DeepSynth.\n\n")
        sys.stdout.write(examples("configs"))
        return 0
    names = config_names()
    width = max(map(len, names))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in names.items())
    sys.stdout.write(
        f"{rows}\n\nThe files are in {config_folder()}\n"
        "Use them by name, later ones over earlier ones: deepsynth fit --config quickstart --config backend/peft\n"
    )
    return 0
