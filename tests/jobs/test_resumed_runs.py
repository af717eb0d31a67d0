"""--resume means the same run: inputs, arithmetic, whole students, and one writer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from tests.jobs import runs
from tests.jobs.runs import folder_for, settings_in, texts, trained

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs import training
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.inputs import data_files
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.locks import held
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.training.loop import TrainingLoop, TrainingResult


def recipe_in(folder: Path) -> Recipe:
    trackers = {"training.trackers": ["tensorboard"]}
    return load_recipe("word_kd", texts({**settings_in(folder, "one"), **trackers}))


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A run that was killed after it trained and before it stored its student."""
    recipe = recipe_in(folder_for(tmp_path, "mbart"))

    def kill(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_save", kill)
        trained(recipe)
    return recipe


def test_a_run_goes_on_with_the_same_inputs_fingerprints_and_alone(
    killed: Recipe, tmp_path: Path
) -> None:
    for name, key in (
        ("train.tsv", "data.train"),
        ("test.tsv", "data.test"),
        ("teacher/model.safetensors", "teacher.model"),
        ("teacher/tokenizer.json", "teacher.model"),
        ("student/config.json", "student.model"),
    ):
        path = tmp_path / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"\x01")
        with pytest.raises(UserError, match=f"{key} that .* but {path.name} changed since"):
            trained(killed, resume=True)
        path.write_bytes(content)
    run = RunDirectory.open(killed.output_dir)
    metrics, manifest = run.metrics_path.read_bytes(), run.read_manifest()
    with held(run.path, "training in"):
        with pytest.raises(UserError, match="is training in it"):
            trained(killed, resume=True)
        with pytest.raises(UserError, match="is training in it"):
            evaluate_run(run, progress=NoProgress())
    assert run.metrics_path.read_bytes() == metrics
    run.write_manifest({})
    with pytest.raises(UserError, match="fingerprints"):
        trained(killed, resume=True)
    run.manifest_path.unlink()
    with pytest.raises(UserError, match=r"manifest\.json must be a readable"):
        trained(killed, resume=True)
    run.write_manifest(manifest)
    assert trained(killed, resume=True).is_finished


def test_a_damaged_student_is_refused_and_made_again(killed: Recipe) -> None:
    run = trained(killed, resume=True)
    weights = run.student_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors does not match its checksum"):
        evaluate_run(run, progress=NoProgress())
    trained(killed, resume=True)
    assert weights.read_bytes() == content
    written = weights.stat().st_mtime_ns
    trained(killed, resume=True)
    assert weights.stat().st_mtime_ns == written, "a finished run is left as it is"


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_was_only_just_made_is_begun_either_way(tmp_path: Path, resume: bool) -> None:
    recipe = recipe_in(folder_for(tmp_path, "mbart"))
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml.partial-999999999").touch()
    run = trained(recipe, resume=resume)
    assert run.is_finished
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert not any("partial" in path.name or socket.gethostname() in path.name for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {
        (tmp_path / "train.tsv").stat().st_mode & 0o777
    }


def test_a_further_test_set_is_known_by_the_file_that_it_lies_in() -> None:
    whole = data_files("bundled:arithmetic")
    assert whole and data_files("bundled:arithmetic/new-templates") == whole


class Stopped(Exception):
    """Somebody pressed Ctrl-C before the first update."""


@pytest.mark.parametrize(
    ("has_bf16", "given", "precision"),
    [(True, [], "bf16"), (False, [], "fp32"), (False, ["training.precision=bf16"], "bf16")],
)
def test_what_the_cpu_multiplies_fast_is_taken_noted_and_kept_on_another_machine(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_bf16: bool,
    given: list[str],
    precision: str,
) -> None:
    begun: list[str] = []

    def stop(self: TrainingLoop, *, resume: Resume, until: None) -> TrainingResult:
        begun.append(self.precision)
        raise Stopped

    monkeypatch.setattr(TrainingLoop, "run", stop)
    recipe = load_recipe("word_kd", [*texts(settings_in(place)), *given])
    for resume in (False, True):
        found = {"avx512_bf16": has_bf16 != resume}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        with pytest.raises(Stopped):
            trained(recipe, resume=resume)
        told = "training.precision=bf16 takes many times as long as fp32 on this CPU" in caplog.text
        assert told == bool(given)
    assert begun == [precision] * 2
    assert RunDirectory(place / "runs" / "run").read_manifest()["precision"] == precision


def test_a_run_that_pauses_twice_is_the_run_that_never_did(place: Path) -> None:
    """Within an epoch, and from rollouts: the schedule, the data and the sampler go on."""
    given = ["training.steps=5", "training.eval_every=2", "training.dropout=0.1"]
    given += ["training.checkpoint_every=null"]
    whole = trained(runs.recipe_in(place, "gkd", *given, name="whole"))
    recipe = runs.recipe_in(place, "gkd", *given, name="paused")
    for until in (1, 3):
        paused = train(recipe, progress=NoProgress(), resume=True, until=until)
        assert not paused.is_finished and not paused.student_path.exists()
        assert [row["step"] for row in paused.read_metrics()][-1] == until
    runs.assert_equal_students(trained(recipe, resume=True), whole)
    assert runs.losses(paused) == runs.losses(whole)
