"""The on-policy experiment on a tiny task: from nothing to rows, compared, and found again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiments.gkd import run as runner
from experiments.gkd import tasks
from experiments.gkd.cells import INITIAL, Cell
from experiments.gkd.compared import compared_rows
from experiments.gkd.measure import digest, rows_of, run_directory, training_digest
from experiments.gkd.methods import GridPoint, grid_method, methods_of
from experiments.gkd.plan import plan
from experiments.gkd.prepare import make_data, prepare
from experiments.gkd.tasks import G2P, Budget, Task
from experiments.harness.shapes import Size
from tests.experiments.tiny import save_tiny_teacher, tiny_settings, write_tiny_data

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.data.readers import read_examples
from seqdistill.sources.teacher_corpus import TeacherCorpus

TINY = Size(8, 1, 1)
ENDS = (GridPoint("forward_kl", 0.0), GridPoint("forward_kl", 1.0))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task of a few words and updates, its folders under tmp_path."""
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    data = tmp_path / "tiny" / "data"
    write_tiny_data(data, num_dev=4, num_test=6)
    teacher = tmp_path / "tiny" / "teacher"
    save_tiny_teacher(teacher, TINY, tokenizer=data / "tokenizer")
    settings = {
        **tiny_settings(G2P.settings, data),
        "evaluation.sampling_temperatures": [1.0],
        "evaluation.samples_per_source": 2,
    }
    return dataclasses.replace(
        G2P,
        name="tiny",
        teacher=str(teacher),
        teacher_corpus=tmp_path / "tiny" / "corpus",
        num_train=len((data / "train.tsv").read_text("utf-8").splitlines()) - 1,
        settings=settings,
        student={"student.init": "scratch", "student.architecture": dict(TINY.architecture)},
        rollouts={"sequences.rollouts.max_new_tokens": 6},
        budget=Budget(3, 1e-2, 2, (1e-3,), 2.0, 0),
        grid=ENDS,
        seeds=(1,),
        further_seeds=(1,),
        follow_up_seeds=(1,),
        later_seeds=(),
        data_shares=(0.5,),
        further_tests={"again": str(data / "dev.tsv")},
    )


def finish(task: Task) -> list[dict[str, Any]]:
    """All rows, measured in this process."""
    rows: list[dict[str, Any]] = []
    while waiting := runner.pending([task], rows):
        rows += rows_of(waiting[0])
    return rows


def test_the_whole_experiment_is_measured_once_and_then_found(task: Task) -> None:
    prepare(task, progress=NoProgress())
    rows = finish(task)
    main = {row["method"]: row for row in rows if row["experiment"] == "main"}
    assert set(main) == {"supervised_ft", "seq_kd", "imitkd", "supervised_kd", "on_policy_kd"}
    assert {row["method"] for row in rows if row["experiment"] == "data"} == {
        *("supervised_kd", "imitkd", "on_policy_kd"),
    }
    assert {row["method"] for row in rows if row["experiment"] == "wall_clock"} == {
        *("supervised_kd", "seq_kd"),
    }
    for row in rows:
        if row["experiment"] == "learning_rates":
            assert "value" not in row and row["dev_token_error_rate"] >= 0.0
            continue
        assert row["value"] == row["sequence_error_rate_greedy"]
        assert row["low"] <= row["value"] <= row["high"]
        assert {"self_bleu_sample_t1", "sequence_error_rate_again"} <= set(row)
        if row["experiment"] != "teacher":
            assert row["wall_s"] >= 0.0 and row["seconds_per_update"] > 0.0
    assert main["on_policy_kd"]["last_completion_length"] <= 6.0
    (start,) = (row for row in rows if row["experiment"] == "initial")
    assert all(row["start"] == start["training"] for row in main.values())

    compared = compared_rows(task, rows, num_resamples=20)
    for row in compared:
        assert "teacher_value" in row
        if row["experiment"] == "main":
            assert row["initial_value"] == start["value"]
            assert row["gain"] == start["value"] - row["value"]  # an error rate
            low, high = row["versus"]["initial/initial/seed1"][
                "sequence_error_rate_greedy - sequence_error_rate_greedy"
            ]
            assert low <= row["value"] - start["value"] <= high
        if row["experiment"] in ("main", "follow_up") and row["method"] == "imitkd":
            others = {base for base in row["versus"] if base.endswith("seq_kd/seed1")}
            assert others == {f"{e}/seq_kd/seed1" for e in {"main", row["experiment"]}}

    assert runner.pending([task], rows) == []
    assert runner.corpus_is_read(task, []) and not runner.corpus_is_read(task, rows)
    missing = [row for row in rows if row["method"] != "imitkd"]
    assert not runner.corpus_is_read(task, missing)
    missing = [row for row in rows if row["method"] != "seq_kd"]
    assert runner.corpus_is_read(task, missing)
    more = dataclasses.replace(task, budget=dataclasses.replace(task.budget, updates=3))
    again = {cell.experiment for cell in runner.pending([more], rows)}
    assert again and "initial" not in again and "teacher" not in again
    shutil.rmtree(task.folder / "cells" / f"initial-seed1-{start['training']}")
    assert runner.pending([task], rows) == []
    assert {cell.experiment for cell in runner.pending([more], rows)} == {"initial"}
    # A start that nothing waits for is not trained again.
    further = dataclasses.replace(task, seeds=(1, 2))
    assert [cell.seed for cell in runner.pending([further], rows)] == [2]


