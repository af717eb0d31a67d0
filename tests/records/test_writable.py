"""Where nothing can be written is told before anything is computed, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.writable import check_writable

REFUSED = {
    "a NUL": ("a\0b", "NUL character"),
    "a long name": ("x" * 256, "names of at most 235 bytes, got one of 256"),
    "a name without room": ("ü" * 120, "names of at most 235 bytes, got one of 240"),
    "a long name above": ("y" * 300 + "/run", "names of at most 235 bytes, got one of 300"),
    "a long path": ("/".join(["z" * 200] * 30), "a path of at most"),
    "a link to nothing": ("dangling", "is a link to 'gone'"),
    "under a link to nothing": ("dangling/run", "is a link to 'gone'"),
    "a loop of links": ("loop", "is a link to 'loop'"),
    "under a file": ("file/deep/run", "is a file"),
    "of the system": ("/proc/run", "'/proc' cannot be written to"),
    "deep in the system": ("/proc/self/new/run", "'/proc/self' cannot be written to"),
    "under a link to a file": ("filelink/run", "is a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_is_refused(tmp_path: Path, case: str) -> None:
    path, sentence = REFUSED[case]
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "filelink").symlink_to("file")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=f"output_dir must .*{sentence}"):
        check_writable(tmp_path / path, "output_dir")
    with pytest.raises(UserError, match=f"output_dir must .*{sentence}"):
        RunDirectory(tmp_path / path).check_free()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
