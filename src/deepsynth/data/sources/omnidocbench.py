"""The pages of OmniDocBench as documents, with their Markdown as what a model is to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepsynth.data.formats.omnidocbench import read_annotations
from deepsynth.data.sources.base import Source
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
