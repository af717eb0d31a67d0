"""The program inside this process, in an empty folder, with nothing behind it that computes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner, Result

from seqdistill.cli.main import app


class Program(Protocol):
    """Runs a command line; standard input is `stdin`."""

    def __call__(self, *words: str, stdin: bytes | None = None) -> Result: ...


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """The program, started in `tmp_path`. The logging that it sets up is undone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQDISTILL_KEEP_MEMORY", "0")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*words: str, stdin: bytes | None = None) -> Result:
        with warnings.catch_warnings():
            return CliRunner().invoke(app, list(words), input=stdin, prog_name="seqdistill")

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("seqdistill", "accelerate", "datasets", "torch", "ctranslate2"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    """A recipe of the baseline, as a file in the program's folder."""
    (tmp_path / "t.tsv").touch()
    (tmp_path / "small").mkdir()
    text = "preset: baseline\ndata: {train: t.tsv}\nstudent: {model: small}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return "recipe.yaml"


def files_in(folder: Path) -> Sequence[str]:
    """Every file and folder below, for 'nothing was written'."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
