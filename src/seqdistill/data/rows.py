"""Rows of named values (from JSONL, Parquet, `datasets`) as examples.

It checks every value and reports all row_errors of a file together. It reads no files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from seqdistill.core.errors import DataError
from seqdistill.data.columns import ID, REASONING, SYSTEM, TOOLS, Layout
from seqdistill.data.examples import Example, Turn
from seqdistill.data.row_errors import Offences, Unit, text_offence

Row = Mapping[str, object]
Turns = tuple[Turn, ...]
_SAYS = frozenset({"tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"})
"""Keys with which a turn of the assistant says something without content."""
_MAY_BE_EMPTY = ("system", "tool")


class UnusableRowError(Exception):
    """The sentence about one row; becomes one line of a DataError."""


def unreadable(error: Exception) -> str:
    """The sentence about a value in a table that Python has no type for."""
    return (
        f"the columns that are read must hold values that Python knows, found one that it does "
        f"not ({error}); store them as text"
    )


def examples_from_rows(
    rows: Sequence[Row], layout: Layout, *, file: str, unit: Unit, need_target: bool
) -> list[Example]:
    """One example a row, in order. An id is the row's `id`, else its number counted from 1.

    Raises DataError for values that are missing, not text or empty, and for ids that come twice.
    """
    if not rows:
        raise DataError(f"{file} must hold examples, but it has no {unit}s; give another file")
    row_errors = Offences(file, unit)
    examples: list[Example] = []
    first_places: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        try:
            if unit == "row":
                row = cast("Row", _without_holes(row))
            example = _example(row, layout, number=number, need_target=need_target)
        except UnusableRowError as error:
            row_errors.add(number, str(error))
            continue
        first = first_places.setdefault(example.id, number)
        if first != number:
            found = f"found {example.id!r} here and in {row_errors.place(first)}"
            row_errors.add(number, f"id must be unique, {found}")
        examples.append(example)
    row_errors.raise_if_any(len(rows))
    return examples


def _without_holes(value: object) -> object:
    """The value without the nulls of a table, whose turns all have the keys that any turn has."""
    if isinstance(value, Mapping):
        return {key: _without_holes(one) for key, one in value.items() if one is not None}
    return [_without_holes(one) for one in value] if isinstance(value, list) else value


def _example(row: Row, layout: Layout, *, number: int, need_target: bool) -> Example:
    example_id = _id(row) if layout.has_id else str(number)
    source, target = _sides(row, layout)
    if isinstance(source, list):
        turns = _turns(source, layout.source, layout.ignored)
        if layout.target is None:
            prompt, answer = _split_chat(turns, layout.source, need_target=need_target)
        else:
            prompt = turns
            answer = _answer(target, layout, need_target=need_target)
        if not prompt:
            raise UnusableRowError(f"{layout.source} must hold a turn to answer, found none")
        return _conversation(example_id, row, layout, prompt, answer)
    if layout.target is None and layout.languages is None and need_target:
        raise UnusableRowError(
            f"{layout.source} must be a list of messages, found {_kind(source)} and no target; "
            "if another column is the target, name it with data.target_column"
        )
    source_name, target_name = _side_names(layout)
    text = _text(source, source_name)
    about = None if layout.about is None else row.get(layout.about)
    if layout.about is not None and about not in (None, ""):
        text = f"{text}\n\n{_text(about, layout.about)}"
    said = None
    if need_target or (target is not None and target != ""):
        said = _text(target, target_name)
    if layout.of_chat:
        answer = None if said is None else Turn("assistant", said)
        return _conversation(example_id, row, layout, (Turn("user", text),), answer)
    return Example(example_id, text, said)


def _conversation(
    example_id: str, row: Row, layout: Layout, turns: Turns, answer: Turn | None
) -> Example:
    """The example with what its further columns bring."""
    found = {name: row.get(name) for name in layout.of_chat}
    system = found.get(SYSTEM)
    if system is not None and system != "":
        if turns[0].role == "system":
            raise UnusableRowError(
                f"there must be one system prompt, found the column {SYSTEM} and a first turn of "
                "the system; leave one out with data.ignore_columns"
            )
        turns = (Turn("system", _text(system, SYSTEM)), *turns)
    reasoning = found.get(REASONING)
    if answer is not None and reasoning is not None and reasoning != "":
        more = json.loads(answer.more or "{}")
        answer = answer._replace(more=json.dumps({**more, REASONING: _text(reasoning, REASONING)}))
    return Example(
        example_id,
        "",
        None if answer is None else answer.content or "",
        turns,
        "" if answer is None else answer.more,
        _tools(found.get(TOOLS)),
    )


def _tools(value: object) -> str:
    """The JSON of a list of schemas, given as a list or as such JSON; nothing for none."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UnusableRowError(f"{TOOLS} must be a list in JSON, found {error}") from error
    if value is None or value in ("", []):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UnusableRowError(f"{TOOLS} must be a list of schemas, found {_kind(value)}")
    return _json(value, TOOLS)


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableRowError(f"{name} must be what JSON can hold, found {error}") from error


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


def _turns(value: list[object], name: str, ignored: Sequence[str]) -> Turns:
    turns = []
    for number, turn in enumerate(value, start=1):
        place = f"{name}, turn {number}"
        fields = dict(cast("dict[str, object]", turn)) if isinstance(turn, dict) else {}
        fields = {k: v for k, v in fields.items() if v is not None and k not in ignored}
        given = turn.keys() if isinstance(turn, dict) else set()
        if "role" not in given or not ({"content"} | _SAYS) & given:
            keys = ", ".join(map(str, given))
            found = f"the keys {keys}" if keys else _kind(turn)
            raise UnusableRowError(
                f"{place} must be a dictionary with role and content, found {found}"
            )
        role = _text(fields.pop("role", None), f"{place}, role")
        content = fields.pop("content", None)
        if isinstance(content, list):
            content = _joined(content, f"{place}, content")
        empty = content is None or content == ""
        if not empty or not (_SAYS & fields.keys() or role in _MAY_BE_EMPTY):
            content = _text(content, f"{place}, content")
        more = _json(fields, place) if fields else ""
        turns.append(Turn(role, None if content is None else str(content), more))
    return tuple(turns)


def _joined(parts: list[object], name: str) -> str:
    """The text of a content in parts, [{"type": "text", "text": ...}, ...], of texts alone."""
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, dict) else _kind(part)
            raise UnusableRowError(f"{name} must be text or parts of type text, found {found!r}")
        texts.append(_text(part.get("text"), name))
    return "".join(texts)


def _split_chat(turns: Turns, name: str, *, need_target: bool) -> tuple[Turns, Turn | None]:
    """The prompt and the answer: the last turn when the assistant spoke it."""
    if turns and turns[-1].role == "assistant":
        return turns[:-1], turns[-1]
    if need_target:
        found = f"one of {turns[-1].role!r}" if turns else "no turns"
        raise UnusableRowError(f"{name} must end with a turn of the assistant, found {found}")
    return turns, None


def _answer(value: object, layout: Layout, *, need_target: bool) -> Turn | None:
    """A completion as a turn, which is a string or a list of one assistant turn."""
    name = layout.target or "target"
    if not need_target and (value is None or value in ("", [])):
        return None
    if not isinstance(value, list):
        return Turn("assistant", _text(value, name))
    turns = _turns(value, name, layout.ignored)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise UnusableRowError(
            f"{name} must be one turn of the assistant, found roles {[turn.role for turn in turns]}"
        )
    return turns[0]


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else type(value).__name__
