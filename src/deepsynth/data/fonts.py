"""Which font draws which character.

Fonts are looked for in this order, the same on every machine with the same fonts:

1. the family that the page was given, in its style (bold, italic), then upright;
2. the DejaVu families of matplotlib's wheel: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, …;
3. the folders of ``font_dirs``, in their order;
4. the system's fonts, those made for the character's script first.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

#: (bold, italic) of the style names that a family's four faces go by; other weights and widths are not used.
_FACES = {
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
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
#: Tables of colour fonts, whose glyphs have no plain outline to draw in ink.
_COLOUR_TABLES = ("COLR", "CBDT", "sbix", "SVG ")


@dataclass(frozen=True)
class FontFile:
    """One face in a font file.

    Attributes:
        path: of the file.
        index: of the face in a collection.
        family: name that the face itself gives.
        style: name that the face itself gives, such as "Bold".
    """

    path: str
    index: int
    family: str
    style: str

    @property
    def name(self) -> str:
        """Family and style, as in "DejaVu Sans Bold"."""
        return self.family if self.style in ("Regular", "Book") else f"{self.family} {self.style}"


@cache
def coverage(path: str, index: int) -> frozenset[int]:
    """Return the code points that a face has a drawable glyph for."""
    from fontTools.ttLib import TTFont

    with TTFont(path, fontNumber=index, lazy=True) as font:
        if any(table in font for table in _COLOUR_TABLES):
            return frozenset()
        return frozenset(font.getBestCmap() or ())


def bundled_folder() -> Path:
    """Return the folder with the DejaVu fonts in matplotlib's wheel, without importing matplotlib.

    Raises:
        ModuleNotFoundError: when matplotlib is not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("matplotlib, whose wheel has the DejaVu fonts, is missing: pip install matplotlib")
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
        ValueError: when the file is no font, or one that cannot be scaled.
    """
    faces: list[FontFile] = []
    while True:
        try:
            family, style = ImageFont.truetype(str(path), 16, index=len(faces)).getname()
        except OSError as error:
            if faces:
                return faces
            raise ValueError(
                f"{path} is no font that can be used ({error}); wanted is a scalable {', '.join(_SUFFIXES)} file"
            ) from error
        faces.append(FontFile(str(path), len(faces), family or path.stem, style or "Regular"))
        if path.suffix.lower() not in (".ttc", ".otc"):
            return faces


@cache
def _folder_faces(folder: Path, pattern: str = "*") -> tuple[FontFile, ...]:
    """Return the usable faces below a folder, ordered by family, so that the place of a file does not matter."""
    faces: list[FontFile] = []
    for path in folder.rglob(pattern):
        if path.suffix.lower() in _SUFFIXES:
            try:
                faces.extend(read_faces(path))
            except ValueError:  # a system's folder may hold bitmap fonts; a font named by the user is read elsewhere
                continue
    return tuple(sorted(faces, key=lambda face: (face.family, face.style, face.path, face.index)))


@cache
def bundled_faces() -> tuple[FontFile, ...]:
    """Return the DejaVu faces of matplotlib's wheel, Sans first."""
    return _folder_faces(bundled_folder(), "DejaVu*.ttf")


class FontLibrary:
    """The fonts that a renderer may use, looked up by family and by character.

    Args:
        font_dirs: folders with fonts, searched with everything below them.
        system_fonts: also use the system's fonts.

    Raises:
        ValueError: when a folder does not exist or holds no font.
    """

    def __init__(self, font_dirs: Sequence[str] = (), system_fonts: bool = True) -> None:
        """Check the folders; the system's fonts are looked at only when they are needed."""
        self._system_fonts = system_fonts
        self._own: tuple[FontFile, ...] = ()
        for folder in font_dirs:
            faces = _folder_faces(Path(folder).expanduser()) if Path(folder).expanduser().is_dir() else ()
            if not faces:
                raise ValueError(f"font_dirs names {folder!r}, which is no folder with {', '.join(_SUFFIXES)} fonts")
            self._own += faces
        self._families: dict[str, dict[tuple[bool, bool], FontFile]] = {}
        self._by_character: dict[tuple[str, bool, bool, str], FontFile | None] = {}

    @property
    def system_faces(self) -> tuple[FontFile, ...]:
        """The system's faces, none when ``system_fonts`` is off."""
        if not self._system_fonts:
            return ()
        return tuple(face for folder in system_folders() for face in _folder_faces(folder))

    def family(self, name: str) -> dict[tuple[bool, bool], FontFile]:
        """Return the faces of a family by (bold, italic); the upright one is always there.

        Args:
            name: of a family, or the path of a font file.

        Raises:
            ValueError: when there is no such family or file.
        """
        if name not in self._families:
            self._families[name] = self._find_family(name)
        return self._families[name]

    def _find_family(self, name: str) -> dict[tuple[bool, bool], FontFile]:
        if name.lower().endswith(_SUFFIXES):
            path = Path(name).expanduser()
            if not path.is_file():
                raise ValueError(f"fonts names the file {name!r}, which does not exist")
            return {(False, False): read_faces(path)[0]}
        for faces in (bundled_faces(), self._own, self.system_faces):
            found = {
                _FACES[face.style.lower()]: face
                for face in reversed(faces)
                if face.family.lower() == name.lower() and face.style.lower() in _FACES
            }
            if found:
                return {(False, False): next(iter(found.values())), **found}
        known = sorted({face.family for face in (*bundled_faces(), *self._own, *self.system_faces)})
        raise ValueError(
            f"fonts names the family {name!r}, which is not installed; give a font file's path, a folder in font_dirs, "
            f"or one of the {len(known)} families here: {', '.join(known[:12])}{', …' if len(known) > 12 else ''}"
        )

    def face_for(self, cluster: str, family: str, bold: bool, italic: bool) -> FontFile | None:
        """Return the first face that has every character of a cluster, ``None`` when there is none."""
        key = (family, bold, italic, cluster)
        if key not in self._by_character:
            wanted = {ord(character) for character in cluster if not is_ignorable(character)}
            faces = self._candidates(family, bold, italic)
            self._by_character[key] = next((face for face in faces if wanted <= coverage(face.path, face.index)), None)
        return self._by_character[key]

    def _candidates(self, family: str, bold: bool, italic: bool) -> Iterator[FontFile]:
        own = self.family(family)
        yield from (own[style] for style in ((bold, italic), (bold, False), (False, False)) if style in own)
        for name in ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"):
            faces = self.family(name)
            yield faces.get((bold, italic), faces[False, False])
        yield from self._own
        yield from self.system_faces


def is_ignorable(character: str) -> bool:
    """Return whether a character needs no glyph: joiners, bidirectional marks, variation selectors, soft hyphens."""
    return unicodedata.category(character) == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F or character == "\u034f"
