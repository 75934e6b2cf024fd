"""Print the packages that pyproject.toml names, for the tests as well, as requirements of pip.

    python scripts/requirements.py lowest    each at its lower bound
    python scripts/requirements.py newest    each without its upper bound

torch is left out of the first and keeps its bounds in the second: another build of it is gigabytes.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(which: str) -> list[str]:
    """Return a line for each package, sorted.

    Args:
        which: ``lowest`` or ``newest``.

    Raises:
        ValueError: for anything else, or a package without a lower bound that ``lowest`` needs.
    """
    if which not in ("lowest", "newest"):
        raise ValueError(f"which is {which!r}; want 'lowest' or 'newest'")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = set()
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name, extras, bounds = re.fullmatch(r"([\w-]+)(\[.*\])?(.*)", requirement).groups()
        lower = re.match(r">=([\d.]+)", bounds)
        if name == "torch":
            lines |= {requirement} if which == "newest" else set()
        elif which == "newest":
            lines.add(f"{name}{extras or ''}{lower[0] if lower else ''}")
        elif lower:
            lines.add(f"{name}=={lower[1]}")
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(requirements(*sys.argv[1:])))
