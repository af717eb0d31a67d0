"""What would fail after hours is refused at once, and leaves no folder behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from tests.jobs.runs import FEASIBLE, start
from tests.tiny import tiny_model

import seqdistill
from seqdistill.core.errors import DataError, EngineError, RecipeError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import EXTENSIONS
from seqdistill.generation.verification import TOLERANCES, Tolerance
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.label import label_data
from seqdistill.jobs.plan import plan
from seqdistill.metrics.similarity import SIMILARITIES
from seqdistill.recipe.checks import FILE_SUFFIXES
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.sequences_schema import SequencesSection


def test_outputs_beyond_the_positions_are_refused_before_training(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation.max_new_tokens .* 40 positions, got 128"):
        start("data.dev=dev.tsv", "evaluation.max_new_tokens=128")
    with pytest.raises(RecipeError, match=r"sequences.decoding.max_new_tokens .* got 128"):
        start("teacher.model=bart", "sequences.decoding.max_new_tokens=128", method="seq_kd")
    assert not (folder / "runs").exists()


# (method, overrides, the setting that chose the engine)
ENGINES = [
    ("baseline", ["data.dev=dev.tsv", "evaluation.engine=ctranslate2"], "evaluation.engine"),
    (
        "seq_kd",
        ["teacher.model=bart", "sequences.decoding.engine=ctranslate2"],
        "sequences.decoding.engine",
    ),
    (
        "on_policy_kd",
        ["teacher.model=bart", "sequences.rollouts={engine: ctranslate2, max_new_tokens: 12}"],
        "sequences.rollouts.engine",
    ),
]


@pytest.mark.parametrize(("method", "overrides", "key"), ENGINES)
def test_an_engine_that_computes_another_model_is_refused_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, overrides: list[str], key: str
) -> None:
    monkeypatch.setitem(TOLERANCES, "float32", Tolerance(mean_nats=-1.0, max_nats=-1.0))
    with pytest.raises(EngineError, match=rf"off by up to .*; use {key}=transformers$"):
        start(*overrides, method=method)
    assert not (folder / "runs" / "x").exists()


def test_an_engine_that_does_not_know_the_model_is_refused_before_training(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctranslate2.converters.transformers._MODEL_LOADERS", {})
        for method, overrides, key in ENGINES:
            with pytest.raises(EngineError, match=rf"got BartConfig; use {key}=transformers$"):
                start(*overrides, method=method)
    assert not (folder / "runs").exists()


def test_an_example_longer_than_the_positions_is_refused(folder: Path) -> None:
    (folder / "train.tsv").write_text(f"source\ttarget\nrot\t{'b ' * 30}\n", encoding="utf-8")
    with pytest.raises(DataError, match="student's 40 positions, but example"):
        start()
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("content", [None, b"source\ttarget\n\xff\tx\n"])
def test_a_test_set_that_cannot_be_read_is_refused_before_training(
    folder: Path, content: bytes | None
) -> None:
    if content is None:
        (folder / "test.tsv").unlink()
    else:
        (folder / "test.tsv").write_bytes(content)
    with pytest.raises(DataError, match=r"test\.tsv"):
        start("data.test=test.tsv")
    assert not (folder / "runs").exists()


def test_a_finished_run_is_never_continued_by_another(folder: Path) -> None:
    run = start()
    before = (run.student_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="runs/x"):
        start("training.steps=4", "seed=7")
    with pytest.raises(UserError, match="runs/x"):
        seqdistill.distill(
            teacher="bart",
            student="bart",
            data={"train": "train.tsv", "test": "test.tsv"},
            method="word_kd",
            output_dir="runs/x",
        )
    assert (run.student_path / "model.safetensors").read_bytes() == before


def test_sources_alone_are_enough_where_the_teacher_writes(folder: Path) -> None:
    rows = [json.dumps({"source": f"rot {'a' * n}"}) for n in range(1, 9)]
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="target"):
        start("data.train=train.jsonl")
    model = tiny_model("bart")
    model.final_logits_bias[0, 2] += 8.0  # so that random outputs come to an end
    model.save_pretrained(folder / "bart")
    given = ["data.train=train.jsonl", "teacher.model=bart", "student.model=bart", *FEASIBLE]
    longest = "sequences.decoding.max_new_tokens=5"
    planned = plan(load_recipe("seq_kd", [*given, longest]))
    assert (planned.guessed_targets, planned.target_tokens) == (8, 8 * 5)
    told = dict(planned.lines())["target tokens"]
    assert told == "40 (estimated for 8 without a target yet)"
    run = start("data.train=train.jsonl", "teacher.model=bart", method="seq_kd")
    assert (run.student_path / "model.safetensors").is_file()


def test_what_the_recipe_may_name_is_what_the_packages_have() -> None:
    similarity = SequencesSection.model_fields["similarity"].annotation
    assert set(get_args(similarity)) == set(SIMILARITIES)
    assert all(extension.endswith(FILE_SUFFIXES) for extension in EXTENSIONS)


def test_a_stale_corpus_leaves_no_run_directory(folder: Path) -> None:
    model = tiny_model("bart")
    model.final_logits_bias[0, 2] += 8.0
    model.save_pretrained(folder / "bart")
    start("teacher.model=bart", "sequences.corpus=corpus", method="seq_kd")
    (folder / "train.tsv").write_text("source\ttarget\nrot\tblau\n", encoding="utf-8")
    with pytest.raises(UserError, match="corpus"):
        start("teacher.model=bart", "sequences.corpus=corpus", "output_dir=runs/y", method="seq_kd")
    assert not (folder / "runs" / "y").exists()


def test_a_run_can_be_measured_on_another_test_set(folder: Path) -> None:
    run = start()
    with pytest.raises(RecipeError, match=r"data\.test must name"):
        evaluate_run(run, progress=NoProgress())
    results = evaluate_run(run, ["data.test=test.tsv"], progress=NoProgress())
    assert results.overrides == ("data.test=test.tsv",)
    with pytest.raises(RecipeError, match="data and evaluation only"):
        evaluate_run(run, ["seed=3"], progress=NoProgress())


def test_a_chain_is_not_labelled_as_a_whole(folder: Path) -> None:
    given = ["data.train=train.tsv", "student.model=bart", "teacher.model=bart"]
    recipe = load_recipe("seq_kd_seq_inter", given)
    with pytest.raises(RecipeError, match="label seq_kd instead"):
        label_data(recipe, progress=NoProgress())
