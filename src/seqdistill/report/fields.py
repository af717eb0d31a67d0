"""Fields of JSON objects as the types they must have, or an error that names file and key.

A damaged part is refused: a report with a silent hole would be believed. Does not know what the
fields mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from seqdistill.core.errors import UserError
from seqdistill.records.atomic import JsonValue


def numbers_at(holder: object, key: str, where: str) -> tuple[float, ...]:
    """The numbers listed under the key, which must be there."""
    values = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise wrong(where, key, "a list of numbers", values)
    return tuple(float(value) for value in values)


def rows_at(holder: Mapping[str, JsonValue], key: str, where: str) -> list[dict[str, JsonValue]]:
    """The objects listed under the key; none when it is absent."""
    rows = holder.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise wrong(where, key, "a list of objects", rows)
    found: list[dict[str, JsonValue]] = []
    for row in rows:
        if not isinstance(row, dict):
            raise wrong(where, key, "a list of objects", row)
        found.append(row)
    return found


def text_at(row: Mapping[str, JsonValue], key: str) -> str | None:
    """The value as text; None when it is absent."""
    value = row.get(key)
    return None if value is None else str(value)


def texts_at(row: Mapping[str, JsonValue], key: str, where: str) -> list[str]:
    """The texts listed under the key; none when it is absent."""
    values = row.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise wrong(where, key, "a list of texts", values)
    return [str(value) for value in values]


def needed_text(row: Mapping[str, JsonValue], key: str, where: str) -> str:
    """The value as text, which must be there."""
    value = text_at(row, key)
    if value is None:
        raise wrong(where, key, "a text", value)
    return value


def number_at(row: Mapping[str, JsonValue], key: str, where: str) -> float | None:
    """The number; None when it is absent or not finite."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(where, key, "a number", value)
    return float(value) if math.isfinite(value) else None


def needed_number(row: Mapping[str, JsonValue], key: str, where: str) -> float:
    """The number, which must be there and finite."""
    value = number_at(row, key, where)
    if value is None:
        raise wrong(where, key, "a number", value)
    return value


def wrong(where: str, key: str, wanted: str, found: JsonValue) -> UserError:
    """The error of a field that is not as wanted: file, key and what was found."""
    return UserError(f"{where}: {key!r} must be {wanted}, got {found!r}; make it again")
