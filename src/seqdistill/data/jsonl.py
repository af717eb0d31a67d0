"""JSON lines: one object per line. It leaves the meaning of the keys to `rows` and `columns`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from seqdistill.data.columns import TRANSLATION, ColumnChoice, find_layout
from seqdistill.data.examples import Example
from seqdistill.data.row_errors import Offences
from seqdistill.data.rows import Row, examples_from_rows
from seqdistill.data.text_lines import read_text_lines


def read_jsonl(path: Path, choice: ColumnChoice) -> list[Example]:
    """One example a line. Raises DataError for malformed JSON, with line and column."""
    rows = _objects(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    first_translation = rows[0].get(TRANSLATION)
    layout = find_layout(names, choice, file=str(path), first_translation=first_translation)
    return examples_from_rows(
        rows, layout, file=str(path), unit="line", need_target=choice.need_target
    )


def _objects(path: Path) -> list[Row]:
    lines = read_text_lines(path)
    row_errors = Offences(str(path), "line")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}" if line.strip() else "an empty line"
            row_errors.add(number, f"must be a JSON object, found {found}")
            continue
        except (ValueError, RecursionError) as error:  # endless digits, endless brackets
            found = "too many nested brackets" if isinstance(error, RecursionError) else str(error)
            row_errors.add(number, f"must be a JSON object that Python can read, found: {found}")
            continue
        if not isinstance(row, dict):
            row_errors.add(number, f"must be a JSON object, found {type(row).__name__}")
            continue
        rows.append(cast("dict[str, object]", row))
    row_errors.raise_if_any(len(lines))
    return rows
