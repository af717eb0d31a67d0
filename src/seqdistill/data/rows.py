"""Rows of named values (from JSONL, Parquet, `datasets`) as examples.

Every value is checked, and all errors of a file are reported together. It reads no files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from seqdistill.core.errors import DataError
from seqdistill.data.columns import ID, REASONING, SYSTEM, TOOLS, Layout
from seqdistill.data.examples import Example, Turn
from seqdistill.data.row_errors import RowError, RowErrors, Unit

Row = Mapping[str, object]
Turns = tuple[Turn, ...]
_SAYS = frozenset({"tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"})
"""Keys with which a turn of the assistant says something without content."""
_MAY_BE_EMPTY = ("system", "tool")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one file or table, to be read once, and where an example's parts are in them."""

    file: str
    unit: Unit
    layout: Layout
    rows: Iterator[Row | RowError]
    num_header_lines: int = 0
    identity: str = ""
    """What the content is known by, where it is not that of files."""
    size: int = 0
    """About its bytes, likewise."""


def unreadable(error: Exception) -> str:
    """The sentence about a value in a table that Python has no type for."""
    return (
        f"the columns that are read must hold values that Python knows, found one that it does "
        f"not ({error}); store them as text"
    )


def examples_of(rows: Rows, *, need_target: bool) -> Iterator[Example]:
    """One example a row, in order. An id is the row's `id`, else its number counted from 1.

    Raises DataError in the end for values that are missing, not text or empty, for ids that come
    twice, and for no rows at all.
    """
    errors = RowErrors(rows.file, rows.unit)
    first_places: dict[str, int] = {}
    number = 0
    for number, row in enumerate(rows.rows, start=1):
        place = number + rows.num_header_lines
        try:
            if isinstance(row, RowError):
                raise row
            example = _example(row, rows.layout, number=number, need_target=need_target)
            if rows.layout.has_id and first_places.setdefault(example.id, place) != place:
                first = errors.place(first_places[example.id])
                raise RowError(f"id must be unique, found {example.id!r} here and in {first}")
        except RowError as error:
            errors.add(place, error)
            continue
        if not errors.num_errors:
            yield example
    if not number:
        raise DataError(
            f"{rows.file} must hold examples, but it has no {rows.unit}s; give another file"
        )
    errors.raise_if_any(number + rows.num_header_lines)


def _extras(row: Row, layout: Layout) -> dict[str, float]:
    found = {}
    for name in layout.extras:
        value = row.get(name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(cast("float", value)):
            shown = repr(value) if isinstance(value, float) else _kind(value)
            raise RowError(f"{name} must be a finite number, found {shown}")
        found[name] = float(cast("float", value))
    return found


def _example(row: Row, layout: Layout, *, number: int, need_target: bool) -> Example:
    example = _texts(row, layout, number=number, need_target=need_target)
    if not layout.extras:
        return example
    return dataclasses.replace(example, extras=_extras(row, layout))


def _texts(row: Row, layout: Layout, *, number: int, need_target: bool) -> Example:
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
            raise RowError(f"{layout.source} must hold a turn to answer, found none")
        return _conversation(example_id, row, layout, prompt, answer)
    if layout.target is None and layout.languages is None and need_target:
        raise RowError(
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
            raise RowError(
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
            raise RowError(f"{TOOLS} must be a list in JSON, found {error}") from error
    if value is None or value in ("", []):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError(f"{TOOLS} must be a list of schemas, found {_kind(value)}")
    return _json(value, TOOLS)


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{name} must be what JSON can hold, found {error}") from error


def _sides(row: Row, layout: Layout) -> tuple[object, object]:
    if layout.languages is None:
        target = None if layout.target is None else row.get(layout.target)
        return row.get(layout.source), target
    sides = row.get(layout.source)
    if not isinstance(sides, dict):
        raise RowError(
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
        raise RowError(f"id must be text or a whole number, found {_kind(value)}")
    return _encodable(str(value), ID)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{name} must be text, found {_kind(value)}")
    if not value.strip():
        raise RowError(f"{name} must hold text, found {'only blanks' if value else 'nothing'}")
    if "\0" in value:
        place = value.index("\0")
        raise RowError(f"{name} must not hold NUL characters, found one at character {place}")
    return _encodable(value, name)


def _encodable(text: str, name: str) -> str:
    """The text itself; JSON can spell half a surrogate pair, which no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
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
            raise RowError(f"{place} must be a dictionary with role and content, found {found}")
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
            raise RowError(f"{name} must be text or parts of type text, found {found!r}")
        texts.append(_text(part.get("text"), name))
    return "".join(texts)


def _split_chat(turns: Turns, name: str, *, need_target: bool) -> tuple[Turns, Turn | None]:
    """The prompt and the answer: the last turn when the assistant spoke it."""
    if turns and turns[-1].role == "assistant":
        return turns[:-1], turns[-1]
    if need_target:
        found = f"one of {turns[-1].role!r}" if turns else "no turns"
        raise RowError(f"{name} must end with a turn of the assistant, found {found}")
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
        raise RowError(
            f"{name} must be one turn of the assistant, found roles {[turn.role for turn in turns]}"
        )
    return turns[0]


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else type(value).__name__
