"""Rows of named values (of any format) as examples.

Every value is checked, and all errors of a file are reported together. It reads no files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.core.origins import ROUTE
from seqdistill.data.columns import (
    ID,
    REASONING,
    SYSTEM,
    TOOLS,
    TRANSLATION,
    Layout,
    Targets,
    listed,
)
from seqdistill.data.examples import Example, Turn

Row = Mapping[str, object]
Turns = tuple[Turn, ...]
Unit = Literal["line", "row"]
"""Text files have lines, tables have rows; both are counted from 1."""
_NUM_SHOWN = 5
_SAYS = frozenset({"tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"})
"""Keys with which a turn of the assistant says something without content."""
_MAY_BE_EMPTY = ("system", "tool")


class RowError(Exception):
    """The sentence about one row; becomes one line of a DataError."""


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
    locate: Callable[[int], str] | None = None
    """Where a row stands, where there are several files."""

    def place(self, number: int) -> str:
        """Where a row stands, as a person would look it up: `file:7` or `file, row 7`."""
        if self.locate is not None:
            return self.locate(number)
        number += self.num_header_lines
        return f"{self.file}:{number}" if self.unit == "line" else f"{self.file}, row {number}"


def examples_of(rows: Rows, *, targets: Targets) -> Iterator[Example]:
    """One example a row, in order. An id is the row's `id`, else its number counted from 1.

    Raises DataError in the end for values that are missing, not text or empty, for ids that come
    twice, and for no rows at all.
    """
    first_numbers: dict[str, int] = {}
    shown: list[str] = []
    number = num_errors = 0
    for number, row in enumerate(rows.rows, start=1):
        try:
            if isinstance(row, RowError):
                raise row
            example = _example(row, rows.layout, number=number, targets=targets)
            if rows.layout.has_id and first_numbers.setdefault(example.id, number) != number:
                first = rows.place(first_numbers[example.id])
                raise RowError(f"id must be unique, found {example.id!r} here and in {first}")
        except RowError as error:
            num_errors += 1
            if num_errors <= _NUM_SHOWN:
                shown.append(f"  {rows.place(number)}: {error}")
            continue
        if not num_errors:
            yield example
    if not number:
        raise DataError(f"{rows.file} must hold examples, but it has none; give another file")
    if num_errors:
        more = [f"  and {num_errors - len(shown):,} more"] if num_errors > len(shown) else []
        wrong = (
            f"{rows.file}: {num_errors:,} of {number + rows.num_header_lines:,} {rows.unit}s "
            "cannot be used; fix or remove them:"
        )
        raise DataError("\n".join([wrong, *shown, *more]))


def _example(row: Row, layout: Layout, *, number: int, targets: Targets) -> Example:
    example, choice = _texts(row, layout, number=number, targets=targets), layout.choice
    if (name := choice.teacher_column) is not None:
        example = _with_teacher_prompt(example, row.get(name), name, layout)
    extras = {name: _finite(row.get(name), name) for name in choice.extra_columns}
    if choice.route is not None:
        extras[ROUTE] = _place(row.get(choice.route[0]), *choice.route)
    return dataclasses.replace(example, extras=extras) if extras else example


def _place(value: object, name: str, known: Sequence[str]) -> float:
    """Which of the teachers serves the value."""
    text = str(value) if isinstance(value, (str, int)) else ""
    if text not in known:
        found = repr(value) if isinstance(value, (str, int)) else _kind(value)
        raise RowError(f"{name} must be what a teacher serves ({', '.join(known)}), found {found}")
    return float(known.index(text))


def _with_teacher_prompt(example: Example, value: object, name: str, layout: Layout) -> Example:
    """The example with what the teacher reads in the place of its source.

    Of a conversation that is a text in the place of what the user said last, or all its turns.
    """
    if example.messages is None:
        return dataclasses.replace(example, teacher_source=_text(value, name))
    if isinstance(value, list):
        turns = _turns(value, name, layout.choice.ignore_columns)
        if not turns or turns[-1].role == "assistant":
            found = "one of 'assistant'" if turns else "no turns"
            raise RowError(f"{name} must end with a turn to answer, found {found}")
        return dataclasses.replace(example, teacher_messages=turns)
    *before, last = example.messages
    if last.role != "user":
        raise RowError(
            f"{name} must be a list of messages where the last turn to answer is not the user's, "
            f"found {_kind(value)} and one of {last.role!r}"
        )
    turns = (*before, last._replace(content=_text(value, name)))
    return dataclasses.replace(example, teacher_messages=turns)


def _finite(value: object, name: str) -> float:
    found = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # digits beyond the largest float
            found = float(value)
    if not math.isfinite(found):
        shown = repr(value) if isinstance(value, float) else _kind(value)
        raise RowError(f"{name} must be a finite number, found {shown}")
    return found


def _texts(row: Row, layout: Layout, *, number: int, targets: Targets) -> Example:
    example_id = _id(row) if layout.has_id else str(number)
    (source_name, source), (target_name, target) = _sides(row, layout, targets=targets)
    if targets == "unread":
        target = None
    answer: Turn | None = None
    if isinstance(source, list):
        turns = _turns(source, source_name, layout.choice.ignore_columns)
        if layout.target is not None:
            answer = _answer(target, target_name, layout, targets=targets)
        elif turns and turns[-1].role == "assistant":
            turns, answer = turns[:-1], turns[-1]
        elif targets == "needed":
            found = f"one of {turns[-1].role!r}" if turns else "no turns"
            raise RowError(f"{source_name} must end with a turn of the assistant, found {found}")
        if not turns:
            raise RowError(f"{source_name} must hold a turn to answer, found none")
        answer = None if targets == "unread" else answer
        return _conversation(example_id, row, layout, turns, answer)
    if layout.target is None and layout.languages is None and targets == "needed":
        raise RowError(
            f"{source_name} must be a list of messages, found {_kind(source)} and no target; "
            "if another column is the target, name it with data.target_column"
        )
    if layout.is_heard and not isinstance(source, str):
        raise RowError(
            f"{source_name} must be the path of a WAV or FLAC file, found {_kind(source)}; where "
            "recordings lie in the table itself, write each to a file"
        )
    text = _text(source, source_name)
    if layout.about is not None and _is_given(row.get(layout.about)):
        text = f"{text}\n\n{_text(row.get(layout.about), layout.about)}"
    said = _text(target, target_name) if targets == "needed" or _is_given(target) else None
    if layout.of_chat:
        answer = None if said is None else Turn("assistant", said)
        return _conversation(example_id, row, layout, (Turn("user", text),), answer)
    if layout.is_heard:
        return Example(example_id, "", said, audio=text)
    return Example(example_id, text, said)


def _conversation(
    example_id: str, row: Row, layout: Layout, turns: Turns, answer: Turn | None
) -> Example:
    """The example with what its further columns bring."""
    found = {name: row[name] for name in layout.of_chat if _is_given(row.get(name))}
    if SYSTEM in found:
        if turns[0].role == "system":
            raise RowError(
                f"there must be one system prompt, found the column {SYSTEM} and a first turn of "
                "the system; leave one out with data.ignore_columns"
            )
        turns = (Turn("system", _text(found[SYSTEM], SYSTEM)), *turns)
    if answer is None:
        return Example(example_id, "", None, turns, "", _tools(found.get(TOOLS)))
    if REASONING in found:
        more = {**json.loads(answer.more or "{}"), REASONING: _text(found[REASONING], REASONING)}
        answer = answer._replace(more=json.dumps(more))
    tools = _tools(found.get(TOOLS))
    return Example(example_id, "", answer.content or "", turns, answer.more, tools)


def no_json(error: ValueError | RecursionError) -> str:
    """What a text holds that `json.loads` does not read."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "too many nested brackets"
    return f"a number of more than {sys.get_int_max_str_digits():,} digits"


