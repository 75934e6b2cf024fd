"""Scans and photographs: documents that are images and skip the renderer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.data.sources.base import (
    DEFAULT_ID_FIELD,
    DEFAULT_LANGUAGE_FIELD,
    DEFAULT_SOURCE_FIELD,
    DEFAULT_TARGET_FIELD,
    DEFAULT_TEXT_FIELD,
    RowSource,
    fields_found,
)
from deepsynth.data.sources.text_files import decoded_lines, jsonl_rows, list_files
from deepsynth.errors import UserError
from deepsynth.io.paths import file_below

#: File name endings that count as images in a folder.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"})


@dataclass(frozen=True)
class ImageSource(RowSource):
    """Read scans with their text, without opening the images.

    ``path`` is a JSON-lines file whose rows name an image (relative to the file) and its text, or a folder. A folder
    with ``*.jsonl`` files is read through them; any other one gives each image below it, with the text of the ``.txt``
    file of the same name beside it. Images without texts can be predicted, not trained on.

    Args:
        path: the file or folder.
        image_field: the image's path.
        text_field: the image's transcription; absent under its default name: unknown.
        target_field: text that the model is to write; null, or absent under its default name: the text itself.
        id_field: unique ids; if absent under its default name: the image's path as the row has it.
        language_field: language code; optional (only required if you set a non-default name).
        source_field: name of the collection; optional (only required if you set a non-default name).
        outside_paths: allow images outside the folder, by ``..``, absolute paths or links: set it only for rows and
            folders that you trust, since what they name can be published.
    """

    path: Path
    image_field: str = "image"
    text_field: str = DEFAULT_TEXT_FIELD
    target_field: str | None = DEFAULT_TARGET_FIELD
    id_field: str = DEFAULT_ID_FIELD
    language_field: str = DEFAULT_LANGUAGE_FIELD
    source_field: str = DEFAULT_SOURCE_FIELD
    outside_paths: bool = False

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(file and line, fields)``.

        Raises:
            UserError: when a file is missing or a line is no JSON object.
        """
        path = Path(self.path).expanduser()
        if path.is_dir() and not any(path.glob("*.jsonl")):
            yield from self._folder_rows(path)
            return
        for file in list_files(path, ".jsonl"):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                raise UserError(f"{file}: an image, not a JSON-lines file or a folder; give its folder")
            for where, row in jsonl_rows(file):
                name = row.get(self.image_field)
                if not isinstance(name, str) or not name:
                    raise UserError(
                        f"{where}: no image path in the field {self.image_field!r}; "
                        f"the fields found are {fields_found(row)}"
                    )
                try:
                    image = file_below(file.parent, name, outside=self.outside_paths)
                except UserError as error:
                    raise UserError(f"{where}: {error}; paths are relative to {file.name}") from None
                yield where, _with_id({**row, self.image_field: image}, self.id_field, name)

    def _folder_rows(self, folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        images = {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        }
        if not images:
            raise UserError(
                f"{folder}: no *.jsonl file and no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in this folder"
            )
        for name in sorted(images):
            file_below(folder, name, outside=self.outside_paths)
            row: dict[str, Any] = {self.image_field: images[name], DEFAULT_ID_FIELD: name}
            beside = images[name].with_suffix(".txt")
            if beside.is_file():
                file_below(folder, beside.relative_to(folder), outside=self.outside_paths)
                row[DEFAULT_TEXT_FIELD] = "".join(line for _, line in decoded_lines(beside)).strip()
            yield str(images[name]), row

    def image(self, row: Mapping[str, Any]) -> Path | None:
        """Return the path of the row's image, which exists."""
        image: Path = row[self.image_field]
        return image


def _with_id(row: dict[str, Any], field: str, fallback: str) -> dict[str, Any]:
    """Return the row with ``fallback`` for an id where it has none under the default name."""
    if field == DEFAULT_ID_FIELD and row.get(field) is None:
        row[field] = fallback
    return row
