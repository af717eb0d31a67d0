"""Chains on tiny models: equal to the runs by hand, finished stages kept, resumed, refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.jobs.test_distill import QUICK, save_data_and_models
from tests.tiny import character_tokenizer, tiny_model
from torch import Tensor

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.plan import plan
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.results import Results
from seqdistill.records.run_directory import RunDirectory

COMMON = {
    **QUICK,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
}
SHORT = {"training.steps": 4, "training.warmup_steps": 1}
FEW = {"sequences.decoding.beam_size": 4, "sequences.decoding.n_best": 4}


def texts(settings: Mapping[str, object]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def settings_in(folder: Path) -> dict[str, object]:
    """What every recipe of the tests says, its data and models in `folder`."""
    return {
        **COMMON,
        "teacher.model": str(folder / "teacher"),
        "student.model": str(folder / "student"),
        "data.train": str(folder / "train.tsv"),
        "data.test": str(folder / "test.tsv"),
    }


def chain_in(folder: Path, name: str, *overrides: str, stages: object = None) -> Recipe:
    fine_tuning = {"preset": "seq_inter", "settings": {**SHORT, **FEW}}
    given = {
        **settings_in(folder),
        "stages": stages or [{"preset": "seq_kd"}, fine_tuning],
        "output_dir": str(folder / "runs" / name),
    }
    return load_recipe("seq_kd_seq_inter", [*texts(given), *overrides])


def trained(recipe: Recipe, *, resume: bool = False) -> RunDirectory:
    return train(recipe, progress=NoProgress(), resume=resume)


def student_of(run: RunDirectory) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(run.student_path / "model.safetensors")
    return found


def assert_equal_students(one: RunDirectory, other: RunDirectory) -> None:
    first, second = student_of(one), student_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def stages_of(run: RunDirectory) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run.manifest_path.read_text("utf-8"))["stages"]
    return found


def reused(run: RunDirectory) -> list[object]:
    return [stage["reused"] for stage in stages_of(run)]


def files_in(folder: Path) -> dict[str, int]:
    """Every file with the time of its last change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, models and the trained chain `runs/first`."""
    folder = tmp_path_factory.mktemp("finished")
    save_data_and_models(folder)
    trained(chain_in(folder, "first"))
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """That folder, put back as it was after the test: recipes name where data and models lie."""
    kept = shutil.copytree(finished, tmp_path / "kept")
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(kept, finished)


def test_a_chain_equals_its_stages_run_by_hand(place: Path) -> None:
    first = load_recipe(
        "seq_kd", [*texts(settings_in(place)), f"output_dir={place / 'by-hand' / 'first'}"]
    )
    before = trained(first)
    given = {**settings_in(place), **SHORT, **FEW, "student.model": str(before.student_path)}
    second = load_recipe("seq_inter", [*texts(given), f"output_dir={place / 'by-hand' / 'second'}"])
    after = trained(second)
    run = RunDirectory.open(place / "runs" / "first")
    assert_equal_students(run, after)
    stages = [RunDirectory(run.path / str(stage["folder"])) for stage in stages_of(run)]
    assert_equal_students(stages[0], before)
    assert not torch.equal(*(student_of(r)["model.shared.weight"] for r in (before, after)))
    steps = [(row["step"], row["stage"]) for row in run.read_metrics()]
    assert steps == [(step, 0) for step in range(1, 5)] + [(step, 1) for step in range(5, 9)]
    losses = [row["loss_nats"] for row in run.read_metrics()]
    assert losses == [row["loss_nats"] for r in (before, after) for row in r.read_metrics()]


def test_finished_stages_are_used_and_not_written_to(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory.open(place / "runs" / "first")
    run.write_results(Results(metrics=()))
    before, student = files_in(run.path / "1-seq_kd"), student_of(run)
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        trained(chain_in(place, "first"), resume=True)
    assert reused(run) == [True, True]
    assert sum("using the stage in" in message for message in caplog.messages) == 2
    assert files_in(run.path / "1-seq_kd") == before
    assert torch.equal(student["model.shared.weight"], student_of(run)["model.shared.weight"])
    assert run.results_path.exists() and not run.members()


def test_a_changed_stage_is_refused_and_trained_again_once_its_folder_is_removed(
    place: Path,
) -> None:
    run = RunDirectory.open(place / "runs" / "first")
    run.write_results(Results(metrics=()))
    old, before = student_of(run), files_in(run.path)
    changed = chain_in(place, "first", "stages.1.settings.training.learning_rate=0.002")
    with pytest.raises(UserError, match=r"2-seq_inter.*learning_rate was .* is now 0\.002"):
        trained(changed, resume=True)
    assert files_in(run.path) == before
    shutil.move(run.path / "1-seq_kd", place / "aside")
    with pytest.raises(UserError, match="2-seq_inter"):
        trained(changed, resume=True)
    assert not (run.path / "1-seq_kd").exists(), "all stages are looked at before one is trained"
    shutil.move(place / "aside", run.path / "1-seq_kd")
    shutil.rmtree(run.path / "2-seq_inter")
    trained(changed, resume=True)
    assert reused(run) == [True, False]
    assert not torch.equal(old["model.shared.weight"], student_of(run)["model.shared.weight"])
    assert not run.results_path.exists()  # they were about the student before
    assert "learning_rate: 0.002" in run.read_recipe()


@pytest.mark.parametrize("name", ["train.tsv", "teacher/model.safetensors"])
def test_a_chain_does_not_go_on_with_other_data_or_models(place: Path, name: str) -> None:
    shutil.rmtree(place / "runs" / "first" / "2-seq_inter")
    content = bytearray((place / name).read_bytes())
    content[-1] ^= 1
    (place / name).write_bytes(content)
    with pytest.raises(UserError, match="changed since"):
        trained(chain_in(place, "first"), resume=True)
    assert not (place / "runs" / "first" / "2-seq_inter").exists()


@pytest.mark.parametrize(
    ("left", "goes_on"),
    [("a checkpoint", "at update 2"), ("a recipe", "at update 0"), ("a torn recipe", "")],
)
def test_an_interrupted_stage_goes_on_and_ends_the_same(
    place: Path, left: str, goes_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = RunDirectory.open(place / "runs" / "first")
    stage = RunDirectory((whole.path / str(stages_of(whole)[1]["folder"])).resolve())
    shutil.copytree(whole.path, place / "kept")
    for path in whole.path.iterdir():  # the chain's own files come last
        if path.is_file():
            path.unlink()
    shutil.rmtree(whole.student_path)
    shutil.rmtree(stage.student_path)
    shutil.rmtree(stage.checkpoints_path / "checkpoint-4")
    if left == "a checkpoint":
        stage.update_manifest({"finished": None})
    else:
        shutil.rmtree(stage.checkpoints_path)
        stage.manifest_path.unlink()
        stage.metrics_path.unlink()
    if left == "a torn recipe":
        stage.recipe_path.rename(stage.path / "recipe.yaml.partial-17")
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        run = trained(chain_in(place, "first"), resume=True)
    assert reused(run) == [True, False]
    assert ("resumed" in caplog.text) == bool(goes_on) and goes_on in caplog.text
    kept = RunDirectory.open(place / "kept")
    assert_equal_students(run, kept)
    timeless = ("step", "stage", "loss_nats", "gradient_norm", "tokens")
    rows = [[row[key] for key in timeless] for row in run.read_metrics()]
    assert rows == [[row[key] for key in timeless] for row in kept.read_metrics()]


def test_a_chain_is_evaluated_like_any_run(place: Path) -> None:
    run = RunDirectory.open(place / "runs" / "first")
    report = evaluate_run(run, progress=NoProgress())
    systems = report.systems
    assert [row.method for row in systems] == ["teacher", "start", "seq_kd+seq_inter"]
    student = load_recipe(str(run.recipe_path)).student.model
    assert [row.init for row in systems[1:]] == [f"pretrained {student}"] * 2


def test_a_plan_is_of_all_stages_and_writes_nothing(place: Path) -> None:
    before = files_in(place)
    planned = plan(chain_in(place, "other", "stages.1.settings.training.steps=7"))
    assert planned.stages == ("seq_kd: 4 updates", "seq_inter: 7 updates")
    assert planned.updates == 11 and planned.seconds_per_method > 0
    assert files_in(place) == before


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stages.1.settings.training.steps=none"], "must be a whole number"),
        (["stages.1.settings.data.train=missing.tsv"], "missing.tsv"),
        (["stages.1={preset: word_kd}", "student.model={place}/foreign"], "token"),
        (["data.train={place}/sources.tsv"], "target"),
    ],
)
def test_what_fails_in_the_second_stage_is_refused_before_the_first(
    place: Path, overrides: list[str], sentence: str
) -> None:
    tiny_model("mbart", seed=8, vocab_size=42).save_pretrained(place / "foreign")
    character_tokenizer(extra=["é", "ü"]).save_pretrained(place / "foreign")
    (place / "sources.tsv").write_text("source\ttarget\neins\t\n", encoding="utf-8")
    before = files_in(place)
    with pytest.raises(UserError, match=sentence):
        given = [text.replace("{place}", str(place)) for text in overrides]
        trained(chain_in(place, "refused", *given))
    assert files_in(place) == before
    assert not (place / "runs" / "refused").exists()


def test_a_taken_folder_is_refused(place: Path) -> None:
    before = files_in(place)
    with pytest.raises(UserError, match="output_dir must be a new or empty folder"):
        trained(chain_in(place, "first"))
    assert files_in(place) == before


def test_a_stage_whose_student_was_damaged_is_made_again(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory.open(place / "runs" / "first")
    weights = run.path / "1-seq_kd" / "student" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    trained(chain_in(place, "first"), resume=True)
    assert "is damaged (model.safetensors does not match its checksum)" in caplog.text
    assert weights.read_bytes() == whole
