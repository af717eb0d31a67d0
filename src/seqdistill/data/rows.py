"""Rows of named values (from JSONL, Parquet, `datasets`) as examples.

It checks every value and reports all offences of a file together. It reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from seqdistill.core.errors import DataError
from seqdistill.data.columns import ID, Layout
from seqdistill.data.examples import Example
from seqdistill.data.offences import Offences, Unit, text_offence

Row = Mapping[str, object]
Turns = tuple[tuple[str, str], ...]


class UnusableRowError(Exception):
    """The sentence about one row; becomes one line of a DataError."""


def examples_from_rows(
    rows: Sequence[Row], layout: Layout, *, file: str, unit: Unit, need_target: bool
) -> list[Example]:
    """One example a row, in order. An id is the row's `id`, else its number counted from 1.

    Raises DataError for values that are missing, not text or empty, and for ids that come twice.
    """
    if not rows:
        raise DataError(f"{file} must hold examples, but it has no {unit}s; give another file")
    offences = Offences(file, unit)
    examples: list[Example] = []
    first_places: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        try:
            example = _example(row, layout, number=number, need_target=need_target)
        except UnusableRowError as error:
            offences.add(number, str(error))
            continue
        first = first_places.setdefault(example.id, number)
        if first != number:
            found = f"found {example.id!r} here and in {offences.place(first)}"
            offences.add(number, f"id must be unique, {found}")
        examples.append(example)
    offences.raise_if_any(len(rows))
    return examples


def _example(row: Row, layout: Layout, *, number: int, need_target: bool) -> Example:
    example_id = _id(row) if layout.has_id else str(number)
    source, target = _sides(row, layout)
    if isinstance(source, list):
        turns = _turns(source, layout.source)
        if layout.target is None:
            prompt, answer = _split_chat(turns, layout.source, need_target=need_target)
        else:
            prompt, answer = turns, _answer(target, layout.target, need_target=need_target)
        if not prompt:
            raise UnusableRowError(f"{layout.source} must hold a turn to answer, found none")
        return Example(example_id, "", answer, prompt)
    if layout.target is None and layout.languages is None and need_target:
        raise UnusableRowError(
            f"{layout.source} must be a list of messages, found {_kind(source)} and no target; "
            "if another column is the target, name it with data.target_column"
        )
    source_name, target_name = _side_names(layout)
    text = _text(source, source_name)
    if not need_target and (target is None or target == ""):
        return Example(example_id, text, None)
    return Example(example_id, text, _text(target, target_name))


def _sides(row: Row, layout: Layout) -> tuple[object, object]:
    if layout.languages is None:
        target = None if layout.target is None else row.get(layout.target)
        return row.get(layout.source), target
    sides = row.get(layout.source)
    if not isinstance(sides, dict):
        raise UnusableRowError(
            f"{layout.source} must be a dictionary from language to text, found {_kind(sides)}"
        )
    source_language, target_language = layout.languages
    target = None if target_language is None else sides.get(target_language)
    return sides.get(source_language), target


def _side_names(layout: Layout) -> tuple[str, str]:
    if layout.languages is None:
        return layout.source, layout.target or "target"
    source_language, target_language = layout.languages
    return f"{layout.source}[{source_language!r}]", f"{layout.source}[{target_language!r}]"


def _id(row: Row) -> str:
    value = row.get(ID)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UnusableRowError(f"id must be text or a whole number, found {_kind(value)}")
    return _encodable(str(value), ID)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} must be text, found {_kind(value)}")
    offence = text_offence(name, value)
    if offence is not None:
        raise UnusableRowError(offence)
    return _encodable(value, name)


def _encodable(text: str, name: str) -> str:
    """The text itself; JSON can spell half a surrogate pair, which no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRowError(
            f"{name} must be valid Unicode, found half a surrogate pair "
            f"(U+{ord(text[error.start]):04X}) at character {error.start}"
        ) from error
    return text


def _turns(value: list[object], name: str) -> Turns:
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            keys = ", ".join(map(str, turn)) if isinstance(turn, dict) else ""
            found = f"the keys {keys}" if keys else _kind(turn)
            raise UnusableRowError(
                f"{name}, turn {number} must be a dictionary with role and content, found {found}"
            )
        fields = cast("dict[str, object]", turn)
        role = _text(fields["role"], f"{name}, turn {number}, role")
        turns.append((role, _text(fields["content"], f"{name}, turn {number}, content")))
    return tuple(turns)


def _split_chat(turns: Turns, name: str, *, need_target: bool) -> tuple[Turns, str | None]:
    """The prompt and the answer: the last turn when the assistant spoke it."""
    if turns and turns[-1][0] == "assistant":
        return turns[:-1], turns[-1][1]
    if need_target:
        found = f"one of {turns[-1][0]!r}" if turns else "no turns"
        raise UnusableRowError(f"{name} must end with a turn of the assistant, found {found}")
    return turns, None


def _answer(value: object, name: str, *, need_target: bool) -> str | None:
    """The text of a completion, which is a string or a list of one assistant turn."""
    if not need_target and (value is None or value in ("", [])):
        return None
    if not isinstance(value, list):
        return _text(value, name)
    turns = _turns(value, name)
    if len(turns) != 1 or turns[0][0] != "assistant":
        raise UnusableRowError(
            f"{name} must be one turn of the assistant, found roles {[role for role, _ in turns]}"
        )
    return turns[0][1]


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else type(value).__name__
