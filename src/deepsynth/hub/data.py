"""Rendered pages as a dataset on the Hub: Parquet shards of images and texts, pushed one by one.

A shard's name holds a hash of the documents and settings that it was made from. An interrupted or repeated push
renders and sends only what is missing; a changed source replaces the shards that changed, and nothing is stored twice.

``datasets.Dataset.push_to_hub`` does not serve here: it needs all pages rendered, on the local disk, before it can tell
which shards the Hub already has; and it pushes to a repository that is public although a private one was asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.hub.client import HubUnreachableError
from deepsynth.hub.privacy import clean_text, without_local_paths
from deepsynth.hub.pull import with_retries
from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import Backoff, PushWorker
from deepsynth.io.files import explain_write_errors
from deepsynth.io.text import counted
from deepsynth.types import Document, Page

_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SHARD = re.compile(r"data/(?P<split>\w+)-(?P<number>\d{5})-(?P<hash>[0-9a-f]{12})\.parquet")


@dataclass(frozen=True, slots=True)
class Delivery:
    """The effort to deliver one shard, and which shards are this process's.

    Attributes:
        deadline_s: most seconds to try.
        backoff: waits between the attempts.
        part: (I, N): of N processes that push at the same time this one, from 0, has the shards I modulo N.
    """

    deadline_s: float = 1800.0
    backoff: Backoff = field(default_factory=Backoff)
    part: tuple[int, int] = (0, 1)


def push_data(
    documents: Iterable[Document],
    render: Callable[[Document], list[Page]],
    target: Target,
    work_folder: Path,
    *,
    split: str = "train",
    recipe: Mapping[str, Any] | None = None,
    documents_per_shard: int = 500,
    delivery: Delivery | None = None,
) -> list[str]:
    """Render documents and push their pages; a repeated call continues where the last one stopped.

    A row is one page, with the columns of :class:`deepsynth.data.HubSource`: ``id``, ``image``, ``text``, ``target``,
    ``language``, ``source``, ``document_id`` and ``page``.

    Args:
        documents: the documents, the same ones in the same order at each call.
        render: returns the pages of a document; called only for shards that are not on the Hub.
        target: repository of the type ``"dataset"``.
        work_folder: folder in which a shard waits until it is delivered; each of several processes needs its own.
        split: ``train``, ``validation``, ``test`` or another word.
        recipe: settings that the pages depend on (renderer, augmenter, seed); a change makes new shards, and the card
            of the dataset lists them.
        documents_per_shard: number of documents per shard; more make fewer and larger commits.
        delivery: deadline and waits of the delivery of one shard, and which shards are pushed.

    Returns:
        The shards that this call pushed, by their paths in the repository.

    Raises:
        UserError: for a bad split, no documents, a document that cannot be a row, a full disk, or when the Hub cannot
            be reached; calling again continues there.
    """
    if not _SPLIT.fullmatch(split):
        raise UserError(f"split is {split!r}; it must be a word of letters, digits and _, such as 'train'")
    if documents_per_shard < 1:
        raise ValueError(f"documents_per_shard is {documents_per_shard}; it must be at least 1")
    recipe = without_local_paths(dict(recipe or {}))
    present = set(_files_on_hub(target))
    delivery = delivery or Delivery()
    index, parts = delivery.part
    shards = _Shards(Spool.of_run(work_folder, target), target, delivery)
    pushed: list[str] = []
    count = 0
    for number, batch in enumerate(_batches(documents, documents_per_shard)):
        count += 1
        name = f"data/{split}-{number:05d}-{_fingerprint(batch, recipe)}.parquet"
        if name in present or number % parts != index:
            continue
        stale = {old for old in present if _same_place(old, split, number)}
        rows = [row for document in batch for row in _rows(document, render(document))]
        splits = {found["split"] for found in map(_SHARD.fullmatch, present) if found} | {split}
        message = f"{split} shard {number}: {counted(len(rows), 'page')}"
        shards.push(message, _card(target, splits, recipe), {name: rows}, delete=stale)
        present = (present - stale) | {name}
        pushed.append(name)
    if not count:
        raise UserError("data.source has no documents; there is nothing to push")
    found = ((old, _SHARD.fullmatch(old)) for old in present)
    surplus = {old for old, m in found if m is not None and m["split"] == split and int(m["number"]) >= count}
    if surplus and index == 0:  # the source has become shorter
        shards.push(f"remove {len(surplus)} {split} shards", _card(target, {split}, recipe), {}, delete=surplus)
    return pushed


@dataclass(frozen=True, slots=True)
class _Shards:
    """Pushes shards, one commit each."""

    spool: Spool
    target: Target
    delivery: Delivery

    def push(self, message: str, card: str, shards: Mapping[str, list[dict[str, Any]]], *, delete: set[str]) -> None:
        """Write shards and card into the spool, and deliver them.

        Raises:
            UserError: when the disk is full or the commit could not be delivered.
        """
        with explain_write_errors(self.spool.folder, "the shard"):
            staged = self.spool.stage()
            try:
                for name, rows in shards.items():
                    (staged / name).parent.mkdir()
                    _write_parquet(rows, staged / name)
                (staged / "README.md").write_text(card, encoding="utf-8")
                self.spool.seal(staged, self.target, message, delete=sorted(delete))
            finally:
                self.spool.discard(staged)
        worker = PushWorker(self.spool, backoff=self.delivery.backoff)
        if not worker.close(self.delivery.deadline_s):
            reason = worker.last_outcome.message if worker.last_outcome is not None else "no attempt ended"
            raise HubUnreachableError(f"{message}: not delivered ({reason}); the same command continues from here")


def _files_on_hub(target: Target) -> list[str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    def ask() -> list[str]:
        api = HfApi(library_name="deepsynth")
        try:
            info = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=target.revision, timeout=20.0)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if error.response.status_code == 401:
                raise
            return []
        return [sibling.rfilename for sibling in info.siblings or ()]

    return with_retries(target.repo_id, ask)


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


def _fingerprint(documents: list[Document], recipe: Mapping[str, Any]) -> str:
    """Return a hash that tells two shards apart without rendering them."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode())
    for document in documents:
        image = document.image if document.image is None or isinstance(document.image, Path) else "image"
        fields = (document.id, document.text, document.target, document.language, document.source, str(image))
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()[:12]


