"""A run directory is created once, opened by its recipe, and never overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seqdistill.core.errors import UserError
from seqdistill.records.results import Metric, Results, Sample, System
from seqdistill.records.run_directory import RunDirectory


def results(name: str) -> Results:
    metric = Metric(name="bleu", title="BLEU", higher_is_better=True)
    return Results(metrics=(metric,), systems=(System(name=name, method="teacher"),))


def sample(source: str) -> Sample:
    return Sample(id="a", source=source, outputs={})


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


def test_open_needs_a_folder_with_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must exist"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"must hold recipe\.yaml"):
        RunDirectory.open(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for path in ("new", "new/deep/ü ö\n", "folder", "link/run"):
        RunDirectory.create(tmp_path / path).write_recipe("seed: 1\n")
        assert RunDirectory.open(tmp_path / path).read_recipe() == "seed: 1\n"


def test_json_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_results(results("teacher"))
    run.write_samples([sample("a\nb"), sample("ü")])
    run.write_manifest({"seed": 1, "started": "then"})
    run.update_manifest({"finished": "now", "seed": 2})
    assert run.read_results() == results("teacher")
    assert run.read_samples() == [sample("a\nb"), sample("ü")]
    assert run.read_outputs() == []
    run.write_outputs([{"id": "1", "greedy": {"teacher": "a\nb"}}])
    assert run.read_outputs() == [{"id": "1", "greedy": {"teacher": "a\nb"}}]
    assert run.read_manifest() == {"seed": 2, "started": "then", "finished": "now"}
    run.write_manifest({"b": (1, 2.5), "a": {"10": "x", "9": None}})
    assert run.read_manifest() == {"b": [1, 2.5], "a": {"10": "x", "9": None}}
    run.manifest_path.write_text(run.manifest_path.read_text().replace("2.5", "2.6"))
    with pytest.raises(UserError, match=r"manifest\.json must say.*damaged or changed"):
        run.read_manifest()


def logged(run: RunDirectory, steps: range) -> RunDirectory:
    for step in steps:
        run.log_metrics(step, {"loss": 1.0 / step})
        run.log_rollouts(step, [{"id": "a", "written": f"x{step}"}])
    return run


def test_logs_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = logged(RunDirectory.create(tmp_path / "whole"), range(1, 7))
    whole.close()
    killed = logged(RunDirectory.create(tmp_path / "killed"), range(1, 4))
    so_far = killed.logs_so_far()
    killed.log_metrics(3, {"dev_bleu": 1.0})  # of the same step, but later
    logged(killed, range(4, 6)).close()
    with killed.metrics_path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    resumed = RunDirectory(killed.path)
    resumed.go_back_to(json.loads(json.dumps(so_far)))
    logged(resumed, range(4, 7)).close()
    assert resumed.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    assert resumed.rollouts_path.read_bytes() == whole.rollouts_path.read_bytes()
    assert resumed.read_metrics()[0] == {"step": 1, "loss": 1.0}
    resumed.go_back_to({})
    assert resumed.read_metrics() == resumed.read_rollouts() == [], "without a checkpoint"


@pytest.mark.parametrize("log", ["metrics.jsonl", "rollouts.jsonl"])
@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_rows_from_before_a_checkpoint_must_be_what_they_were(
    tmp_path: Path, log: str, how: str
) -> None:
    run = logged(RunDirectory.create(tmp_path / "run"), range(1, 4))
    so_far = run.logs_so_far()
    logged(run, range(4, 6)).close()
    path = run.path / log
    content = path.read_bytes()
    spoilt = {"flipped": content.replace(b"1", b"3", 1), "truncated": content[:20]}
    path.unlink()
    if how in spoilt:
        path.write_bytes(spoilt[how])
    before = {file: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(UserError, match=f"{log} must begin with the rows.*put an empty file"):
        run.go_back_to(so_far)
    assert {file: file.read_bytes() for file in run.path.iterdir()} == before
    path.write_bytes(b"")
    run.go_back_to(so_far)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("log", ["metrics.jsonl", "rollouts.jsonl"])
def test_logs_of_a_finished_run_are_read_as_they_were_written(tmp_path: Path, log: str) -> None:
    run = logged(RunDirectory.create(tmp_path / "run"), range(1, 4))
    run.student_path.mkdir()
    run.write_manifest({"finished": True, "logs": run.logs_so_far()})
    assert [len(run.read_metrics()), len(run.read_rollouts())] == [3, 3]
    path = run.path / log
    path.write_bytes(path.read_bytes().replace(b"3", b"4"))
    with pytest.raises(UserError, match=f"{log} must be what was logged.*remove it"):
        (run.read_metrics(), run.read_rollouts())
    path.unlink()
    assert sorted([len(run.read_metrics()), len(run.read_rollouts())]) == [0, 3]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "{", "\x00", "[]"])
def test_damaged_json_is_a_users_error(tmp_path: Path, text: str) -> None:
    run = RunDirectory.create(tmp_path / "run")
    for path in (run.manifest_path, run.results_path, run.metrics_path, run.samples_path):
        path.write_text(text + "\n")
    for read in (run.read_manifest, run.read_results, run.read_metrics, run.read_samples):
        with pytest.raises(UserError):
            read()


def test_a_folder_or_log_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    run = logged(RunDirectory.create(tmp_path / "run"), range(1, 3))
    shutil.rmtree(run.path)
    row = {"a": 1}
    logging = (lambda: run.log_metrics(3, row), lambda: run.log_rollouts(3, [row]))
    for write in (
        *logging,
        lambda: run.update_manifest(row),
        lambda: run.write_results(results("1")),
        lambda: run.write_samples([sample("1")]),
        lambda: run.write_outputs([row]),
        lambda: run.write_recipe(""),
        run.logs_so_far,
    ):
        with pytest.raises(UserError, match="must stay"):
            write()
    run.close()
    assert not run.path.exists()
    moved = logged(RunDirectory.create(tmp_path / "moved"), range(1, 3))
    moved.path.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="must stay"):
        moved.log_metrics(3, row)
    moved.close()
    for log in ("metrics.jsonl", "rollouts.jsonl"):  # gone between two checkpoints
        run = logged(RunDirectory.create(tmp_path / log), range(1, 3))
        run.logs_so_far()
        (run.path / log).unlink()
        with pytest.raises(UserError, match="must stay as it is"):
            logged(run, range(3, 4))
        run.close()
        with pytest.raises(UserError, match=f"must stay as it is.*{log}"):
            run.logs_so_far()


def test_what_a_process_left_that_was_killed_as_it_began_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml.partial-17").touch()
    assert not RunDirectory(tmp_path).is_begun
    run = RunDirectory.create(tmp_path)
    assert not list(tmp_path.iterdir())
    run.write_recipe("seed: 1\n")
    assert run.is_begun


@pytest.mark.parametrize("name", ["recipe.yaml", "results.json", "samples.jsonl", "outputs.jsonl"])
def test_a_changed_file_that_the_manifest_vouches_for_is_refused(tmp_path: Path, name: str) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_recipe("seed: 1\n")  # before there is a manifest, as when a run begins
    run.update_manifest({"seed": 1})
    run.write_results(results("1"))
    run.write_samples([sample("1")])
    run.write_outputs([{"id": "1"}])
    readers = {
        "recipe.yaml": run.read_recipe,
        "results.json": run.read_results,
        "samples.jsonl": run.read_samples,
        "outputs.jsonl": run.read_outputs,
    }
    before = readers[name]()
    path, manifest = run.path / name, json.loads(run.manifest_path.read_text())
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(UserError, match=rf"{name} must be what the run wrote.* restore it"):
        readers[name]()
    run.manifest_path.write_text(
        json.dumps({k: v for k, v in manifest.items() if k not in ("files", "sha256")})
    )
    assert readers[name]() != before, "changed on purpose, as the sentence says"
    run.write_manifest({"seed": 1})
    run.write_recipe("seed: 2\n")
    run.write_results(results("2"))
    assert (run.read_recipe(), run.read_results()) == ("seed: 2\n", results("2")), "vouched anew"
