"""Rendered pages kept on disk, found again only while nothing that changes a pixel has changed.

A page is a PNG file that any program shows; its text, boxes and statistics are in the file too. The file's name is the
hash of the document's text and language, the generator's state, the renderer's options, the code that draws, the
versions of the libraries that draw, and the fonts that it may draw with. So a cache is never wrong, and never needs to
be cleared for correctness: what no longer fits is not found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, PngImagePlugin, features

from deepsynth.data.fonts.files import bundled_folder, system_folders
from deepsynth.data.rendering.renderer import Renderer
from deepsynth.models import tokens
from deepsynth.types import Document, Line, Page, Word

log = logging.getLogger("deepsynth")

_TEXT_CHUNK = "deepsynth"
#: An sfnt file begins with the directory of its tables and their checksums: it stands for the whole.
_FONT_HEAD_BYTES = 4096


@dataclass(frozen=True)
class CachedRenderer(Renderer):
    """Keep another renderer's pages on disk and take them from there the next time.

    It pays where drawing is dear: a page of 1024 x 1024 is read in about 5 ms, and ``TextRenderer`` draws plain Latin
    text as fast. The generator is left as drawing would have left it, so that a run is the same with and without the
    cache. A damaged file is drawn anew, with a warning; when the disk is full, pages are drawn and not kept, with a
    warning.

    Attributes:
        renderer: draws what is not there.
        folder: of the files; it may be shared by processes and runs. It grows without bound: delete it at will.
    """

    renderer: Renderer
    folder: Path

    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order, from the disk or drawn.

        Raises:
            ValueError: when the renderer refuses the document.
        """
        path = self._path(document, rng)
        first = _read(path(0))
        if first is not None:
            pages = [first, *(_read(path(number)) for number in range(1, first.count))]
            found = [page.page for page in pages if page is not None]
            if len(found) == first.count:
                rng.bit_generator.state = first.state
                return found
        pages_drawn = self.renderer(document, rng)
        for number, page in enumerate(pages_drawn):
            _write(path(number), _Entry(page, len(pages_drawn), rng.bit_generator.state))
        return pages_drawn

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page; when it is not on the disk, all pages of its document are drawn and kept."""
        entry = _read(self._path(document, rng)(number))
        if entry is None:
            return self(document, rng)[number]
        rng.bit_generator.state = entry.state
        return entry.page

    def count_pages(self, document: Document, rng: np.random.Generator) -> int:
        """Return how many pages the document takes: laying out is quick, so the renderer is asked."""
        return self.renderer.count_pages(document, rng)

    def _path(self, document: Document, rng: np.random.Generator) -> _Paths:
        key = hashlib.sha256(self._context)
        state = json.dumps(rng.bit_generator.state, sort_keys=True, default=str)
        for part in (document.text, document.language or "", state):
            key.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
        return _Paths(Path(self.folder).expanduser(), key.hexdigest())

    @cached_property
    def _context(self) -> bytes:
        """Hash all that changes a pixel and is the same for every document."""
        parts = [_options(self.renderer), *_versions(), *_code(type(self.renderer))]
        parts += _fonts(self.renderer)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class _Paths:
    """Where the pages of one document are: two levels, so that no folder gets too large."""

    folder: Path
    key: str

    def __call__(self, number: int) -> Path:
        return self.folder / self.key[:2] / f"{self.key[2:34]}-{number}.png"


@dataclass(frozen=True)
class _Entry:
    """A page, how many its document has, and the generator's state after drawing."""

    page: Page
    count: int
    state: Mapping[str, Any]


def _options(renderer: Renderer) -> str:
    text = f"{type(renderer).__module__}.{type(renderer).__qualname__} {renderer!r} {sorted(vars(renderer).items())!r}"
    if " at 0x" in text:
        raise ValueError(
            f"the pages of {type(renderer).__qualname__} cannot be cached: its options have no stable text "
            f"({renderer!r}); make it a dataclass of plain values, or use it without CachedRenderer"
        )
    return text


def _versions() -> Iterator[str]:
    yield f"numpy {np.__version__} Pillow {PIL.__version__} Unicode {unicodedata.unidata_version} {sys.byteorder}"
    for library in ("freetype2", "raqm", "harfbuzz", "fribidi"):
        yield f"{library} {features.version(library)}"
    for package in ("markdown-it-py", "pyphen"):
        found = importlib.util.find_spec(package.replace("-", "_").removesuffix("_py"))
        yield f"{package} {importlib.metadata.version(package) if found else None}"


def _code(renderer: type[Renderer]) -> Iterator[str]:
    """Yield the hash of every file that may have a part in drawing: this folder's, the modes' and the renderer's."""
    files = {*Path(__file__).parents[1].glob("*.py"), Path(tokens.__file__), Path(inspect.getfile(renderer))}
    for file in sorted(files, key=lambda file: file.name):
        yield f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _fonts(renderer: Renderer) -> list[str]:
    """Return what identifies each font that the renderer may draw with, wherever the files are."""
    folders = [bundled_folder(), *map(Path, getattr(renderer, "font_dirs", ()))]
    if getattr(renderer, "system_fonts", True):
        folders += system_folders()
    files = [file for folder in folders for file in _folder_files(folder.expanduser())]
    files += [file for name in getattr(renderer, "fonts", ()) if (file := Path(name).expanduser()).is_file()]
    return sorted(_font(file) for file in files)


@cache
def _folder_files(folder: Path) -> tuple[Path, ...]:
    return tuple(file for file in folder.rglob("*") if file.is_file())


@cache
def _font(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(_FONT_HEAD_BYTES)
    return f"{file.name} {file.stat().st_size} {hashlib.sha256(head).hexdigest()}"


def _read(path: Path) -> _Entry | None:
    """Return what the file holds, ``None`` when there is none or it is damaged."""
    try:
        with Image.open(path) as file:
            file.load()
            image = Image.merge("RGB", (file, file, file)) if file.mode == "L" else file.convert("RGB")
            fields = json.loads(file.text[_TEXT_CHUNK])  # type: ignore[attr-defined]
        lines = tuple(_line(**line) for line in fields["lines"])
        page = Page(image, fields["text"], lines, fields["number"], fields["stats"])
        return _Entry(page, fields["count"], fields["state"])
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s: %s); its page is drawn anew", path, type(error).__name__, error)
        return None


def _line(words: list[list[Any]], box: list[float], **fields: Any) -> Line:
    drawn = tuple([Word(text, (left, top, right, bottom)) for text, left, top, right, bottom in words])
    left, top, right, bottom = box
    return Line(box=(left, top, right, bottom), words=drawn, **fields)


def _write(path: Path, entry: _Entry) -> None:
    """Write the file whole or not at all, so that a process reading at the same time sees no half."""
    page = entry.page
    lines = [{**asdict(line), "words": [(word.text, *word.box) for word in line.words]} for line in page.lines]
    fields = {"text": page.text, "number": page.number, "stats": dict(page.stats), "count": entry.count}
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(_TEXT_CHUNK, json.dumps({**fields, "lines": lines, "state": entry.state}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                _smallest_mode(page.image).save(file, "PNG", pnginfo=chunk, compress_level=1)
            except OSError:
                os.unlink(file.name)
                raise
        os.replace(file.name, path)
    except OSError as error:
        log.warning("%s is not kept: %s", path, error)


def _smallest_mode(image: Image.Image) -> Image.Image:
    """Return the image in grey where that loses nothing: a third to read."""
    red, green, blue = (channel.tobytes() for channel in image.split())
    return image.getchannel(0) if red == green == blue else image