def _tools(value: object) -> str:
    """The JSON of a list of schemas, given as a list or as such JSON; nothing for none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{TOOLS} must be a list in JSON, found {no_json(error)}") from error
    if value is None or value == []:
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError(f"{TOOLS} must be a list of schemas, found {_kind(value)}")
    return _json(value, TOOLS)


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{name} must be what JSON can hold, found {error}") from error


def _sides(
    row: Row, layout: Layout, *, targets: Targets
) -> tuple[tuple[str, object], tuple[str, object]]:
    """Name and value of the source and of the target."""
    sides = row.get(layout.source)
    if layout.languages is None:
        target = None if layout.target is None else row.get(layout.target)
        return (layout.source, sides), (layout.target or "target", target)
    if not isinstance(sides, dict) or not sides:
        raise RowError(
            f"{TRANSLATION} must be a dictionary from language to text, such as "
            f"{{'en': ..., 'de': ...}}, found {_kind(sides)}"
        )
    wanted = layout.languages if targets != "unread" else (layout.languages[0], None)
    source, target = _languages([*map(str, sides)], wanted, targets=targets)
    return (
        (f"{TRANSLATION}[{source!r}]", sides.get(source)),
        (f"{TRANSLATION}[{target!r}]", sides.get(target)),
    )


def _languages(
    found: list[str], wanted: tuple[str | None, str | None], *, targets: Targets
) -> tuple[str, str | None]:
    """The languages of source and target: those that are wanted, and the only other one."""
    for language in wanted:
        if language is not None and language not in found:
            raise RowError(
                f"language {language!r} must be one of {listed(found)}."
                f"{did_you_mean(language, found)} Where the model's tokenizer names it otherwise, "
                "a recipe gives both, as key:code"
            )
    source, target = wanted
    if source is not None and (target is not None or targets != "needed"):
        return source, target
    others = [language for language in found if language not in wanted]
    if wanted != (None, None) and len(others) == 1:
        return source or others[0], target or others[0]
    raise RowError(
        f"data.source_language and data.target_language must say which way to translate, found "
        f"{listed(found)} and no choice; give both, such as "
        f"data.source_language={found[0]} data.target_language={found[-1]}"
    )


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
    return tuple(
        _turn(turn, f"{name}, turn {number}", ignored) for number, turn in enumerate(value, start=1)
    )


def _turn(turn: object, place: str, ignored: Sequence[str]) -> Turn:
    given = cast("dict[str, object]", turn) if isinstance(turn, dict) else {}
    if "role" not in given or not ({"content"} | _SAYS) & given.keys():
        found = f"the keys {', '.join(map(str, given))}" if given else _kind(turn)
        raise RowError(f"{place} must be a dictionary with role and content, found {found}")
    fields = {k: v for k, v in given.items() if v is not None and k not in ignored}
    role = _text(fields.pop("role", None), f"{place}, role")
    content = fields.pop("content", None)
    if isinstance(content, list):
        content = _joined(content, f"{place}, content")
    if _is_given(content) or not (_SAYS & fields.keys() or role in _MAY_BE_EMPTY):
        content = _text(content, f"{place}, content")
    more = _json(fields, place) if fields else ""
    return Turn(role, None if content is None else str(content), more)


def _joined(parts: list[object], name: str) -> str:
    """The text of a content in parts, [{"type": "text", "text": ...}, ...], of texts alone."""
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, dict) else _kind(part)
            raise RowError(f"{name} must be text or parts of type text, found {found!r}")
        texts.append(_text(part.get("text"), name))
    return "".join(texts)


def _answer(value: object, name: str, layout: Layout, *, targets: Targets) -> Turn | None:
    """A completion as a turn, which is a string or a list of one assistant turn."""
    if targets != "needed" and (not _is_given(value) or value == []):
        return None
    if not isinstance(value, list):
        return Turn("assistant", _text(value, name))
    turns = _turns(value, name, layout.choice.ignore_columns)
    if [turn.role for turn in turns] != ["assistant"]:
        raise RowError(
            f"{name} must be one turn of the assistant, found roles {[turn.role for turn in turns]}"
        )
    return turns[0]


def _is_given(value: object) -> bool:
    return value is not None and value != ""


def _kind(value: object) -> str:
    return "nothing (null)" if value is None else type(value).__name__
