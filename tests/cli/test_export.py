"""`export`: forms by name, paths and bytes on the screen, exit code 2 for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.models.loading import SPARSE_WEIGHTS

from .conftest import Program, files_in


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_model("mbart").save_pretrained(tmp_path / "small")
    character_tokenizer().save_pretrained(tmp_path / "small")
    return "small"


def test_a_model_goes_to_another_form_and_back(program: Program, model: str) -> None:
    answer = program("export", model, "made/sparse", "--format", "sparse", "--save-dtype", "fp16")
    assert answer.exit_code == 0, answer.stderr
    size = (Path("made/sparse") / SPARSE_WEIGHTS).stat().st_size
    before = (Path(model) / "model.safetensors").stat().st_size
    rows = dict(line.split()[:2] for line in answer.stdout.splitlines() if line)
    assert (rows["model"], rows["sparse"]) == (f"{before:,}", f"{size:,}")
    assert "export made/sparse OUTPUT --format dense" in answer.stdout
    answer = program("export", "made/sparse", "made/dense", "--format", "dense")
    assert answer.exit_code == 0, answer.stderr
    assert (Path("made/dense") / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("small", "out"), "--format"),
        (("small", "out", "--format", "int8"), "give --verify-on DATA"),
        (("small", "out", "--format", "int8", "--verify-on", "none.tsv"), "none.tsv"),
        (("small", "small", "--format", "sparse"), "OUTPUT must be a new or empty folder"),
        (("nowhere", "out", "--format", "sparse"), "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence_and_writes_nothing(
    program: Program, model: str, words: tuple[str, ...], sentence: str
) -> None:
    before = files_in(Path())
    answer = program("export", *words)
    assert answer.exit_code == 2
    assert sentence in answer.stderr and "Traceback" not in answer.stderr
    assert files_in(Path()) == before
