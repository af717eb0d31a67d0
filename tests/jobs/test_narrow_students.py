"""Students of part of the teacher's width, from a recipe to a folder that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs import naive
from tests.jobs.runs import folder_for, recipe_in, trained

from seqdistill.compression.layers import parameter_count
from seqdistill.core.errors import DataError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.evaluate import evaluate_run

NARROW = {
    "mbart": "ffn_size: 20, attention_heads: 1, hidden_size: 8",
    "llama": "ffn_size: 20, hidden_size: 12, decoder_layers: 1",
}


@pytest.mark.parametrize("kind", NARROW)
def test_a_narrow_student_is_trained_and_loads(tmp_path: Path, kind: str) -> None:
    folder = folder_for(tmp_path, kind)
    given = f"student={{init: teacher_layers, model: null, {NARROW[kind]}}}"
    run = trained(recipe_in(folder, "hidden_states", given))
    student, teacher = (naive.plain_model(f) for f in (run.student_path, folder / "teacher"))
    assert teacher.config.hidden_size == 16, "the teacher stays as it is"
    assert f"hidden_size: {student.config.hidden_size}" in NARROW[kind]
    measured = evaluate_run(run, progress=NoProgress())
    start = next(system for system in measured.systems if system.name == "start")
    assert start.parameters == parameter_count(student)
    logits = [naive.plain_logits(model, (4, 5, 6), (7, 8, 2)) for model in (student, teacher)]
    assert logits[0].shape == logits[1].shape and bool(torch.isfinite(logits[0]).all())


def test_rows_without_targets_measure_nothing(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "mbart")
    sources = [line.split("\t")[0] for line in (folder / "train.tsv").read_text().splitlines()]
    (folder / "prompts.tsv").write_text("\n".join(sources) + "\n")
    given = [f"data.train={folder}/prompts.tsv", "data.source_column=source"]
    given.append("student={init: teacher_layers, model: null, ffn_size: 20}")
    with pytest.raises(DataError, match=r"data\.train must have rows with targets, on which"):
        trained(recipe_in(folder, "seq_kd", *given))
