"""Which font draws which character.

Fonts are looked for in this order, the same on every machine with the same fonts:

1. the family that the page was given, in its style (bold, italic), then upright;
2. the DejaVu families of matplotlib's wheel: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, …;
3. the folders of ``font_dirs``, in their order;
4. the system's fonts, those made for the character's script first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deepsynth.data.fonts.files import (
    FACES,
    SUFFIXES,
    FontFile,
    bundled_faces,
    bundled_folder,
    coverage,
    folder_faces,
    is_ignorable,
    read_faces,
    system_folders,
)
from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.text.linebreak import grapheme_clusters
from deepsynth.data.text.unicode_scripts import script_of, script_words
from deepsynth.errors import UserError

_REMEMBERED_CLUSTERS = 50_000
#: Words in the names of families that are not for plain text; Rashi letters are for commentaries.
_SPECIAL = ("mono", "serif", "looped", "unjoined", "display", "nastaliq", "kufi", "rashi")


class FontLibrary:
    """The fonts that a renderer may use, looked up by family and by character.

    Args:
        font_dirs: folders with fonts, searched with everything below them.
        system_fonts: also use the system's fonts.

    Raises:
        UserError: when a folder does not exist or holds no font.
    """

    def __init__(self, font_dirs: Sequence[str] = (), system_fonts: bool = True) -> None:
        # The system's fonts are looked for only when they are needed.
        self._system_fonts = system_fonts
        self._own: tuple[FontFile, ...] = ()
        for folder in font_dirs:
            faces = folder_faces(Path(folder).expanduser()) if Path(folder).expanduser().is_dir() else ()
            if not faces:
                raise UserError(f"font_dirs names {folder!r}, which is not a folder with {', '.join(SUFFIXES)} fonts")
            self._own += faces
        self._families: dict[str, dict[tuple[bool, bool], FontFile]] = {}
        self._ranked: dict[tuple[tuple[str, ...], bool, bool], list[FontFile]] = {}
        #: The first face of a family and style, and characters that it is known to have: most words need no more.
        self._known: dict[tuple[str, bool, bool], tuple[FontFile, set[str]]] = {}
        self._by_cluster: dict[tuple[tuple[str, ...], str, bool, bool, str], FontFile | None] = {}
        #: Characters that the face of a family and style is known to have.
        self._covered: dict[tuple[object, ...], set[str]] = {}
        self._by_script: dict[tuple[object, ...], str | None] = {}

    @property
    def system_faces(self) -> tuple[FontFile, ...]:
        """The system's faces, none when ``system_fonts`` is off."""
        if not self._system_fonts:
            return ()
        return tuple(face for folder in system_folders() for face in folder_faces(folder))

    def family(self, name: str) -> dict[tuple[bool, bool], FontFile]:
        """Return the faces of a family by (bold, italic); the upright one is always there.

        Args:
            name: name of a family, or path of a font file.

        Raises:
            UserError: when there is no such family or file.
        """
        if name not in self._families:
            self._families[name] = self._find_family(name)
        return self._families[name]

    def _find_family(self, name: str) -> dict[tuple[bool, bool], FontFile]:
        if name.lower().endswith(SUFFIXES):
            path = Path(name).expanduser()
            if len(path.parts) == 1 and not path.exists():
                path = bundled_folder() / name  # a file of matplotlib's wheel, as STIXGeneralItalic.ttf
            if not path.is_file():
                raise UserError(f"fonts names the file {name!r}, which does not exist")
            return {(False, False): read_faces(path)[0]}
        for faces in (bundled_faces(), self._own, self.system_faces):
            found = {
                FACES[face.style.lower()]: face
                for face in reversed(faces)
                if face.family.lower() == name.lower() and face.style.lower() in FACES
            }
            if found:
                return {(False, False): next(iter(found.values())), **found}
        known = sorted({face.family for face in (*bundled_faces(), *self._own, *self.system_faces)})
        raise UserError(
            f"fonts names the family {name!r}, which is not installed; give a font file's path, a folder in font_dirs, "
            f"or one of the {len(known)} families here: {', '.join(known[:12])}{', …' if len(known) > 12 else ''}"
        )

    def runs(self, text: str, family: str, bold: bool, italic: bool, region: str) -> list[tuple[str, FontFile | None]]:
        """Split a word into runs of one face; ``None`` where no font has the character.

        The word stays whole when one face has all of it, so that letters join.

        Args:
            text: without white space.
            family: family that is tried first.
            bold: use bold faces where there are some.
            italic: use italic faces where there are some.
            region: region whose forms of Chinese characters are used: SC, TC, HK, JP or KR.
        """
        first = self._known.get((family, bold, italic))
        if first and first[1].issuperset(text):
            return [(text, first[0])]
        own = self._own_faces(family, bold, italic)
        needed = {ord(character) for character in text if not is_ignorable(character)}
        for face in own:
            if coverage(face.path, face.index).has_all(needed):
                if face == own[0]:
                    self._known.setdefault((family, bold, italic), (face, set()))[1].update(text)
                return [(text, face)]
        has = coverage(own[0].path, own[0].index)
        missing = next(character for character in text if ord(character) in needed and ord(character) not in has)
        found = self._face_for((missing,), family, bold, italic, region)
        if found and coverage(found.path, found.index).has_all(needed):
            return [(text, found)]
        runs: list[tuple[str, FontFile | None]] = []
        for cluster in grapheme_clusters(text):
            letters = tuple(character for character in cluster if not is_ignorable(character))
            whole = self._face_for(letters, family, bold, italic, region)
            if whole:
                _append_run(runs, cluster, whole)
                continue
            for character in cluster:  # no one font has the letter and its mark: set them apart
                if is_ignorable(character):
                    _append_run(runs, character, runs[-1][1] if runs else own[0])
                else:
                    _append_run(runs, character, self._face_for((character,), family, bold, italic, region))
        return runs

    def scripts(self, text: Iterable[str], style: FontStyle) -> tuple[tuple[str, str], ...]:
        """Return the families that set a whole script of a paragraph, where its own family lacks a letter of it.

        Args:
            text: the paragraph, or its characters.
            style: its font.

        Returns:
            Pairs of a script and the first family that has all letters of that script in the text; none for a script
            whose letters no one font has.
        """
        face = style.family, style.bold, style.italic
        known = self._covered.get(face)
        if known is None:
            known = self._covered[face] = set()
        if known.issuperset(text):  # most paragraphs
            return ()
        own = self._own_faces(style.family, style.bold, style.italic)[0]
        has = coverage(own.path, own.index)
        characters = set(text)
        known.update(character for character in characters if ord(character) in has)
        lacking = {script_of(character) for character in characters - known}
        found: list[tuple[str, str]] = []
        for script in sorted(lacking - {""}):
            letters = tuple(sorted(character for character in characters if script_of(character) == script))
            key = (letters, *style[:1], *style[2:5])
            if key not in self._by_script:
                if len(self._by_script) >= _REMEMBERED_CLUSTERS:
                    self._by_script.clear()
                self._by_script[key] = self._family_for(letters, style)
            family = self._by_script[key]
            if family:
                found.append((script, family))
        return tuple(found)

    def _family_for(self, letters: tuple[str, ...], style: FontStyle) -> str | None:
        needed = {ord(letter) for letter in letters}
        faces = self._candidates(letters, style.family, style.bold, style.italic, style.region)
        named = (face for face in faces if face.style.lower() in FACES)
        return next((face.family for face in named if coverage(face.path, face.index).has_all(needed)), None)

    def _face_for(
        self, letters: tuple[str, ...], family: str, bold: bool, italic: bool, region: str
    ) -> FontFile | None:
        """Return the first face that has all letters of a cluster; remembered, as clusters repeat."""
        key = (letters, family, bold, italic, region)
        if key not in self._by_cluster:
            if len(self._by_cluster) >= _REMEMBERED_CLUSTERS:
                self._by_cluster.clear()
            needed = {ord(letter) for letter in letters}
            faces = self._candidates(letters, family, bold, italic, region)
            self._by_cluster[key] = next(
                (face for face in faces if coverage(face.path, face.index).has_all(needed)), None
            )
        return self._by_cluster[key]

    def _own_faces(self, family: str, bold: bool, italic: bool) -> list[FontFile]:
        own = self.family(family)
        return [own[style] for style in ((bold, italic), (bold, False), (False, False)) if style in own]

    def _candidates(
        self, letters: tuple[str, ...], family: str, bold: bool, italic: bool, region: str
    ) -> Iterator[FontFile]:
        yield from self._own_faces(family, bold, italic)
        for name in ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"):
            faces = self.family(name)
            yield faces.get((bold, italic), faces[False, False])
        key = (script_words(letters[0], region) if letters else (), bold, italic)
        if key not in self._ranked:
            self._ranked[key] = [
                face
                for folder in (self._own, self.system_faces)
                for face in sorted(folder, key=lambda face: _rank(face, *key))
            ]
        yield from self._ranked[key]


def _append_run(runs: list[tuple[str, FontFile | None]], text: str, face: FontFile | None) -> None:
    """Add text to the last run when it has the same face, else as a new run."""
    if runs and runs[-1][1] == face:
        runs[-1] = (runs[-1][0] + text, face)
    else:
        runs.append((text, face))


def _rank(face: FontFile, words: tuple[str, ...], bold: bool, italic: bool) -> tuple[int | str, ...]:
    """Order fallback faces: made for the script, in the wanted style, plain rather than special, then by name."""
    style = FACES.get(face.style.lower())
    name = face.family.lower()
    made_for = min((place for place, word in enumerate(words) if word in name), default=len(words))
    special = sum(word in name for word in _SPECIAL)
    upright = 0 if style == (bold, italic) else 1 if style == (False, False) else 2 if style else 3
    return (made_for, special, upright, face.family, face.style, face.index)
