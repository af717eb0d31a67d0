"""Places where runs are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.jobs.runs import fill, folder_for


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with data and two kinds of models."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with data and an mBART teacher and student."""
    return folder_for(tmp_path, "mbart")
