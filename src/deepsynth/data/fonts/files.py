"""Font files: where they are, which faces they hold, and which characters a face can draw."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from PIL import ImageFont

from deepsynth.errors import UserError
from deepsynth.io.paths import check_regular_file

log = logging.getLogger(__name__)

#: (bold, italic) of the style names that a family's four faces go by; other weights and widths are not used.
FACES = {
    "regular": (False, False),
    "book": (False, False),
    "roman": (False, False),
    "normal": (False, False),
    "bold": (True, False),
    "italic": (False, True),
    "oblique": (False, True),
    "bold italic": (True, True),
    "bold oblique": (True, True),
}
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
#: Characters that show nothing: soft hyphen, joiners, direction marks and controls, variation selectors, fillers, tags.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: Tables of color fonts, whose glyphs have no plain outline to draw.
_COLOR_TABLES = ("COLR", "CBDT", "sbix", "SVG ")


@dataclass(frozen=True)
class FontFile:
    """One face in a font file.

    Attributes:
        path: path of the file.
        index: index of the face in a collection.
        family: name of the family, as the face gives it.
        style: name of the style, as the face gives it, such as "Bold".
    """

    path: str
    index: int
    family: str
    style: str

    @property
    def name(self) -> str:
        """Family and style, as in "DejaVu Sans Bold"."""
        return self.family if self.style in ("Regular", "Book") else f"{self.family} {self.style}"


class Coverage:
    """A set of code points, one bit each: a system has hundreds of fonts, and some have 45,000 characters.

    Args:
        codes: the code points.
    """

    __slots__ = ("_bits",)

    def __init__(self, codes: Iterable[int]) -> None:
        codes = list(codes)
        bits = bytearray(max(codes, default=-1) // 8 + 1)
        for code in codes:
            bits[code >> 3] |= 1 << (code & 7)
        self._bits = bytes(bits)

    def __contains__(self, code: int) -> bool:
        """Return whether a code point is in the set."""
        place = code >> 3
        return place < len(self._bits) and self._bits[place] >> (code & 7) & 1 == 1

    def has_all(self, codes: Iterable[int]) -> bool:
        """Return whether every code point is in the set."""
        return all(code in self for code in codes)


@cache
def coverage(path: str, index: int) -> Coverage:
    """Return the code points that a face has a drawable glyph for.

    Raises:
        UserError: when the file is damaged.
    """
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, fontNumber=index, lazy=True) as font:
            if any(table in font for table in _COLOR_TABLES):
                return Coverage(())
            return Coverage(font.getBestCmap() or ())
    except (TTLibError, OSError, struct.error, AssertionError, ValueError, LookupError) as error:
        raise damaged(path, error) from error


def damaged(path: str, error: BaseException) -> UserError:
    """Return what to say of a font that cannot be used after all: its parts are read when they are needed."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: the font is damaged ({reason}); replace or remove it")


def bundled_folder() -> Path:
    """Return the folder with the DejaVu fonts in matplotlib's wheel, without importing matplotlib.

    Raises:
        UserError: when matplotlib is not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("matplotlib, whose wheel has the DejaVu fonts, is missing: pip install matplotlib")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def system_folders() -> tuple[Path, ...]:
    """Return the folders where Linux, macOS and Windows keep fonts, those that exist."""
    home = Path.home()
    folders = (
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        home / ".local/share/fonts",
        home / ".fonts",
        Path("/System/Library/Fonts"),
        Path("/Library/Fonts"),
        home / "Library/Fonts",
        Path("C:/Windows/Fonts"),
    )
    return tuple(folder for folder in folders if folder.is_dir())


def read_faces(path: Path) -> list[FontFile]:
    """Return the faces of a font file, one unless it is a collection.

    Raises:
        UserError: when the file is no font, or one that cannot be scaled.
    """
    faces: list[FontFile] = []
    check_regular_file(path)
    while True:
        try:
            family, style = ImageFont.truetype(str(path), 16, index=len(faces)).getname()
        except OSError as error:
            if faces:
                return faces
            raise UserError(
                f"{path} is not a usable font ({error}); it must be a scalable {', '.join(SUFFIXES)} file"
            ) from error
        faces.append(FontFile(str(path), len(faces), family or path.stem, style or "Regular"))
        if path.suffix.lower() not in (".ttc", ".otc"):
            return faces


@cache
def folder_faces(folder: Path, pattern: str = "*") -> tuple[FontFile, ...]:
    """Return the usable faces below a folder, ordered by family, so that the place of a file does not matter."""
    faces: list[FontFile] = []
    for path in _files_below(folder, pattern):
        if path.suffix.lower() in SUFFIXES:
            try:
                faces.extend(read_faces(path))
            except UserError as error:  # a system's folder may hold bitmap fonts
                log.info("a font is not used: %s", error)
    return tuple(sorted(faces, key=lambda face: (face.family, face.style, face.path, face.index)))


def _files_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files below a folder, those of linked folders too, each folder once."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link to a folder above, or to one that was searched
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(where, name) for name in names if fnmatch(name, pattern))


@cache
def bundled_faces() -> tuple[FontFile, ...]:
    """Return the DejaVu faces of matplotlib's wheel, Sans first."""
    return folder_faces(bundled_folder(), "DejaVu*.ttf")


def is_ignorable(character: str) -> bool:
    """Return whether a character shows nothing and needs no glyph, as joiners, direction marks and soft hyphens do."""
    return INVISIBLE.match(character) is not None
