"""`doctor`: findings, rows and a verdict on the screen; 0 where nothing would fail, else 2."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.jobs.runs import FEASIBLE, folder_for

from seqdistill.cli.examining import _row
from seqdistill.jobs import doctor
from seqdistill.jobs.doctor import SeenRow

from .conftest import Program, files_in

WORDS = ("baseline", "student.model=student", "data.train=train.tsv", *FEASIBLE)


@pytest.fixture
def place(program: Program) -> Program:
    folder_for(Path(), "mbart")
    return program


def test_warnings_are_told_and_the_code_is_0(place: Program) -> None:
    before = files_in(Path())
    answer = place("doctor", *WORDS)
    assert answer.exit_code == 0, answer.stderr
    lines = answer.stdout.splitlines()
    (warning,) = (n for n, line in enumerate(lines) if "student (student): unknown" in line)
    assert lines[warning].split()[:2] == ["warning", "licences"]
    assert lines[warning + 1].split()[0] == "happens:"
    assert lines[warning + 2].split()[0] == "change:"
    assert lines[-1] == "0 errors, 2 warnings: nothing would fail"
    rows = [line for line in lines if line.count("⟦") == 1 and line.endswith("⟧")]
    assert len(rows) == 6, "the heading and five rows"
    assert rows[1].partition("⟦")[2].endswith("</s>⟧"), "what is learned is marked"
    assert files_in(Path()) == before


def test_weights_that_are_not_here_are_not_fetched(
    place: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "must_be_downloaded", lambda _name: True)
    answer = place("doctor", *WORDS)
    assert answer.exit_code == 0, answer.stderr
    assert "the weights of student are on the hub and not on this machine yet" in answer.stdout


def test_what_would_fail_is_code_2_also_as_json(place: Program) -> None:
    words = (*WORDS, "data.max_target_tokens=1")
    assert place("doctor", *words).stdout.endswith("the run would fail\n")
    answer = place("doctor", *words, "--json")
    assert answer.exit_code == 2
    found = json.loads(answer.stdout)
    assert found["would_fail"] is True
    (error,) = (f for f in found["findings"] if f["level"] == "error")
    assert "all 24 are longer" in error["found"]
    assert found["rows"][0]["pieces"][1][1] is True


def test_a_terminal_shows_what_is_learned_in_colour() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(_row(SeenRow("7", (("a b", False), ("c </s>", True))), console))
    printed = str(console.file.getvalue())  # type: ignore[attr-defined]
    assert "\x1b[1;32mc </s>\x1b[0m" in printed and "⟦" not in printed
