"""Any source as files that others read, and that sources of this package read back: the same samples and pixels."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from deepsynth.data.formats.writing import layout_of, write_alto, write_page_xml
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.shards import Shard
from deepsynth.data.sources.base import Skip, tell
from deepsynth.data.sources.documents.listing import RECIPE
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.text import counted
from deepsynth.types import Document, Page, Sample

Format = Literal["jsonl", "parquet", "txt", "page", "alto"]

_FORMATS = ("jsonl", "parquet", "txt", "page", "alto")
_UNSAFE = re.compile(r"[^\w.-]+")
_TEXTS = ("id", "text", "target", "prompt", "language", "source")


def convert(
    documents: Iterable[Document],
    pipeline: Pipeline,
    folder: Path,
    form: Format,
    shard: Shard | None = None,
    documents_per_file: int = 500,
    skip: Skip | None = None,
) -> Iterator[str]:
    """Write the samples that training would see (those of epoch 0), and yield a line for each file or part.

    ``jsonl`` and ``parquet`` have a row for each sample: ``id``, ``image`` (a list where a sample has several pages),
    ``text``, ``target``, ``prompt``, ``language``, ``source``. ``txt`` puts the target beside each image, ``page`` and
    ``alto`` an XML file.
    What an interrupted call has finished is not done again.

    Args:
        documents: documents, in the same order at each call.
        pipeline: stages of the data module.
        folder: folder for the files.
        form: format of the files.
        shard: part of the documents to write; several calls may write into one folder.
        documents_per_file: number of documents in a file of rows.
        skip: called with each sample that cannot be made, to go on behind it; without it the first is raised.

    Raises:
        UserError: for a document that cannot be made or written, a full disk, or a folder of another conversion.
    """
    if form not in _FORMATS:
        raise UserError(f"format is {form!r}; it must be one of {', '.join(_FORMATS)}")
    shard = shard or Shard()
    _check_recipe(folder, pipeline, form, shard, documents_per_file)
    own = (document for number, document in enumerate(documents) if number % shard.count == shard.index)
    if form in ("txt", "page", "alto"):
        yield from _write_beside(own, pipeline, folder, form, skip)
        return
    batches = iter(lambda: list(islice(own, documents_per_file)), [])
    for number, batch in enumerate(batches):
        file = folder / f"data-{shard.index:04d}-{number:05d}.{form}"
        if file.exists():
            yield f"{file}: is there already"
            continue
        if form == "jsonl":
            count = _write_jsonl(_rows(batch, pipeline, skip), file)
        else:
            count = _write_parquet(_rows(batch, pipeline, skip), file, lists=batch[0].is_whole)
        yield f"{file}: {counted(count, 'sample')}"


def _check_recipe(folder: Path, pipeline: Pipeline, form: str, shard: Shard, size: int) -> None:
    """Keep what the files depend on in :data:`RECIPE`, and refuse a folder that was begun with something else."""
    stages = {name: repr(getattr(pipeline, name)) for name in ("renderer", "augmenter", "processor", "text", "seed")}
    recipe = {"format": form, "shards": shard.count, "documents_per_file": size, **stages}
    file = folder / RECIPE
    with explain_write_errors(file, "the conversion"):
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
            return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    for name, value in recipe.items():
        if earlier.get(name) != value:
            raise UserError(
                f"{folder} holds a conversion with another {name}: {earlier.get(name)}, and now {value}; give another "
                "folder, or the same settings to continue"
            )


def _samples(document: Document, pipeline: Pipeline, skip: Skip | None) -> Iterator[tuple[Sample, list[Page]]]:
    """Yield each sample of a document with its pages; those that the processor drops as too long are left out."""
    numbers: Sequence[int | None] = (None,) if document.is_whole else range(pipeline.count_pages(document))
    for number in numbers:
        try:
            pages = pipeline.pages(document, number, 0)
            sample = pipeline.sample_of(document, pages)
        except UserError as error:
            tell(skip, document.id if number is None else f"{document.id}#{number}", error)
            continue
        if sample is not None:
            yield sample, pages


def _rows(
    documents: Sequence[Document], pipeline: Pipeline, skip: Skip | None
) -> Iterator[tuple[dict[str, Any], list[Image.Image]]]:
    """Yield the row of each sample without its images, and the images."""
    for document in documents:
        for sample, pages in _samples(document, pipeline, skip):
            whole = document.target is not None
            row = {
                "id": sample.id,
                "text": "\n".join(page.text for page in pages) if whole else sample.target,
                "target": sample.target if whole else None,
                "prompt": sample.prompt,
                "language": document.language,
                "source": document.source,
            }
            yield row, [page.image for page in pages]


def _write_jsonl(rows: Iterable[tuple[dict[str, Any], list[Image.Image]]], file: Path) -> int:
    lines = []
    for row, images in rows:
        names = []
        for number, image in enumerate(images):
            name = f"images/{_file_name(row['id'])}{f'_{number}' if len(images) > 1 else ''}.png"
            _save(image, file.parent / name)
            names.append(name)
        lines.append(json.dumps({**row, "image": names if len(names) > 1 else names[0]}, ensure_ascii=False) + "\n")
    with explain_write_errors(file, "the rows"), atomic_file(file) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    return len(lines)


def _write_parquet(rows: Iterable[tuple[dict[str, Any], list[Image.Image]]], file: Path, *, lists: bool) -> int:
    import pyarrow.parquet
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from datasets import List as ListFeature

    table: list[dict[str, Any]] = []
    for row, images in rows:
        encoded = [{"bytes": _png(image), "path": None} for image in images]
        if len(encoded) > 1 and not lists:
            raise UserError(f"{row['id']!r} has {len(encoded)} pages, and samples before it one; use the format jsonl")
        table.append({**row, "image": encoded if lists else encoded[0]})
    column = ListFeature(ImageFeature()) if lists else ImageFeature()
    features = Features({**{name: Value("string") for name in _TEXTS}, "image": column})
    with explain_write_errors(file, "the rows"), atomic_file(file) as temporary:
        # The schema tells the datasets library which column holds images.
        data = Dataset.from_list(table, features=features).data.table
        pyarrow.parquet.write_table(data, temporary, row_group_size=100)
    return len(table)


def _write_beside(
    documents: Iterable[Document], pipeline: Pipeline, folder: Path, form: Format, skip: Skip | None
) -> Iterator[str]:
    """Write each page as an image, and beside it a file with its text or its layout."""
    count = 0
    for document in documents:
        for sample, pages in _samples(document, pipeline, skip):
            if form == "txt" and len(pages) > 1:
                raise UserError(f"{sample.id!r} has {len(pages)} pages and one text; use the format jsonl")
            for page in pages:
                name = _file_name(sample.id if len(pages) == 1 else f"{sample.id}#{page.number}")
                path = folder / f"{name}.{'txt' if form == 'txt' else 'xml'}"
                count += 1
                if path.exists():  # written behind its image
                    continue
                _save(page.image, folder / f"{name}.png")
                if form == "txt":
                    with explain_write_errors(path, "the text"), atomic_file(path) as temporary:
                        temporary.write_text(sample.target + "\n", encoding="utf-8", errors="backslashreplace")
                else:
                    write = write_alto if form == "alto" else write_page_xml
                    write(layout_of(page, f"{name}.png"), path)
    yield f"{folder}: {counted(count, 'page')}"


def _file_name(identity: str) -> str:
    """Return a name for the files of a sample; no two ids have the same."""
    name = _UNSAFE.sub("_", identity)[:60].strip(".") or "_"
    return name if name == identity else f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _save(image: Image.Image, path: Path) -> None:
    with explain_write_errors(path, "the page"), atomic_file(path) as temporary:
        temporary.write_bytes(_png(image))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
