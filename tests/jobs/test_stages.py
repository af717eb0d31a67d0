"""Chains on tiny models: equal to the runs by hand, each stage trained once, resumed, refused."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
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
from seqdistill.jobs.stage_runs import stage_digest, stage_run
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import stage_recipe
from seqdistill.recipe.systems import output_folder
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
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder: names by content hold wherever the content lies."""
    return shutil.copytree(finished, tmp_path / "copied")


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


def test_what_was_trained_is_used_and_nothing_else_is_written(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_in(place / "runs" / "stages")
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        again = trained(chain_in(place, "again"))
    assert reused(again) == [True, True]
    assert sum("using the stage in" in message for message in caplog.messages) == 2
    assert files_in(place / "runs" / "stages") == before
    assert_equal_students(again, RunDirectory.open(place / "runs" / "first"))
    assert stages_of(again) == [
        {**stage, "reused": True} for stage in stages_of(RunDirectory(place / "runs" / "first"))
    ]


def test_a_changed_stage_is_trained_again_and_the_one_before_is_not(place: Path) -> None:
    before = files_in(place / "runs" / "stages")
    run = trained(chain_in(place, "other", "stages.1.settings.training.learning_rate=0.002"))
    assert reused(run) == [True, False]
    after = files_in(place / "runs" / "stages")
    assert before.items() <= after.items()
    assert not torch.equal(
        student_of(run)["model.shared.weight"],
        student_of(RunDirectory(place / "runs" / "first"))["model.shared.weight"],
    )


def test_chains_with_the_same_beginning_train_it_once(place: Path) -> None:
    other = chain_in(place, "other", stages=[{"preset": "seq_kd"}, {"preset": "baseline"}])
    run = trained(other)
    assert reused(run) == [True, False]
    assert [stage["method"] for stage in stages_of(run)] == ["seq_kd", "baseline"]


def test_other_data_under_the_same_name_train_all_stages_again(place: Path) -> None:
    own = chain_in(place, "own")
    run = trained(own)
    run.write_results(Results(metrics=()))
    trained(own, resume=True)
    assert reused(run) == [True, True] and run.results_path.exists()
    old = student_of(run)
    with (place / "train.tsv").open("a", encoding="utf-8") as stream:
        stream.write("drei\tierd\n")
    trained(own, resume=True)
    assert reused(run) == [False, False]
    assert not torch.equal(old["model.shared.weight"], student_of(run)["model.shared.weight"])
    assert not run.results_path.exists()  # they were about the student before


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
    shutil.rmtree(whole.path)
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


def test_a_plan_says_what_is_there_and_writes_nothing(place: Path) -> None:
    before = files_in(place)
    changed = chain_in(place, "other", "stages.1.settings.training.steps=7")
    planned = plan(changed)
    lines = dict(planned.lines())
    assert lines["stage 1"].startswith("seq_kd: 4 updates, cached: ")
    assert lines["stage 2"] == "seq_inter: 7 updates, to be trained"
    assert planned.updates == 7 and planned.seconds_per_method > 0
    anew = plan(chain_in(place, "anew", "seed=7"))
    assert [words.rpartition(", ")[2] for words in anew.stages] == ["to be trained"] * 2
    assert plan(chain_in(place, "same")).seconds_per_method == 0
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


def test_a_stage_that_another_process_trains_is_waited_for(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = chain_in(place, "second")
    folder = stage_run(recipe, 0, start_from=None).run.path
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=trained, args=(recipe,))
        waiting.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and "waiting until it has finished" not in caplog.text:
            time.sleep(0.01)
        assert waiting.is_alive() and not output_folder(recipe).exists()
    waiting.join(timeout=30)
    assert reused(RunDirectory.open(output_folder(recipe))) == [True, True]


def test_a_stage_made_under_other_defaults_is_not_passed_off(place: Path) -> None:
    stage = stage_run(chain_in(place, "other"), 0, start_from=None)
    text = stage.run.recipe_path.read_text("utf-8")
    stage.run.write_recipe(text.replace("adam_beta2: 0.98", "adam_beta2: 0.99"))
    with pytest.raises(UserError, match=r"training\.adam_beta2 was 0\.99 and is now 0\.98"):
        trained(chain_in(place, "other"))


def digest_of(folder: Path, *overrides: str, index: int = 0) -> str:
    recipe = chain_in(folder, "any", *overrides)
    return stage_digest(stage_recipe(recipe, index, start_from=None))


@pytest.mark.parametrize(
    ("override", "is_decisive"),
    [
        ("seed=2", True),
        ("training.batch_tokens=60", True),
        ("training.eval_every=2", True),
        ("student.save_dtype=fp16", True),
        ("sequences.decoding.max_new_tokens=11", True),
        ("data.max_train_examples=5", True),
        ("stages.0.settings.objective.terms.0.weight=0.5", True),
        ("stages.1.settings.training.steps=9", False),
        ("output_dir=elsewhere/run", False),
        ("method=mine", False),
        ("training.threads=2", False),
        ("training.log_every=3", False),
        ("training.checkpoint_every=null", False),
        ("sequences.corpus=null", False),
        ("sequences.decoding.threads=2", False),
        ("data.test=null", False),
        ("evaluation.beam_size=2", False),
        ("evaluation.num_samples=3", False),
    ],
)
def test_a_stage_is_named_after_what_decides_its_student(
    place: Path, override: str, is_decisive: bool
) -> None:
    dev = f"data.dev={place / 'student' / 'config.json'}"  # any content will do
    assert (digest_of(place, dev, override) != digest_of(place, dev)) == is_decisive


def test_content_decides_and_not_its_place(place: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(place, tmp_path / "moved")
    assert digest_of(moved) == digest_of(place)
    weights = moved / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert digest_of(moved) != digest_of(place)


@pytest.mark.parametrize("form", ["pair", "folder"])
def test_every_file_of_the_data_counts(place: Path, form: str) -> None:
    source, target = place / "texts" / "a.en", place / "texts" / "a.de"
    source.parent.mkdir()
    source.write_text("eins\n", "utf-8")
    target.write_text("snie\n", "utf-8")
    spec = f"{source},{target}" if form == "pair" else str(source.parent)
    found = [digest_of(place, f"data.train={spec}")]
    for path in (source, target):
        path.write_text("zwei\n", "utf-8")
        found.append(digest_of(place, f"data.train={spec}"))
    assert len(set(found)) == 3


def test_a_teacher_that_nobody_asks_does_not_count(place: Path) -> None:
    for preset, counts in (("baseline", False), ("word_kd", True), ("seq_kd", True)):
        stages = [{"preset": preset}, {"preset": "seq_inter", "settings": FEW}]
        with_one = chain_in(place, "any", stages=stages)
        with_other = chain_in(place, "any", f"teacher.model={place / 'student'}", stages=stages)
        digests = {
            stage_digest(stage_recipe(recipe, 0, start_from=None))
            for recipe in (with_one, with_other)
        }
        assert len(digests) == (2 if counts else 1), preset


def test_a_stage_whose_student_was_damaged_is_made_again(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_run(chain_in(place, "first"), 0, start_from=None)
    weights = stage.run.student_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not stage.is_finished
    run = trained(chain_in(place, "again"))
    assert "is damaged (model.safetensors does not match its checksum)" in caplog.text
    assert weights.read_bytes() == whole
    assert reused(run) == [False, True], "the second stage starts from the same student"
