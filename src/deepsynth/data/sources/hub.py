"""Documents from a dataset on the Hugging Face Hub, or from one in a local folder, through the ``datasets`` library."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsynth.data.sources.columns import AUTO
from deepsynth.data.sources.image_values import ImagePlace
from deepsynth.data.sources.rows import HEAD_ROWS, BlankPages, Row, RowSource
from deepsynth.errors import UserError

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
        image_field: scan: an Image feature, bytes, ``{bytes, path}``, a path within the data set's folder, a data URL,
            or a list of these (pages); ``auto`` finds it; null to render the texts whatever else the rows hold.
        text_field: the text to render, or what the image shows.
        target_field: text that the model is to write; null, or empty in every row: the text itself.
        id_field: unique ids; without them a hash of the image or text.
        language_field: language code.
        source_field: name of the collection.
        outside_paths: allow rows to name images anywhere on this machine, instead of in the data set's own folder
            and in the caches of its library; only for data sets that you trust.
        prompt_field: the row's prompt; null for that of the task.
        blank_pages: scans whose text is empty: of unknown text (``error`` when training), samples (``keep``), or left
            out (``skip``).
    """

    repo_id: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    image_field: str | None = AUTO
    text_field: str = AUTO
    target_field: str | None = AUTO
    id_field: str = AUTO
    language_field: str = AUTO
    source_field: str = AUTO
    outside_paths: bool = False
    prompt_field: str | None = AUTO
    blank_pages: BlankPages = "error"

    def rows(self) -> Iterator[Row]:
        """Yield the rows, with data set, split and row from 1; images stay encoded.

        Raises:
            UserError: when the dataset cannot be reached or read, or lacks a field.
        """
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HfHubHTTPError

        where = f"{self.repo_id} ({self.split})"
        folder = Path(self.repo_id).expanduser()
        number = 0
        try:
            table = self._open()
            head = list(itertools.islice(encoded_rows(table), HEAD_ROWS))
            names = table.column_names or list(dict.fromkeys(name for row in head for name in row))
            columns = self.columns(where, head, names)
            table = table.select_columns([name for name in names if name in columns.names()])
            for number, fields in enumerate(encoded_rows(table), 1):
                yield Row(f"{where}, row {number}", fields, folder if folder.is_dir() else None)
        except (DatasetsError, HfHubHTTPError, OSError) as error:
            raise UserError(f"{where}: cannot be read (after row {number}): {_first_line(error)}") from None

    def image_place(self, folder: Path | None) -> ImagePlace:
        """Return where images may lie: in the data set's folder, and in the caches of its library."""
        import datasets
        from huggingface_hub import constants

        caches = (constants.HF_HUB_CACHE, datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)
        return ImagePlace(folder, tuple(map(Path, caches)), self.outside_paths)

    def _open(self) -> datasets.Dataset | datasets.IterableDataset:
        return open_dataset(
            self.repo_id, name=self.name, split=self.split, revision=self.revision, streaming=self.streaming
        )


def open_dataset(
    repo_id: str, *, name: str | None, split: str, revision: str | None, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    """Open a data set of the Hub or of a folder; see :class:`HubSource` for the arguments.

    Raises:
        UserError: for a split, configuration or name that is not there.
    """
    import datasets

    folder = Path(repo_id).expanduser()
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise UserError(f"{repo_id}: no split {split!r}; the splits are {', '.join(saved)}")
            saved = saved[split]
        return saved.to_iterable_dataset() if streaming else saved
    path = str(folder) if folder.is_dir() else repo_id
    try:
        return datasets.load_dataset(path, name=name, split=split, revision=revision, streaming=streaming)
    except ValueError as error:  # an unknown split, configuration or name
        raise UserError(f"{repo_id} ({split}): {_first_line(error)}") from None


def encoded_rows(table: datasets.Dataset | datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, images as ``{bytes, path}``: a decoded page is a hundred times larger."""
    for row in table.with_format("arrow"):  # which decodes nothing, and copies nothing
        yield from row.to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
