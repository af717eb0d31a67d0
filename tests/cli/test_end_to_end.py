"""A user's own data and two model folders, through `train`, `evaluate`, `report` and `generate`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.jobs.runs import folder_for

from seqdistill.records.run_directory import RunDirectory

from .conftest import Program, files_in


@pytest.fixture
def own_files(tmp_path: Path) -> None:
    folder_for(tmp_path, "marian")
    (tmp_path / "own.yaml").write_text(
        """preset: word_kd
output_dir: runs/own
data: {train: train.tsv, dev: test.tsv, test: test.tsv}
teacher: {model: teacher}
student: {model: student}
training: {steps: 6, batch_tokens: 200, warmup_steps: 2, eval_every: 3, log_every: 1,
           threads: 1, device: cpu, trackers: []}
evaluation: {bootstrap_resamples: 50, max_new_tokens: 24, num_samples: 3}
""",
        encoding="utf-8",
    )


def test_own_data_and_models_go_through_unchanged(
    program: Program, own_files: None, tmp_path: Path
) -> None:
    before = files_in(tmp_path)
    planned = program("train", "own.yaml", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "train examples" in planned.stdout
    assert files_in(tmp_path) == before

    trained = program("train", "own.yaml", "learning_rate=1e-3")
    assert trained.exit_code == 0, trained.stderr
    assert "training: done, 6 of 6" in trained.stdout
    assert "runs/own/student" in trained.stdout
    assert "judged by" in trained.stdout and "judged by" in planned.stdout

    evaluated = program("evaluate", "runs/own")
    assert evaluated.exit_code == 0, evaluated.stderr
    run = RunDirectory.open(tmp_path / "runs" / "own")
    rows = run.read_results().systems
    assert [row.method for row in rows] == ["teacher", "start", "word_kd"]
    for row in rows:
        assert any(line.strip().startswith(row.name) for line in evaluated.stdout.splitlines())

    assert program("report", "runs/own").exit_code == 0
    page = run.report_path.read_text(encoding="utf-8")
    assert "learning_rate: 0.001" in page

    generated = program(
        "generate",
        "runs/own/student",
        "--num_beams=2",
        "--max_new_tokens=24",
        stdin=b"ein haus\n\nx",
    )
    assert generated.exit_code == 0, generated.stderr
    assert len(generated.stdout.split("\n")) == 4
    assert generated.stdout.split("\n")[1] == ""

    assert "--max_new_tokens must be" in program("generate", "runs/own/student", "ab").stderr
    again = program("train", "own.yaml", "learning_rate=1e-3")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
