"""Texts and names in the fields of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepsynth.data.sources.base import unix_line_ends
from deepsynth.data.sources.columns import listed
from deepsynth.errors import UserError


def text_of(where: str, row: Mapping[str, Any], field: str, optional: bool) -> str:
    """Return a text field, "" when it is null, or absent where that is allowed."""
    if field not in row and not optional:
        raise UserError(f"{where}: no field {field!r}; the fields found are {listed(row)}")
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is of type {type(value).__name__}; it must be a text")
    return unix_line_ends(unicode_text(where, field, value))


def label_of(where: str, row: Mapping[str, Any], field: str, optional: bool) -> str | None:
    """Return an id, language or source name, ``None`` when it is null, or absent where that is allowed."""
    if field not in row and not optional:
        raise UserError(f"{where}: no field {field!r}; the fields found are {listed(row)}")
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{where}: {field} is of type {type(value).__name__}; it must be a name or a number")
    label = unicode_text(where, field, str(value)).strip()
    if not label:
        raise UserError(f"{where}: {field} is empty; give it a value or remove it")
    return label


def unicode_text(where: str, field: str, value: str) -> str:
    """Return a value that can be written.

    Raises:
        UserError: for half a surrogate pair, which JSON can name and no file can hold.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the field {field!r} has half a surrogate pair, {value[error.start]!r} at character "
            f"{error.start}; it is no Unicode text"
        ) from None
    return value
