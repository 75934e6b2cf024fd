"""Texts and names in the fields of rows."""

from __future__ import annotations

import json
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


def field_of(where: str, row: Mapping[str, Any], field: str, optional: bool) -> str:
    """Return a field as the text that a model is to write: a text as it is, other values as JSON.

    Args:
        where: the row, for messages.
        row: values by name.
        field: name of the field.
        optional: give "" for a value that is absent or empty.

    Raises:
        UserError: for a value that is absent, empty or not to be written, unless it is optional.
    """
    value = row.get(field)
    if isinstance(value, str):
        text = unix_line_ends(unicode_text(where, field, value)).strip()
    elif value is None:
        text = ""
    else:
        try:
            text = unicode_text(where, field, json.dumps(value, ensure_ascii=False))
        except TypeError:
            raise UserError(
                f"{where}: {field} is of type {type(value).__name__}; data.target 'field:{field}' needs a text, a "
                "number, or lists and objects of them"
            ) from None
    if not text and not optional:
        found = "is empty" if field in row else f"is missing; the fields found are {listed(row)}"
        raise UserError(f"{where}: the field {field!r}, which data.target names, {found}; give every row one")
    return text


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
            f"{error.start}; it is not valid Unicode"
        ) from None
    return value
