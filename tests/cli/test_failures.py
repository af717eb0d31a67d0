"""A mistake of the user's is a sentence and code 2; a defect of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import SafetensorError

from seqdistill.core.errors import UserError

from .conftest import Program, files_in


class Failing(ModuleType):
    """Stands for `build.running`: raises what the test wants."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("seqdistill.jobs.train")
        self.error = error

    def train(self, recipe: object, *, progress: object, resume: bool) -> None:
        raise self.error


def let_training_fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setitem(sys.modules, "seqdistill.jobs.train", Failing(error))


def test_user_error_is_one_sentence_on_stderr(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/a/very/long/path" * 20 + "/file.tsv"
    let_training_fail(monkeypatch, UserError(f"data.train must exist, got {path}; fix it"))
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert answer.stderr == f"error: data.train must exist, got {path}; fix it\n"
    assert "Traceback" not in answer.stdout


def test_a_full_disk_is_told_under_what_was_made_of_it(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UserError("corpus must be a folder that can be written; give another folder")
    other.__cause__ = OSError(errno.ENOSPC, "No space left on device", "corpus")
    let_training_fail(monkeypatch, other)
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert "Disk full: the disk of 'corpus' is full" in answer.stderr


def test_interrupt_says_how_to_go_on(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, KeyboardInterrupt())
    answer = program("train", recipe_file)
    assert answer.exit_code == 130
    assert answer.stderr == "interrupted; continue with --resume\n"


def test_defect_keeps_its_traceback(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, ZeroDivisionError("ours"))
    answer = program("train", recipe_file)
    assert answer.exit_code == 1
    assert isinstance(answer.exception, ZeroDivisionError)
    assert "error:" not in answer.stderr


def test_refused_access_names_the_file(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, PermissionError(13, "Permission denied", "secret.tsv"))
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: the command needs access to 'secret.tsv'")


def test_a_full_disk_is_told_with_its_file(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl")
    let_training_fail(monkeypatch, full)
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert "Disk full: the disk of 'runs/x/metrics.jsonl' is full (No space left" in answer.stderr
    assert answer.stderr.endswith("free some, and continue with --resume\n")


def wrapped(error: Exception) -> Exception:
    """As a library raises its own error over the system's."""
    outer = RuntimeError("could not write the file")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        OSError(
            "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
        ),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("Disk quota exceeded (os error 122)"),
        wrapped(OSError(errno.ENOSPC, "No space left on device")),
    ],
    ids=["safetensors", "pyarrow", "quota", "tokenizers", "wrapped"],
)
def test_a_full_disk_is_told_whoever_noticed_it(
    error: Exception, program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, error)
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: Disk full: ")
    assert answer.stderr.endswith("free some, and continue with --resume\n")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "number",
    ["ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EROFS", "EFBIG", "EMFILE", "EIO", "ESTALE"],
)
def test_what_the_system_refuses_is_a_sentence(
    number: str, program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = getattr(errno, number)
    let_training_fail(monkeypatch, OSError(code, os.strerror(code), "runs/x/metrics.jsonl"))
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert "'runs/x/metrics.jsonl', but found: " + os.strerror(code) in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_folder_that_was_removed_is_told_and_a_file_that_we_forgot_is_a_defect(
    program: Program, recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(name: Path) -> None:
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory", str(name))
        let_training_fail(monkeypatch, missing)

    failing(tmp_path / "gone" / "file")
    answer = program("train", recipe_file)
    assert answer.exit_code == 2 and "its folder was removed" in answer.stderr
    failing(tmp_path / "file")
    assert isinstance(program("train", recipe_file).exception, FileNotFoundError)


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore words"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_memory_that_ran_out_names_the_settings_that_need_it(
    error: Exception, program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, error)
    answer = program("train", recipe_file)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: Out of memory: ")
    assert "training.batch_tokens" in answer.stderr and "more words" not in answer.stderr


def test_other_errors_of_torch_keep_their_traceback(
    program: Program, recipe_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_training_fail(monkeypatch, RuntimeError("shapes do not match"))
    assert isinstance(program("train", recipe_file).exception, RuntimeError)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "recipe.yml"), "got 'recipe.yml'"),
        (("train", "recipe.yaml", "learning_rte=3"), "did you mean 'training.learning_rate'?"),
        (("train", "recipe.yaml", "stray"), "got 'stray'"),
        (("train", "--seed", "3", "a=b"), "RECIPE must be a YAML file or a preset"),
        (("train", "recipe.yaml", "output_dir=recipe.yaml/run"), "'recipe.yaml' is a file"),
        (("train", "recipe.yaml", "--output_dir", "full"), "got 'full'"),
        (("train", "recipe.yaml", "--output_dir", "dangling"), "is a link to 'gone'"),
        (("train", "recipe.yaml", "--output_dir", "dangling", "--resume"), "is a link to 'gone'"),
        (("train", "recipe.yaml", "--output_dir", "x" * 256), "got one of 256"),
        (("train", "recipe.yaml", 'output_dir="a\\0b"'), "got one with '\\x00'"),
        (
            ("label", "recipe.yaml", "teacher.model=bundled:en-de", "--output_dir", "x" * 256),
            "got one of 256",
        ),
        (("train", "recipe.yaml", "--output_dir", "full", "--dry-run"), "got 'full'"),
        (("demo", "stray"), "got 'stray'"),
        (("label", "recipe.yml"), "got 'recipe.yml'"),
        (("evaluate", "nowhere"), "got 'nowhere'"),
        (("evaluate", "full"), "must hold recipe.yaml"),
        (("report", "nowhere"), "got 'nowhere'"),
        (("generate", "small", "--input", "nofile"), "got 'nofile'"),
        (("generate", "small", "--input", "bad.txt"), "bad.txt:2: text must be UTF-8"),
        (("generate", "small", "--input", "bad.txt", "text"), "the input must be given once"),
        (("generate", "small", "a", "--output", "full"), "got the folder 'full'"),
        (("generate", "run", "a"), "did you mean 'run/student'?"),
        (("recipe", "show", "sekkd"), "got 'sekkd'"),
        (("recipe", "check", "recipe.yaml", "other.yaml"), "FILE must be one recipe"),
        (("recipe", "check", "recipe.yaml", "training.steps=0"), "training.steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_end_with_two_and_write_nothing(
    program: Program, recipe_file: str, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    before = files_in(tmp_path)
    answer = program(*words)
    assert answer.exit_code == 2, answer.stderr
    assert answer.stderr.startswith("error: ")
    assert sentence in answer.stderr
    assert answer.stdout == ""
    assert files_in(tmp_path) == before
