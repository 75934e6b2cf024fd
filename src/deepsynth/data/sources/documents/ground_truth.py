"""The texts beside images: which file belongs to which image, and what it says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from deepsynth.data.formats.alto import read_alto
from deepsynth.data.formats.layout import sniff_layout
from deepsynth.data.formats.page_xml import read_page_xml
from deepsynth.data.sources.row_files import read_text
from deepsynth.errors import UserError
from deepsynth.types import PAGE_BREAK

GroundTruth = Literal["auto", "none", "gt.txt", "txt", "md", "page", "alto"]

#: Endings of files of texts.
TRUTH_SUFFIXES = frozenset({".txt", ".md", ".xml"})
#: Folders beside images in which programs put their XML files.
LAYOUT_FOLDERS = frozenset({"page", "alto", "xml", "pagexml"})
#: Kinds in the order in which they are preferred: ``.gt.txt`` is made by hand, beside what a program wrote.
_KINDS: tuple[GroundTruth, ...] = ("gt.txt", "txt", "md", "page", "alto")


class TruthFiles:
    """Files of texts by the images that they may belong to.

    Args:
        files: candidates.
        wanted: the kind to use; ``auto`` for the likeliest of those that are there.
    """

    def __init__(self, files: Iterable[Path], wanted: GroundTruth) -> None:
        self._wanted = _KINDS if wanted == "auto" else (wanted,)
        self._by_stem: dict[tuple[Path, str], dict[str, Path]] = {}
        self._named: dict[Path, Path] = {}
        self.unknown: list[Path] = []
        for path in files:
            kind, stem = _kind_of(path)
            if kind is None:
                self.unknown.append(path)
                continue
            self._by_stem.setdefault((path.parent, stem), {})[kind] = path
            if path.parent.name.lower() in LAYOUT_FOLDERS:
                self._by_stem.setdefault((path.parent.parent, stem), {}).setdefault(kind, path)

    def add_named_images(self, images: Iterable[Path]) -> None:
        """Let the XML files that stand beside no image belong to the image that they name, as those of OCR-D do."""
        known = {os.path.abspath(image): image for image in images}
        beside = {path for image in known.values() if (path := self.of(image)) is not None}
        for kinds in list(self._by_stem.values()):
            for kind, path in kinds.items():
                if kind not in ("page", "alto") or kind not in self._wanted or path in beside:
                    continue
                name = _image_named(path, kind)
                if not name or "://" in name:
                    continue
                for folder in (path.parent, path.parent.parent):
                    image = known.get(os.path.abspath(folder / name))
                    if image is not None:
                        self._named.setdefault(image, path)
                        break

    def of(self, image: Path) -> Path | None:
        """Return the file with the text of an image; ``None`` if there is none."""
        name = image.name
        # Calamari and OCRopus: line.bin.png and line.nrm.png belong to line.gt.txt.
        for stem in dict.fromkeys((name[: -len(image.suffix)], name, name.partition(".")[0])):
            kinds: Mapping[str, Path] = self._by_stem.get((image.parent, stem), {})
            for kind in self._wanted:
                if kind in kinds:
                    return kinds[kind]
        return self._named.get(image)


def read_truth(path: Path) -> str:
    r"""Return the text of a file: plain as it is, that of PAGE XML and ALTO in reading order, pages apart by ``"\f"``.

    Raises:
        UserError: when the file cannot be read.
    """
    kind, _ = _kind_of(path)
    if kind == "page":
        return read_page_xml(path).text
    if kind == "alto":
        return PAGE_BREAK.join(page.text for page in read_alto(path))
    return read_text(path).strip(" \t\r\n")


def _kind_of(path: Path) -> tuple[str | None, str]:
    """Return the kind of a file of texts and its name without the ending."""
    name = path.name
    if name.lower().endswith(".gt.txt"):
        return "gt.txt", name[: -len(".gt.txt")]
    suffix = path.suffix.lower()
    stem = name[: -len(suffix)]
    return (sniff_layout(path), stem) if suffix == ".xml" else (suffix[1:], stem)


def _image_named(path: Path, kind: str) -> str | None:
    try:
        return read_page_xml(path).image if kind == "page" else read_alto(path)[0].image
    except UserError:
        return None  # it stands beside no image; the summary names it
