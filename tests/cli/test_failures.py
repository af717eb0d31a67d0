"""A mistake of the user's is a sentence and code 2; a defect of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import SafetensorError
from torch.distributed import DistBackendError
from typer.testing import Result

from seqdistill.core.errors import UserError

from .conftest import Program, files_in

LOG = "runs/x/metrics.jsonl"


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def over(error: Exception, outer: Exception) -> Exception:
    """As a library raises its own error over the system's."""
    outer.__cause__ = error
    return outer


def failed(
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    error: Exception | Callable[[], object],
) -> Result:
    """The end of a training that raises the error, or does this."""

    def train(*_: object, **__: object) -> None:
        if isinstance(error, Exception):
            raise error
        error()

    module = ModuleType("seqdistill.jobs.train")
    monkeypatch.setattr(module, "train", train, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return program("train", recipe)


FULL = OSError(errno.ENOSPC, "No space left on device", LOG)
ENDED = [
    (UserError(f"data.train must exist, got {'/long' * 90}; fix it"), f"got {'/long' * 90}; fix"),
    (PermissionError(13, "Permission denied", "secret.tsv"), "needs access to 'secret.tsv'"),
    (FileNotFoundError(errno.ENOENT, "No such file", "gone/file"), "its folder was removed"),
    # A full disk, whoever noticed it.
    (FULL, f"Disk full: the disk of {LOG!r}"),
    (over(FULL, UserError("corpus must be a folder")), f"Disk full: the disk of {LOG!r}"),
    (over(FULL, RuntimeError("could not write")), f"Disk full: the disk of {LOG!r}"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "Disk full"),
    (OSError("Detail: [errno 28] No space left on device"), "Disk full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk full"),
    # Memory: on a GPU, a CPU, in Python.
    (OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore words"), "training.batch_tokens"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "Out of memory"),
    (MemoryError(), "Out of memory"),
    # Another process of the training was killed, or ended with an error of its own.
    (
        RuntimeError("[gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
        "another one has stopped",
    ),
    (DistBackendError("NCCL communicator was aborted on rank 1."), "another one has stopped"),
    *(
        (OSError(getattr(errno, name), os.strerror(getattr(errno, name)), LOG), f"{LOG!r}, but")
        for name in ("ENAMETOOLONG", "EROFS", "EFBIG", "EMFILE", "EIO")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words"), ENDED, ids=lambda value: str(value)[:30])
def test_what_a_user_can_fix_is_one_line_and_code_two(
    error: Exception,
    words: str,
    program: Program,
    recipe_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = failed(program, monkeypatch, recipe_file, error)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: ") and words in answer.stderr
    assert answer.stderr.count("\n") == 1, "first lines of other libraries' errors alone"
    if "Disk full" in words:
        assert answer.stderr.endswith("continue with --resume\n")


@pytest.mark.parametrize("error", [RuntimeError("of ours"), FileNotFoundError(2, "No", "./file")])
def test_a_defect_keeps_its_traceback(
    error: Exception, program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failed(program, monkeypatch, recipe_file, error)
    assert answer.exit_code == 1
    assert answer.exception is error
    assert "error:" not in answer.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_interrupt_says_how_to_continue(
    program: Program,
    recipe_file: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    word: str,
) -> None:
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
    before = signal.getsignal(number)
    try:
        answer = failed(program, monkeypatch, recipe_file, lambda: os.kill(os.getpid(), number))
        assert answer.exit_code == code
        assert answer.stderr == f"{word}; continue with --resume\n"
        assert signal.getsignal(number) is before
    finally:
        signal.signal(signal.SIGINT, outer)


@pytest.mark.parametrize(
    "line", Path(__file__).with_name("mistakes.txt").read_text("utf-8").splitlines()
)
def test_mistakes_end_with_two_and_write_nothing(
    program: Program, recipe_file: str, tmp_path: Path, line: str
) -> None:
    """Each line of the file: a command line, and what the sentence names."""
    for file in ("full/file", "int8/model.bin", "run/student/file"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    before = files_in(tmp_path)
    words, found = line.split(" => ")
    answer = program(*words.split(" "))
    assert answer.exit_code == 2, answer.stderr
    assert answer.stderr.startswith("error: ")
    assert found in answer.stderr
    assert answer.stdout == ""
    assert files_in(tmp_path) == before


def test_evaluate_is_of_one_process(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = program("evaluate", ".")
    assert answer.exit_code == 2 and "without torchrun" in answer.stderr
