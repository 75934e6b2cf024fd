"""Which column of a table is the image, the text, the prompt: found by type and name, or set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from deepsynth.errors import UserError

#: Value of a field option that has the column found.
AUTO = "auto"

#: Names of columns by what they hold, the likeliest first. The first one is looked for in every row.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "target": ("target",),
    "prompt": ("prompt",),
    "id": ("id", "__key__"),
    "language": ("language", "lang"),
    "source": ("source",),
}
#: More names in tables of images, where the rest of a row speaks of the image.
_NAMES_BESIDE_IMAGES: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("transcription", "transcript", "ground_truth", "gt", "gt_text", "ocr", "ocr_text", "sentence", "markdown"),
        *("label", "caption", "answer", "response", "output", "txt", "gt.txt", "md"),
    ),
    "prompt": ("instruction", "question", "query"),
}
#: Columns of these names are images whatever they hold; what is not one is an error.
_IMAGE_NAMES = ("image", "images")
#: Words in the names of columns whose texts are taken for paths of images when they end like one.
_PATH_WORDS = frozenset({"image", "images", "img", "scan", "page", "photo", "picture", "file", "filename", "path"})
_IMAGE_PATH = re.compile(
    r"(data:image/|\S.*\.(png|jpe?g|jfif|tiff?|webp|bmp|gif|jp2|avif|hei[cf]|p[bgpn]m|pdf)\Z)", re.IGNORECASE
)
#: First bytes of images.
_MAGIC = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
    b"BM",
    b"GIF8",
    b"%PDF",
    b"\0\0\0",
    b"P4",
    b"P5",
    b"P6",
)
_CONVERSATIONS = ("messages", "conversations")

#: Largest number of names that a message lists.
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table by what they hold; ``None`` for what no column holds.

    ``fields`` are those that are kept by their own names.
    """

    image: str | None = None
    text: str = "text"
    target: str | None = "target"
    prompt: str | None = "prompt"
    id: str = "id"
    language: str = "language"
    source: str = "source"
    fields: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the names of the columns that are used."""
        values = (getattr(self, role) for role in _roles())
        return (*(name for name in values if name is not None), *self.fields)

    def described(self, found: Iterable[str]) -> str:
        """Return one line that says what the columns of a table are taken for.

        Args:
            found: names of its columns.
        """
        columns = dict.fromkeys(found)
        named = [(role, getattr(self, role)) for role in _roles()] + [("field", name) for name in self.fields]
        used = [f"{role} = {name!r}" for role, name in named if name in columns]
        unused = [name for name in columns if name not in self.names()]
        return ", ".join(used) + (f"; not used: {listed(unused)}" if unused else "")


def _roles() -> list[str]:
    return [role.name for role in fields(Columns) if role.name != "fields"]


def find_columns(
    where: str, rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, str | None], found: Iterable[str] = ()
) -> Columns:
    """Return which column holds what.

    Args:
        where: name of the table for error messages.
        rows: its first rows.
        chosen: columns by what they hold, as the user set them: :data:`AUTO` to find them, ``None`` for none.
        found: names of columns that the rows may lack.

    Raises:
        UserError: when a column that was set is not there, several may be the image, or the rows are conversations.
    """
    names = list(dict.fromkeys([*found, *(name for row in rows for name in row)]))
    for column in chosen.values():
        if column not in (None, AUTO, *names):
            raise UserError(f"{where}: no field {column!r}; the fields found are {listed(names)}")
    image = chosen["image"]
    if image == AUTO:
        image = _image_column(where, names, rows)
    columns: dict[str, str | None] = {"image": image}
    for role, likely in _NAMES.items():
        column = chosen[role]
        if column == AUTO:
            candidates = likely if image is None else (*likely, *_NAMES_BESIDE_IMAGES.get(role, ()))
            column = next((name for name in candidates if name in names and _is_text(name, rows)), likely[0])
        columns[role] = column
    if image is None and found and columns["text"] not in names and not any(name in names for name in _CONVERSATIONS):
        raise UserError(f"{where}: no field {columns['text']!r}; the fields found are {listed(names)}")
    chat = [name for name in _CONVERSATIONS if name in names]
    if chat and columns["text"] not in names:
        raise UserError(f"{where}: the field {chat[0]!r} holds conversations; read them with ConversationSource")
    return Columns(**columns)  # type: ignore[arg-type]  # only image, target and prompt can be None


def listed(names: Iterable[str]) -> str:
    """Return names for a message."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - _NAMES_SHOWN} more" if len(quoted) > _NAMES_SHOWN else ""
    return ", ".join(quoted[:_NAMES_SHOWN]) + more if quoted else "none"


def _is_text(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a column may hold texts or labels: the first of its values that is not null is one."""
    value = next((row[name] for row in rows if row.get(name) is not None), None)
    return name in (names[0] for names in _NAMES.values()) or isinstance(value, str) or value is None


def _image_column(where: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    for name in _IMAGE_NAMES:
        if name in names:
            return name
    for test in (_holds_image, _holds_path):
        likely = [name for name in names if any(test(name, row.get(name)) for row in rows)]
        if len(likely) > 1:
            raise UserError(f"{where}: {listed(likely)} may be the image; set image_field to one of them")
        if likely:
            return likely[0]
    return None


def _holds_image(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_image(name, item) for item in value)
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= set(value) and len(value) == 2
    if isinstance(value, str):
        return value[:11].lower() == "data:image/"
    return isinstance(value, bytes) and value.startswith(_MAGIC)


def _holds_path(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_path(name, item) for item in value)
    words = re.split(r"[^a-z]+", name.lower())
    return bool(_PATH_WORDS & set(words)) and isinstance(value, str) and bool(_IMAGE_PATH.match(value))
