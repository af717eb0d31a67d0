"""The rows of an experiment: one JSON file, committed, which a run goes on from."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from seqdistill.assembly.data import Split
from seqdistill.records import atomic
from seqdistill.records.environment import environment_facts


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows measured so far; none without the file."""
    return cast("list[dict[str, Any]]", _content(path).get("rows", []))


def add_sizes(path: Path, task: str, sizes: Mapping[Split, int]) -> None:
    """Writes how many examples each split of a task has."""
    content = _content(path)
    tasks = {**content.get("tasks", {}), task: dict(sizes)}
    atomic.write_json(path, {"rows": [], **content, "tasks": dict(sorted(tasks.items()))})


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return cast("dict[str, Any]", json.loads(path.read_text("utf-8")))


def add_rows(path: Path, new: Sequence[Mapping[str, object]]) -> None:
    """Writes the rows, each in place of the one of its task and name; all else stays."""
    sizes = _content(path).get("tasks", {})
    kept = {(row["task"], row["name"]): row for row in read_rows(path)}
    kept |= {(str(row["task"]), str(row["name"])): dict(row) for row in new}
    content = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment_facts(),
        "tasks": sizes,
        "rows": [kept[key] for key in sorted(kept)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, content)
