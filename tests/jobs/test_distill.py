"""The whole job on tiny models: `distill()` for one student, `run_recipe` for a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import QUICK, save_pairs, save_teacher, texts
from transformers import AutoModelForSeq2SeqLM

import seqdistill
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.distill import run_recipe
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str | Path]:
    sizes = {"train": 40, "dev": 6, "test": 10}
    return {
        split: save_pairs(tmp_path / f"{split}.tsv", size, seed=seed)
        for seed, (split, size) in enumerate(sizes.items())
    }


def test_distill_returns_a_measured_student_with_an_int8_copy(
    tmp_path: Path, data: dict[str, str | Path]
) -> None:
    made = seqdistill.distill(
        teacher=save_teacher(tmp_path / "teacher", "mbart"),
        data=data,
        method="word_kd",
        output_dir=tmp_path / "run",
        overrides={**QUICK, "student.decoder_layers": 1},
    )
    results = made.results
    assert RunDirectory(made.run_directory).read_results() == results
    systems, (copy,) = results.systems, results.exports
    assert [row.method for row in systems] == ["teacher", "start", "word_kd"]
    of_the_model_itself = ("loss_nats", "perplexity", "entropy_nats", "agreement_top1")
    of_a_student = {k for k in systems[2].columns() if not k.startswith(of_the_model_itself)}
    assert of_a_student <= copy.columns().keys()
    assert (made.run_directory / str(copy.folder) / "model.bin").stat().st_size == copy.bytes
    assert results.student == copy.copy_of == "word_kd"
    assert (made.run_directory / "report.html").is_file()
    stored = AutoModelForSeq2SeqLM.from_pretrained(made.run_directory / "student")
    for name, value in made.student.state_dict().items():
        assert torch.equal(stored.state_dict()[name], value), name


def test_a_comparison_trains_all_students_alike_and_copies_the_best(
    tmp_path: Path, data: dict[str, str | Path]
) -> None:
    teacher = save_teacher(tmp_path / "teacher", "mbart")
    settings = {
        **QUICK,
        "teacher.model": str(teacher),
        "student.encoder_layers": 1,
        "student.decoder_layers": 1,
        "data.max_train_examples": 30,
        "output_dir": str(tmp_path / "run"),
        **{f"data.{split}": str(path) for split, path in data.items()},
    }
    run = run_recipe(load_recipe("demo", texts(settings)), progress=NoProgress())
    results = run.read_results()
    rows = results.systems
    assert [row.method for row in rows] == ["teacher", "start", "baseline", "word_kd", "seq_kd"]
    assert len({(row.init, row.parameters) for row in rows[1:]}) == 1
    assert {test.versus for test in results.paired_tests} == {"baseline"}
    best = run.member(str(results.student)).student_path / "model.safetensors"
    assert (run.student_path / "model.safetensors").read_bytes() == best.read_bytes()
    manifest = json.loads(run.manifest_path.read_text("utf-8"))
    timings = [row["step"] for row in manifest["timings"]]
    assert {"seq_kd: labelling", "word_kd: training", "measure speed", "report"} <= set(timings)