def test_measuring_differently_trains_nothing_anew(task: Task) -> None:
    cell = Cell(task, "main", grid_method(ENDS[0]), 1, 2, 1e-3, "t1")
    choosing = dataclasses.replace(cell, experiment="learning_rates")
    assert run_directory(cell).path == run_directory(choosing).path
    assert digest(cell) != digest(choosing)
    hotter = {**task.settings, "evaluation.sampling_temperatures": [2.0]}
    again = dataclasses.replace(cell, task=dataclasses.replace(task, settings=hotter))
    assert training_digest(again) == training_digest(cell) and digest(again) != digest(cell)
    longer = dataclasses.replace(cell, updates=3)
    assert training_digest(longer) != training_digest(cell)
    elsewhere = dataclasses.replace(cell, start="t2")
    assert training_digest(elsewhere) != training_digest(cell)


def test_a_new_teacher_changes_who_learns_from_it_alone(task: Task) -> None:
    other = Path(task.teacher).with_name("other")
    shutil.copytree(task.teacher, other)
    (other / "more.json").write_text("{}", encoding="utf-8")
    renewed = dataclasses.replace(task, teacher=str(other))
    teacher, start = plan(task, [])
    assert digest(teacher) != digest(dataclasses.replace(teacher, task=renewed))
    assert training_digest(start) == training_digest(dataclasses.replace(start, task=renewed))
    taught = Cell(task, "main", grid_method(ENDS[0]), 1, 2, 1e-3, "t1")
    assert training_digest(taught) != training_digest(dataclasses.replace(taught, task=renewed))


def test_the_number_of_training_examples_is_checked(task: Task) -> None:
    with pytest.raises(UserError, match=r"num_train"):
        prepare(dataclasses.replace(task, num_train=7), progress=NoProgress())


def test_the_teacher_writes_nothing_that_nobody_reads(task: Task) -> None:
    sizes = prepare(task, labelled=False, progress=NoProgress())
    assert sizes["train"] == task.num_train and not task.teacher_corpus.exists()
    assert prepare(task, progress=NoProgress()) == sizes
    assert (task.teacher_corpus / "corpus.json").is_file()


def test_seq_kd_reads_the_inputs_that_the_teacher_wrote_outputs_for(task: Task) -> None:
    some = dataclasses.replace(task, num_labelled=5)
    prepare(some, progress=NoProgress())
    labelled = [example.id for example in read_examples(some.labelled_inputs, split="train")]
    assert len(labelled) == 5
    corpus = TeacherCorpus.open(some.teacher_corpus, expected=None)
    assert [name for name, _ in corpus.by_example()] == labelled
    read = {
        method: Cell(some, "main", methods_of(ENDS)[method], 1, 2, 1e-3).settings["data.train"]
        for method in ("seq_kd", "supervised_kd")
    }
    assert read == {"seq_kd": some.labelled_inputs, "supervised_kd": task.settings["data.train"]}
    make_data(dataclasses.replace(task, num_labelled=7))
    more = [example.id for example in read_examples(some.labelled_inputs, split="train")]
    assert len(more) == 7 and {*labelled} < {*more}


def test_a_start_that_is_made_of_the_teacher_is_another_with_another_teacher(task: Task) -> None:
    def started(student: dict[str, object], teacher: str) -> str:
        made = dataclasses.replace(task, student=student, teacher=teacher)
        return training_digest(Cell(made, "initial", INITIAL, 1, 2, 1e-3))

    another = Path(task.teacher).with_name("another")
    shutil.copytree(task.teacher, another)
    (another / "config.json").write_text("{}", encoding="utf-8")
    layers: dict[str, object] = {"student.init": "teacher_layers"}
    assert started(layers, task.teacher) != started(layers, str(another))
    assert started(dict(task.student), task.teacher) == started(dict(task.student), str(another))