def _same_place(name: str, split: str, number: int) -> bool:
    found = _SHARD.fullmatch(name)
    return found is not None and found["split"] == split and int(found["number"]) == number


def _rows(document: Document, pages: list[Page]) -> list[dict[str, Any]]:
    if document.target is not None and len(pages) > 1:
        raise UserError(
            f"document {document.id!r} has a target and {len(pages)} pages, but a row of the dataset is one page; "
            "push the texts instead, or use larger pages"
        )
    return [
        {
            "id": document.id if len(pages) == 1 else f"{document.id}#{page.number}",
            "image": {"bytes": _png(page), "path": None},
            "text": page.text,
            "target": document.target,
            "language": document.language,
            "source": document.source,
            "document_id": document.id,
            "page": page.number,
        }
        for page in pages
    ]


def _png(page: Page) -> bytes:
    buffer = io.BytesIO()
    page.image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow.parquet
    from datasets import Dataset, Features, Image, Value

    names = ("text", "target", "language", "source", "document_id")
    features = Features(
        {"id": Value("string"), "image": Image(), **{n: Value("string") for n in names}, "page": Value("int32")}
    )
    # The schema of the table tells the datasets library which column holds images.
    table = Dataset.from_list(rows, features=features).data.table
    pyarrow.parquet.write_table(table, path, row_group_size=100)


def _card(target: Target, splits: set[str], recipe: Mapping[str, Any]) -> str:
    """Return the dataset card (README.md), without local paths and tokens."""
    from huggingface_hub import DatasetCardData

    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in sorted(splits)]
    metadata = DatasetCardData(
        task_categories=["image-to-text"],
        tags=["ocr", "deepsynth"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    lines = [f"- {key}: {value}" for key, value in recipe.items() if value is not None]
    body = f"# {target.repo_id.split('/')[-1]}\n\nPage images with the text that they show, rendered by DeepSynth.\n"
    shown = clean_text("\n## Recipe\n\n" + "\n".join(lines) + "\n") if lines else ""
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}{shown}"
