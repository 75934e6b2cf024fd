"""The pages of published benchmarks as documents, with what a model is to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepsynth.data.formats.omnidocbench import read_annotations
from deepsynth.data.sources.base import Source
from deepsynth.data.sources.conversations import exchanges_of
from deepsynth.data.sources.row_files import json_objects
from deepsynth.errors import UserError
from deepsynth.io.paths import file_below
from deepsynth.types import Document


@dataclass(frozen=True)
class OmniDocBenchSource(Source):
    """Read the pages of OmniDocBench: its annotations (JSON) and the folder of their images.

    The text of a page is its Markdown in reading order; ``deepsynth evaluate omnidocbench`` scores what a model writes.

    Args:
        path: the annotations, or the folder with ``OmniDocBench.json``.
        images: folder of the images; by default ``images`` beside the annotations.
    """

    path: Path
    images: Path | None = None

    def __iter__(self) -> Iterator[Document]:
        """Yield a document for each page, by the name of its image.

        Raises:
            UserError: for annotations or an image that cannot be read.
        """
        file = annotation_file(Path(self.path))
        folder = self.images or file.parent / "images"
        for page in read_annotations(file):
            name = Path(page.image).name
            text = page.markdown()
            try:
                image = file_below(Path(folder), name)
            except UserError as error:
                raise UserError(f"{file}: {error}") from None
            source = page.attributes.get("data_source")
            yield Document(
                id=name,
                text=text,
                image=image,
                language=page.language,
                source=None if source is None else str(source),
                blank=not text,
            )


def annotation_file(path: Path) -> Path:
    """Return the annotations that a path names: the file itself, or that in the folder.

    Raises:
        UserError: when a folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = [path / "OmniDocBench.json"] if (path / "OmniDocBench.json").is_file() else sorted(path.glob("*.json"))
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} files of annotations; give the JSON of OmniDocBench itself")
    return found[0]


@dataclass(frozen=True)
class FoxSource(Source):
    """Read the pages of Fox: dense pages of PDFs with their text (Liu et al. 2024, https://arxiv.org/abs/2405.14295).

    The prompt of the rows is not used: it is that of another model.

    Args:
        path: the folder ``focus_benchmark_test``, with ``en_page_ocr.json`` and ``en_pdf_png``.
        language: ``en``, or ``cn`` for the Chinese pages.
    """

    path: Path
    language: Literal["en", "cn"] = "en"

    def __iter__(self) -> Iterator[Document]:
        """Yield a document for each page, by the name of its image.

        Raises:
            UserError: for annotations or an image that cannot be read.
        """
        folder = Path(self.path)
        for where, row in json_objects(folder / f"{self.language}_page_ocr.json"):
            try:
                yield self._document(row, folder / f"{self.language}_pdf_png")
            except UserError as error:
                raise UserError(f"{where}: {error}") from None

    def _document(self, row: dict[str, Any], folder: Path) -> Document:
        name = row.get("image")
        if not isinstance(name, str):
            raise UserError(f"image is {name!r}; it must be the name of a file in {folder.name}")
        text = next(exchanges_of(row, last=True)).answer
        if text is None:
            raise UserError("the conversation has no answer; it must be the text of the page")
        language = "zh" if self.language == "cn" else "en"
        return Document(id=name, text=text, image=file_below(folder, name), language=language, blank=not text)
