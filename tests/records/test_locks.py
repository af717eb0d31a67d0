"""One writer a folder: the second is refused by name or waits; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records import locks
from seqdistill.records.run_directory import RunDirectory

_HOLD = """
import pathlib, sys, time
from seqdistill.records.locks import held
with held(pathlib.Path(sys.argv[1]), "training in"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_which_one_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=f"but process {process.pid} is training in it; wait"),
            locks.held(folder, "evaluating"),
        ):
            pytest.fail("the block must not begin")
        folder.mkdir()
        (folder / "recipe.yaml").touch()
        with pytest.raises(UserError, match=f"but process {process.pid} is training in it"):
            RunDirectory(folder).check_free()
        process.send_signal(signal.SIGKILL)
    with locks.held(folder, "training in"):  # what a killed process held is free
        assert "training in" in (tmp_path / "runs" / "one.lock").read_text()
        with pytest.raises(UserError, match="which is a folder that is not empty"):
            RunDirectory(folder).check_free()


def test_no_file_or_folder_of_a_lock_stays(tmp_path: Path) -> None:
    with locks.held(tmp_path / "runs" / "deep" / "one", "training in"):
        assert (tmp_path / "runs" / "deep" / "one.lock").is_file()
    assert not list(tmp_path.iterdir())
    with locks.held(tmp_path / "runs" / "one", "training in"):
        (tmp_path / "runs" / "one").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_two_names_of_one_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with (
        locks.held(tmp_path / "real", "training in"),
        pytest.raises(UserError, match=f"process {os.getpid()} is training in it"),
        locks.held(tmp_path / "link", "training in"),
    ):
        pytest.fail("the block must not begin")


def test_a_folder_whose_parent_cannot_be_written_is_locked_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.setattr("os.access", lambda *_: False)
    with locks.held(tmp_path / "one", "training in"):
        assert (tmp_path / "one" / ".lock").is_file() and not (tmp_path / "one.lock").exists()
        assert not RunDirectory(tmp_path / "one").is_begun
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} is training in it"),
            locks.held(tmp_path / "one", "training in"),
        ):
            pytest.fail("the block must not begin")
    assert not list((tmp_path / "one").iterdir())
