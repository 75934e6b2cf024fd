"""A source for data sets of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepsynth.data.sources.columns import AUTO, Columns, listed
from deepsynth.data.sources.conversations import IMAGE_FIELDS, MESSAGE_FIELDS, exchanges_of
from deepsynth.data.sources.hub import HubSource, encoded_rows, open_dataset
from deepsynth.data.sources.image_values import ImagePlace
from deepsynth.data.sources.row_files import jsonl_rows, list_files
from deepsynth.data.sources.rows import BlankPages, Row, RowSource, say_once
from deepsynth.errors import UserError

_USED = frozenset(
    {*MESSAGE_FIELDS, *IMAGE_FIELDS, "system", "query", "response", "history", "id", "language", "source"}
)


@dataclass(frozen=True)
class ConversationSource(RowSource):
    """Read conversations about images: the prompt is what the row says, the label the assistant's text.

    The rows are those of OpenAI, TRL, Unsloth and ms-swift (``messages``), of ShareGPT, LLaVA and LLaMA-Factory
    (``conversations``), or of ms-swift's ``query`` and ``response``. Images stand in ``images`` or ``image`` with
    ``<image>`` in the texts, or in the messages themselves. A second answer about the same images has the ending
    ``~turn2`` in its id.

    Args:
        path: a file of JSON lines, a JSON list or Parquet; a folder of such files or of ``Dataset.save_to_disk``; or
            ``owner/name`` on the Hub.
        turns: which answers are samples: ``all``, or the ``last`` of each conversation.
        split: of a data set on the Hub or in a folder.
        streaming: read a data set over the network row by row, instead of first downloading the whole.
        outside_paths: allow images outside the file's folder; only for rows that you trust, since what they name can be
            published.
        blank_pages: answers that are empty: of unknown text (``error`` when training), samples (``keep``), or left out
            (``skip``).
    """

    path: Path | str
    turns: Literal["all", "last"] = "all"
    split: str = "train"
    streaming: bool = False
    outside_paths: bool = False
    blank_pages: BlankPages = "error"
    image_field: str | None = field(default=AUTO, init=False)
    text_field: str = field(default=AUTO, init=False)
    target_field: str | None = field(default=None, init=False)
    prompt_field: str | None = field(default=AUTO, init=False)
    id_field: str = field(default=AUTO, init=False)
    language_field: str = field(default=AUTO, init=False)
    source_field: str = field(default=AUTO, init=False)

    def rows(self) -> Iterator[Row]:
        """Yield a row for each answer.

        Raises:
            UserError: when the data set cannot be read.
        """
        unused: dict[str, None] = {}
        for row in self._conversations():
            unused |= dict.fromkeys(name for name in row.fields if name not in _USED)
            if unused:
                say_once(f"{self.origin}: conversations; not used: {listed(unused)}")
            try:
                exchanges = [] if row.error else list(exchanges_of(row.fields, last=self.turns == "last"))
            except UserError as error:
                yield Row.of(row.where, UserError(f"{row.where}: {error}"))
                continue
            if row.error:
                yield row
            identity = row.fields.get("id")
            for number, exchange in enumerate(exchanges, 1):
                fields: dict[str, Any] = {"image": list(exchange.images), "prompt": exchange.prompt}
                fields |= {name: row.fields[name] for name in ("language", "source") if name in row.fields}
                if exchange.answer is not None:
                    fields["text"] = exchange.answer
                if identity is not None:
                    fields["id"] = identity if number == 1 else f"{identity}~turn{number}"
                yield Row(row.where, fields, row.folder)

    def columns(self, where: str, head: Sequence[Mapping[str, Any]], found: Iterable[str] = ()) -> Columns:
        """Return the columns of the rows that are made of conversations."""
        return Columns("image", target=None)

    def image_place(self, folder: Path | None) -> ImagePlace:
        """Return where images may lie."""
        return HubSource(str(self.path), outside_paths=self.outside_paths).image_place(folder)

    def _conversations(self) -> Iterator[Row]:
        place = Path(self.path).expanduser()
        if place.is_dir() and any(place.glob("*.jsonl")):
            files = list_files(place, ".jsonl")
        elif place.is_file() and place.suffix.lower() != ".parquet":
            files = [place]
        else:
            yield from self._dataset_rows(place)
            return
        for file in files:
            for where, found in jsonl_rows(file):
                yield Row.of(where, found, file.parent)

    def _dataset_rows(self, place: Path) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HfHubHTTPError

        number = 0
        try:
            if place.is_file():
                with pq.ParquetFile(place) as file:
                    rows = (fields for batch in file.iter_batches(batch_size=16) for fields in batch.to_pylist())
                    for number, fields in enumerate(rows, 1):
                        yield Row(f"{place}, row {number}", fields, place.parent)
                return
            table = open_dataset(str(self.path), name=None, split=self.split, revision=None, streaming=self.streaming)
            for number, fields in enumerate(encoded_rows(table), 1):
                where = f"{self.path} ({self.split}), row {number}"
                yield Row(where, fields, place if place.is_dir() else None)
        except (pa.ArrowException, DatasetsError, HfHubHTTPError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.path}: cannot be read (after row {number}): {reason}") from None
