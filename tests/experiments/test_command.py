"""The command line of an experiment: which tasks and seeds it runs, and what `--list` shows."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from experiments.harness.command import run_experiment
from experiments.harness.rows import add_rows
from experiments.harness.runner import Rows, unmeasured


@dataclasses.dataclass(frozen=True)
class FakeTask:
    name: str


@dataclasses.dataclass(frozen=True)
class FakeCell:
    task: FakeTask
    seed: int

    @property
    def name(self) -> str:
        return f"main/seed{self.seed}"

    @property
    def trained(self) -> tuple[str, ...]:
        return ()


TASKS = {name: FakeTask(name) for name in ("first", "second")}


def pending(tasks: list[FakeTask], rows: Rows) -> list[FakeCell]:
    cells = [FakeCell(task, seed) for task in tasks for seed in (1, 2, 3)]
    return unmeasured(cells, rows, lambda cell: "same")


def unexpected(*_: object) -> list[dict[str, object]]:
    raise AssertionError("--list must run nothing")


def listed(store: Path, *words: str) -> list[FakeTask]:
    """What was made before listing; the list itself is printed."""
    made: list[FakeTask] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment", *words, "--list"])
        run_experiment(
            "A test.",
            TASKS,
            store,
            pending=pending,
            prepare=lambda _: pytest.fail("--list must prepare nothing"),
            measure=unexpected,
            finish=unexpected,
            write_page=lambda _: pytest.fail("--list must write nothing"),
            told=(),
            needed_to_list=made.append,
        )
    return made


def test_list_shows_what_waits_of_the_named_tasks_and_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "rows.json"
    add_rows(store, [{"task": "second", "name": "main/seed2", "digest": "same"}])
    assert listed(store) == [*TASKS.values()]
    everything = capsys.readouterr().out.splitlines()
    assert everything == [
        *(f"first main/seed{seed}" for seed in (1, 2, 3)),
        *("second main/seed1", "second main/seed3"),
    ]
    assert listed(store, "second") == [TASKS["second"]]
    assert capsys.readouterr().out.splitlines() == everything[3:]
    listed(store, "first", "second", "--seeds", "2", "3")
    assert capsys.readouterr().out.splitlines() == [
        *("first main/seed2", "first main/seed3", "second main/seed3"),
    ]


def test_an_unknown_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        listed(tmp_path / "rows.json", "third")
    assert refused.value.code == 2
    assert "third" in capsys.readouterr().err
