"""A run directory is created once, opened by its recipe, and never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records.run_directory import RunDirectory


def test_create_makes_an_empty_folder_and_its_parents(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs" / "demo")
    assert run.path.is_dir() and not list(run.path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_create_refuses_what_exists_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "demo"
    if kind == "folder":
        target.mkdir()
        (target / "kept.txt").write_text("kept")
    else:
        target.write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"--resume.*another output_dir"):
        RunDirectory.create(target)
    assert sorted(tmp_path.rglob("*")) == before


def test_check_free_writes_nothing(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "new").check_free()
    assert not list(tmp_path.iterdir())


def test_open_needs_a_folder_with_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must exist"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"must hold recipe\.yaml"):
        RunDirectory.open(tmp_path)
    RunDirectory.create(tmp_path / "run").write_recipe("seed: 1\n")
    assert RunDirectory.open(tmp_path / "run").read_recipe() == "seed: 1\n"


def test_json_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_results({"systems": [{"name": "teacher", "bleu_beam": 31.25}]})
    run.write_samples([{"source": "a\nb"}, {"source": "ü"}])
    run.write_manifest({"seed": 1, "started": "then"})
    run.update_manifest({"finished": "now", "seed": 2})
    assert run.read_results() == {"systems": [{"name": "teacher", "bleu_beam": 31.25}]}
    assert run.read_samples() == [{"source": "a\nb"}, {"source": "ü"}]
    assert run.read_outputs() == []
    run.write_outputs([{"id": "1", "greedy": {"teacher": "a\nb"}}])
    assert run.read_outputs() == [{"id": "1", "greedy": {"teacher": "a\nb"}}]
    assert run.read_manifest() == {"seed": 2, "started": "then", "finished": "now"}


def test_missing_or_damaged_results_are_a_users_error(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(UserError, match=r"results\.json"):
        run.read_results()
    for damaged in ("{", "[]"):
        run.results_path.write_text(damaged)
        with pytest.raises(UserError, match=r"results\.json"):
            run.read_results()


def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = RunDirectory.create(tmp_path / "whole")
    for step in range(1, 7):
        whole.log_metrics(step, {"loss": 1.0 / step})
    whole.close()
    killed = RunDirectory.create(tmp_path / "killed")
    for step in range(1, 6):
        killed.log_metrics(step, {"loss": 1.0 / step})
    resumed = RunDirectory(killed.path)
    assert resumed.forget_metrics_after(3) == 2
    for step in range(4, 7):
        resumed.log_metrics(step, {"loss": 1.0 / step})
    resumed.close()
    killed.close()
    assert resumed.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    assert resumed.read_metrics()[0] == {"step": 1, "loss": 1.0}


def test_rollouts_are_kept_by_step_and_forgotten_with_the_metrics(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_rollouts() == []
    for step in (1, 2):
        run.log_metrics(step, {"loss": 1.0})
        run.log_rollouts(step, [{"id": "a", "written": "x"}, {"id": "b", "written": "y"}])
    assert run.forget_metrics_after(1) == 1
    run.log_rollouts(2, [{"id": "c", "written": "z"}])
    run.close()
    assert [(row["step"], row["id"]) for row in run.read_rollouts()] == [
        (1, "a"),
        (1, "b"),
        (2, "c"),
    ]


def test_a_metric_may_not_be_called_step(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(ValueError, match="step"):
        run.log_metrics(1, {"step": 2})
    assert not run.metrics_path.exists()


def test_members_are_the_sub_folders_that_are_runs(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "demo")
    for method in ("seq_kd", "baseline"):
        RunDirectory.create(run.member(method).path).write_recipe("seed: 1\n")
    (run.path / "student").mkdir()
    assert [member.path.name for member in run.members()] == ["baseline", "seq_kd"]
