"""Files are whole or absent, and a torn last line costs one line only."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records import atomic


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    atomic.write_json(target, {"old": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        atomic.write_json(target, {"new": 2})
    with pytest.raises(ValueError):  # JSON has no such number
        atomic.write_json(target, {"new": math.nan})
    assert json.loads(target.read_text()) == {"old": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


def test_a_new_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "student"
    with atomic.new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("a")
        assert not target.exists()
        (folder / "private").touch(mode=0o600)
    with pytest.raises(FileExistsError), atomic.new_folder(target):
        pytest.fail("the block must not begin")
    assert (target / "inner" / "a.txt").read_text() == "a"
    assert [child.name for child in tmp_path.iterdir()] == ["student"]
    (tmp_path / "plain").touch()  # its files can be read by whoever can read a new file
    modes = {(target / name).stat().st_mode for name in ("private", "inner/a.txt", "../plain")}
    assert len(modes) == 1


def test_a_kill_leaves_no_half_filled_folder_and_every_line(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from seqdistill.records import atomic\n"
        "writer = atomic.JsonLinesWriter('metrics.jsonl')\n"
        "writer.write({'step': 1, 'word': 'grün'})\n"
        "writer.write({'step': 2, 'word': 'blau'})\n"
        "with atomic.new_folder('student') as folder:\n"
        "    (folder / 'a.txt').write_text('a')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "student").exists()
    rows = atomic.read_json_lines(tmp_path / "metrics.jsonl")
    assert rows == [{"step": 1, "word": "grün"}, {"step": 2, "word": "blau"}]


def test_a_line_torn_anywhere_costs_only_itself(tmp_path: Path) -> None:
    first, second = b'{"step": 1}\n', '{"step": 2, "word": "grün"}\n'.encode()
    for length in range(len(second)):
        path = tmp_path / f"torn-{length}.jsonl"
        path.write_bytes(first + second[:length])
        assert atomic.read_json_lines(path) == [{"step": 1}]
        with atomic.JsonLinesWriter(path) as writer:
            writer.write({"step": 3})
        assert atomic.read_json_lines(path) == [{"step": 1}, {"step": 3}]


def test_a_row_comes_back_with_line_ends_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\x85c\rd\ne", "norm": math.inf, "loss": math.nan}
    with atomic.JsonLinesWriter(tmp_path / "a.jsonl") as writer:
        writer.write(row)
    (found,) = atomic.read_json_lines(tmp_path / "a.jsonl")
    assert math.isnan(cast(float, found.pop("loss")))
    assert found == {key: row[key] for key in ("text", "norm")}


@pytest.mark.parametrize("bad", ["{broken\n", "[1, 2]\n", "\n"])
def test_a_damaged_inner_line_is_refused_with_its_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n' + bad + '{"step": 2}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: .*must be a JSON object"):
        atomic.read_json_lines(path)


def test_a_new_file_is_whole_or_absent_and_may_be_read_like_any(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic.new_file(tmp_path / "a.bin") as aside:
        aside.touch(mode=0o600)
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(RuntimeError), atomic.new_file(tmp_path / "b.bin") as aside:
        aside.touch()
        raise RuntimeError("halfway")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.bin", "plain"]


def test_left_overs_of_dead_processes_go_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = os.getppid()
    (tmp_path / f"student.new.partial-{dead.pid}").mkdir()
    kept = [f"b.json.partial-{alive}", "notes.partial-draft", "x.new", "y.old", "z.partial-"]
    for name in (f"a.json.partial-{dead.pid}", f"c.json.partial-{os.getpid()}", *kept):
        (tmp_path / name).touch()
    atomic.remove_left_overs(tmp_path)
    assert sorted(child.name for child in tmp_path.iterdir()) == sorted(kept)
    (tmp_path / f"other.partial-{dead.pid}").touch()
    atomic.remove_left_overs(tmp_path, "run")
    assert (tmp_path / f"other.partial-{dead.pid}").exists()


def test_a_replaced_folder_keeps_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "student"
    for content in ("old", "new"):
        with atomic.replaced_folder(path) as aside:
            (aside / "file").write_text(content, encoding="utf-8")
            assert not path.exists() or (path / "file").read_text(encoding="utf-8") == "old"
    with pytest.raises(RuntimeError), atomic.replaced_folder(path):
        raise RuntimeError
    assert (path / "file").read_text(encoding="utf-8") == "new"
    assert [child.name for child in tmp_path.iterdir()] == ["student"]


def test_pipes_and_devices_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic.write_text(pipe, "one\n")
        assert os.read(reader, 100) == b"one\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and [child.name for child in tmp_path.iterdir()] == ["pipe"]
    atomic.write_text("/dev/null", "nothing\n")
    assert Path("/dev/null").is_char_device()


def test_standard_output_that_is_a_file_is_appended_to(tmp_path: Path) -> None:
    code = (
        "from seqdistill.records import atomic; print('first', flush=True); "
        "atomic.write_text('/dev/stdout', 'second\\n')"
    )
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first\nsecond\n"
    assert Path("/dev/stdout").exists() and [c.name for c in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exists", [True, False])
def test_of_a_link_the_target_is_replaced_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "real").mkdir()
    file, folder = tmp_path / "real" / "file", tmp_path / "real" / "folder"
    if exists:
        file.write_text("old")
        folder.mkdir()
    (tmp_path / "file").symlink_to(file)
    (tmp_path / "folder").symlink_to(folder)
    atomic.write_text(tmp_path / "file", "new")
    if not exists:
        with atomic.new_folder(tmp_path / "folder"):
            pass
        assert folder.is_dir() and (tmp_path / "folder").is_symlink()
    with atomic.replaced_folder(tmp_path / "folder") as aside:
        (aside / "inner").write_text("new")
    assert (tmp_path / "file").is_symlink() and file.read_text() == "new"
    assert (tmp_path / "folder").is_symlink() and (folder / "inner").read_text() == "new"
    assert sorted(child.name for child in (tmp_path / "real").iterdir()) == ["file", "folder"]
