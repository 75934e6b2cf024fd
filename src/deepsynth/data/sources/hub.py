"""Documents from a dataset on the Hugging Face Hub, or from one in a local folder, through the ``datasets`` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.data.sources.base import (
    DEFAULT_ID_FIELD,
    DEFAULT_LANGUAGE_FIELD,
    DEFAULT_SOURCE_FIELD,
    DEFAULT_TARGET_FIELD,
    DEFAULT_TEXT_FIELD,
    RowSource,
)
from deepsynth.errors import UserError
from deepsynth.io.images import highest_max_pixels, open_image
from deepsynth.io.paths import file_below

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class HubSource(RowSource):
    """Read documents from a dataset: texts to render, or pages that are images already.

    Pages that ``deepsynth hub push-data`` pushed come back with their image and text.

    Args:
        repo_id: ``owner/name`` on the Hub, or a local folder of data files or of ``Dataset.save_to_disk``.
        name: configuration of the dataset, where it has several.
        split: such as ``train`` or ``validation``; slices such as ``train[:100]`` too unless streaming.
        revision: branch, tag or commit on the Hub.
        streaming: read over the network row by row, instead of first downloading the whole.
        image_field: a column of the ``datasets.Image`` feature; without one, the text is rendered.
        text_field: the text to render, or the image's transcription.
        target_field: text that the model is to write; null, or absent under its default name: the text itself.
        id_field: unique ids; if absent under its default name: a hash of the image or text.
        language_field: language code; optional (only required if you set a non-default name).
        source_field: name of the collection; optional (only required if you set a non-default name).
        outside_paths: allow rows to name images anywhere on this machine, instead of in the data set's own folder
            and in the caches of its library; only for data sets that you trust.
    """

    repo_id: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    image_field: str = "image"
    text_field: str = DEFAULT_TEXT_FIELD
    target_field: str | None = DEFAULT_TARGET_FIELD
    id_field: str = DEFAULT_ID_FIELD
    language_field: str = DEFAULT_LANGUAGE_FIELD
    source_field: str = DEFAULT_SOURCE_FIELD
    outside_paths: bool = False

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(dataset, split and row from 1, fields)``; images stay encoded.

        Raises:
            UserError: when the dataset cannot be reached or read, or lacks a field.
        """
        import datasets
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HfHubHTTPError

        where = f"{self.repo_id} ({self.split})"
        number = 0
        try:
            table = self._open()
            features = table.features or {}
            has_images = isinstance(features.get(self.image_field), datasets.Image)
            if table.column_names:
                self.check_fields(where, table.column_names, has_images)
                wanted = (*self.fields(), *((self.image_field,) if has_images else ()))
                table = table.select_columns([name for name in table.column_names if name in wanted])
            if has_images:
                # Encoded bytes instead of pixels: a page is then a hundred times smaller until it is needed.
                table = table.cast_column(self.image_field, datasets.Image(decode=False))
            for number, row in enumerate(table, 1):
                yield f"{where}, row {number}", self._with_image(f"{where}, row {number}", row) if has_images else row
        except (DatasetsError, HfHubHTTPError, OSError) as error:
            raise UserError(f"{where}: cannot be read (after row {number}): {_first_line(error)}") from None

    def image(self, row: Mapping[str, Any]) -> Path | bytes | None:
        """Return the row's encoded image or its file, or ``None`` when the dataset has no images."""
        image = row.get(self.image_field)
        return image if isinstance(image, Path | bytes) else None

    def _open(self) -> datasets.Dataset | datasets.IterableDataset:
        import datasets

        folder = Path(self.repo_id).expanduser()
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            if isinstance(saved, datasets.DatasetDict):
                if self.split not in saved:
                    raise UserError(f"{self.repo_id}: no split {self.split!r}; the splits are {', '.join(saved)}")
                saved = saved[self.split]
            return saved.to_iterable_dataset() if self.streaming else saved
        try:
            return datasets.load_dataset(
                str(folder) if folder.is_dir() else self.repo_id,
                name=self.name,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )
        except ValueError as error:  # an unknown split, configuration or name
            raise UserError(f"{self.repo_id} ({self.split}): {_first_line(error)}") from None

    def _with_image(self, where: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        encoded = row[self.image_field]
        if encoded is None:
            raise UserError(f"{where}: the field {self.image_field!r} is null; remove the row")
        image: Path | bytes
        if encoded["bytes"] is None:
            image, digest = self._own_file(where, str(encoded["path"])), str(encoded["path"]).encode()
        else:
            image = digest = encoded["bytes"]
            try:
                open_image(image, highest_max_pixels())  # the pipeline has the limit that was set
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
        opened = {**row, self.image_field: image}
        if self.id_field == DEFAULT_ID_FIELD and row.get(self.id_field) is None:
            opened[self.id_field] = hashlib.sha256(digest).hexdigest()[:16]
        return opened

    def _own_file(self, where: str, name: str) -> Path:
        """Return the path of an image that a row names instead of holding it."""
        import datasets
        from huggingface_hub import constants

        folder = Path(self.repo_id).expanduser()
        caches = (constants.HF_HUB_CACHE, datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)
        for root in (folder, *map(Path, caches)):
            if Path(name).resolve().is_relative_to(root.resolve()):
                return Path(name)
        try:
            return file_below(folder, Path(name).absolute(), outside=self.outside_paths)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
