"""Temporary folders of killed processes go at the next start; those in use stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from seqdistill.records import temporary
from seqdistill.records.temporary import temporary_folder

_KILLED = """
import os, signal
from seqdistill.records.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "model.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    temporary._remove_left_overs.cache_clear()
    return tmp_path


def test_a_folder_lasts_as_long_as_its_block(place: Path) -> None:
    with temporary_folder() as folder:
        (folder / "inner").mkdir()
        assert sorted(place.iterdir()) == [folder, Path(f"{folder}.lock")]
    assert not list(place.iterdir())


def test_left_overs_of_dead_processes_go_and_nothing_else(place: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED], env={**os.environ, "TMPDIR": str(place)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    left = sorted(place.iterdir())
    assert len(left) == 2 and left[0].is_dir()
    (place / "seqdistill-temporary-mine").mkdir()
    (place / "seqdistill-experiments").mkdir()
    with temporary_folder() as used:
        temporary._remove_left_overs.cache_clear()
        with temporary_folder():
            assert not any(path.exists() for path in left) and used.exists()
    assert sorted(path.name for path in place.iterdir()) == [
        "seqdistill-experiments",
        "seqdistill-temporary-mine",
    ]
