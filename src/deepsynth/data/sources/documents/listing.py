"""What a folder holds: documents, the texts beside them, and every file that is not used, with the reason."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from deepsynth.data.sources.documents.ground_truth import LAYOUT_FOLDERS, TRUTH_SUFFIXES
from deepsynth.data.sources.documents.tables import TABLE_SUFFIXES
from deepsynth.errors import UserError
from deepsynth.io.images import FORMATS
from deepsynth.io.paths import check_regular_file
from deepsynth.io.text import counted

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
#: Files that operating systems leave in folders.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
#: The file in which a conversion keeps what its files depend on, and keys that every such file has.
RECIPE = "convert.json"
RECIPE_KEYS = frozenset({"format", "shards", "documents_per_file", "processor", "seed"})
#: Names that the summary lists for each reason.
_NAMES_SHOWN = 5


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of image files that are read: those that Pillow knows for its formats, HEIC and PDF."""
    known = Image.registered_extensions().items()
    return frozenset({suffix for suffix, name in known if name in FORMATS} | HEIF_SUFFIXES | {".pdf", ".avif"})


def is_recipe(path: Path) -> bool:
    """Return whether a file is the record that ``deepsynth data convert`` keeps in a folder; it is no user's file."""
    if path.name != RECIPE:
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= RECIPE_KEYS


@dataclass(frozen=True, slots=True)
class Found:
    """A file with its name below the place that was looked through.

    Attributes:
        name: with ``/`` between folders.
        path: of the file.
        root: folder that ``name`` is relative to.
        in_folder: whether all of that folder is looked through.
    """

    name: str
    path: Path
    root: Path
    in_folder: bool = False


@dataclass
class Listing:
    """The files of a place by what they are; every file is in one of the fields.

    Attributes:
        images: documents, by name.
        truths: files of texts.
        tables: files of rows.
        beside: texts that lie beside single files; they are no part of the place.
        used: files of texts and tables that were used.
        unused: names of files that are not used, by reason.
        with_text: number of documents whose text was found beside them.
        pages: number of pages, where that is known without decoding.
    """

    images: list[Found] = field(default_factory=list)
    truths: list[Found] = field(default_factory=list)
    tables: list[Found] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)
    unused: dict[str, list[str]] = field(default_factory=dict)
    with_text: int = 0
    pages: int = 0

    def leave_out(self, reason: str, name: str) -> None:
        """Count a file that is not used."""
        self.unused.setdefault(reason, []).append(name)

    @property
    def count(self) -> int:
        """Number of all files."""
        return len(self.images) + len(self.used) + sum(map(len, self.unused.values()))

    def summary(self) -> str:
        """Return one line that says what became of every file."""
        line = f"{counted(self.count, 'file')}: {counted(len(self.images), 'document')} ({counted(self.pages, 'page')})"
        if self.used:
            line += f", {len(self.used)} with texts, for {self.with_text} of them"
        left_out = (f"{len(names)} {reason} ({_shown(names)})" for reason, names in sorted(self.unused.items()))
        return line + ("; not used: " + "; ".join(left_out) if self.unused else "; all are used")


def list_place(path: Path | Sequence[Path], *, recursive: bool) -> Listing:
    """Return the files of a folder, a file or a glob, or of several of them.

    Args:
        path: where to look.
        recursive: whether the folders in a folder are looked through.

    Raises:
        UserError: when there is no such place.
    """
    listing = Listing()
    seen: set[Path] = set()
    for found in _files(path):
        if found.path in seen:
            continue
        seen.add(found.path)
        if is_recipe(found.path):
            continue
        _sort_in(listing, found, recursive=recursive)
    folders = {found.path.parent for found in listing.images if not found.in_folder}
    for folder in sorted(folders):
        inner = (folder / name for name in LAYOUT_FOLDERS if (folder / name).is_dir())
        files = (file for each in (folder, *inner) for file in sorted(each.iterdir()))
        listing.beside += [file for file in files if file.suffix.lower() in TRUTH_SUFFIXES and file not in seen]
    for part in (listing.images, listing.truths, listing.tables):
        part.sort(key=lambda found: found.name)
    return listing


def _sort_in(listing: Listing, found: Found, *, recursive: bool) -> None:
    """Put a file where it belongs by its name."""
    suffix, folders = found.path.suffix.lower(), found.name.split("/")[:-1]
    name = found.path.name
    in_layout_folder = suffix == ".xml" and bool(folders) and folders[0].lower() in LAYOUT_FOLDERS
    if any(part[0] == "." for part in (*folders, name)) or name.lower() in _SYSTEM_FILES:
        listing.leave_out("hidden or of the system", found.name)
    elif found.in_folder and folders and not recursive and not in_layout_folder:
        listing.leave_out("in subfolders (recursive=true includes them)", found.name)
    elif suffix in HEIF_SUFFIXES and _needs_pillow_heif(found.path):
        listing.leave_out("HEIC, for which pillow-heif is missing (pip install 'deepsynth-ocr[heic]')", found.name)
    elif suffix in image_suffixes():
        listing.images.append(found)
    elif suffix in TRUTH_SUFFIXES:
        listing.truths.append(found)
    elif suffix in TABLE_SUFFIXES:
        listing.tables.append(found)
    else:
        listing.leave_out("of a format that is not read", found.name)


def _files(path: Path | Sequence[Path]) -> Iterator[Found]:
    """Yield the files of a place, links to folders not followed."""
    if not isinstance(path, (str, Path)):
        for one in path:
            yield from _files(one)
        return
    place = Path(path).expanduser()
    if place.is_dir():
        for folder, folders, names in os.walk(place):
            folders.sort()
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*names, *links):
                file = Path(folder) / name
                yield Found(file.relative_to(place).as_posix(), file, place, in_folder=True)
    elif place.exists():
        check_regular_file(place)
        yield Found(place.name, place, place.parent)
    else:
        matches = sorted(map(Path, glob.glob(str(place), recursive=True))) if glob.has_magic(str(place)) else []
        if not matches:
            raise UserError(f"{place}: no such file or folder (looked from {Path.cwd()})")
        fixed = Path(*_fixed_parts(place.parts))
        for match in matches:
            if match.is_file():
                yield Found(match.relative_to(fixed).as_posix(), match, fixed)


def _fixed_parts(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts of a glob before its first wildcard."""
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _needs_pillow_heif(path: Path) -> bool:
    """Return whether a file is HEIC inside, which phones' names do not tell, and pillow-heif is not there."""
    if importlib.util.find_spec("pillow_heif") is not None:
        return False
    try:
        with path.open("rb") as file:
            return file.read(12)[4:8] == b"ftyp"
    except OSError:
        return False  # decoding says why


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(sorted(names)[:_NAMES_SHOWN]) + more
