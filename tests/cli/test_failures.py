"""A mistake of the user's is a sentence and code 2; a defect of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import SafetensorError
from torch.distributed import DistBackendError

from seqdistill.core.errors import UserError

from .conftest import Answer, Program, files_in

LOG = "runs/x/metrics.jsonl"


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def over(error: Exception, outer: Exception) -> Exception:
    """As a library raises its own error over the system's."""
    outer.__cause__ = error
    return outer


def failed(
    program: Program, monkeypatch: pytest.MonkeyPatch, recipe: str, error: BaseException
) -> Answer:
    """The end of a training that raises the error."""

    def train(*_: object, **__: object) -> None:
        raise error

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
    (Exception("Disk quota exceeded (os error 122)"), "Disk full"),
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
        for name in ("ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EROFS", "EFBIG", "EMFILE",
                     "EIO", "ESTALE")
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


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        RuntimeError("shapes do not match"),
        FileNotFoundError(2, "No", "./file"),
    ],
    ids=repr,
)
def test_a_defect_keeps_its_traceback(
    error: Exception, program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failed(program, monkeypatch, recipe_file, error)
    assert answer.exit_code == 1
    assert answer.exception is error
    assert "error:" not in answer.stderr


def test_interrupt_says_how_to_continue(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failed(program, monkeypatch, recipe_file, KeyboardInterrupt())
    assert answer.exit_code == 130
    assert answer.stderr == "interrupted; continue with --resume\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train recipe.yml", "got 'recipe.yml'"),
        ("train recipe.yaml learning_rte=3", "did you mean 'training.learning_rate'?"),
        ("train recipe.yaml stray", "got 'stray'"),
        ("train --seed 3 a=b", "RECIPE must be a YAML file or a preset"),
        ("train recipe.yaml output_dir=recipe.yaml/run", "'recipe.yaml' is a file"),
        ("train recipe.yaml --output_dir full", "got 'full'"),
        ("train recipe.yaml --output_dir dangling", "is a link to 'gone'"),
        ("train recipe.yaml --output_dir dangling --resume", "is a link to 'gone'"),
        (f"train recipe.yaml --output_dir {'x' * 256}", "got one of 256"),
        ('train recipe.yaml output_dir="a\\0b"', "got one with '\\x00'"),
        (f"label recipe.yaml teacher.model=bundled:en-de --output_dir {'x' * 256}", "of 256"),
        ("train recipe.yaml --output_dir full --dry-run", "got 'full'"),
        ("demo stray", "got 'stray'"),
        ("label recipe.yml", "got 'recipe.yml'"),
        ("evaluate nowhere", "got 'nowhere'"),
        ("evaluate full", "must hold recipe.yaml"),
        ("evaluate full stray", "got 'stray'"),
        ("evaluate int8", "CTranslate2 folder 'int8'"),
        ("report nowhere", "got 'nowhere'"),
        ("generate small --input nofile", "got 'nofile'"),
        ("generate small --input bad.txt", "bad.txt:2: text must be UTF-8"),
        ("generate small --input bad.txt text", "the input must be given once"),
        ("generate small a --output full", "got the folder 'full'"),
        ("generate small a --template-option thinking", "got 'thinking'"),
        ("generate small a --raw --template-option a=b", "--raw"),
        ("generate run a", "did you mean 'run/student'?"),
        ("recipe show sekkd", "got 'sekkd'"),
        ("recipe check recipe.yaml other.yaml", "FILE must be one recipe"),
        ("recipe check recipe.yaml training.steps=0", "training.steps"),
    ],
)
def test_mistakes_end_with_two_and_write_nothing(
    program: Program, recipe_file: str, tmp_path: Path, line: str, found: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "model.bin").touch()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    before = files_in(tmp_path)
    answer = program(*line.split(" "))
    assert answer.exit_code == 2, answer.stderr
    assert answer.stderr.startswith("error: ")
    assert found in answer.stderr
    assert answer.stdout == ""
    assert files_in(tmp_path) == before


def test_evaluate_is_of_one_process(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = program("evaluate", ".")
    assert answer.exit_code == 2 and "without torchrun" in answer.stderr
