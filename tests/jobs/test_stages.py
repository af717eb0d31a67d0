"""Chains on tiny models: equal to runs by hand, zeros that hold, stages kept, resumed, refused."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.jobs.runs import (
    assert_equal_students,
    folder_for,
    losses,
    settings_in,
    student_of,
    texts,
    trained,
)
from tests.tiny import character_tokenizer, tiny_model
from torch import Tensor

from seqdistill.compression.pruning import prune
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.plan import plan
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.results import Results
from seqdistill.records.run_directory import RunDirectory

SHORT: dict[str, object] = {"training.steps": 4, "training.warmup_steps": 1}
FEW = {"sequences.decoding.beam_size": 4, "sequences.decoding.n_best": 4}
STAGES: dict[str, dict[str, object]] = {"seq_kd": {}, "prune": SHORT, "seq_inter": {**SHORT, **FEW}}
DISTILLED, PRUNED, TUNED = (f"{number}-{name}" for number, name in enumerate(STAGES, start=1))


def chain_in(folder: Path, name: str, *overrides: str) -> Recipe:
    stages = [{"preset": name, "settings": settings} for name, settings in STAGES.items()]
    given = {**settings_in(folder, name), "stages": stages}
    return load_recipe("seq_kd_prune_seq_inter", [*texts(given), *overrides])


def plain_in(folder: Path, name: str, *overrides: str) -> Recipe:
    given = {**settings_in(folder), "output_dir": str(folder / "plain" / name)}
    return load_recipe("baseline", [*texts(given), *overrides])


def stages_of(run: RunDirectory) -> list[RunDirectory]:
    rows: list[dict[str, Any]] = json.loads(run.manifest_path.read_text("utf-8"))["stages"]
    return [RunDirectory((run.path / row["folder"]).resolve()) for row in rows]


def reused(run: RunDirectory) -> list[object]:
    return [row["reused"] for row in json.loads(run.manifest_path.read_text("utf-8"))["stages"]]


def kept(run: RunDirectory) -> dict[str, Tensor]:
    """Of each matrix the weights that are not zero."""
    model = load_pair(str(run.student_path)).model
    return prune(model, pruned_share=0.0, scheme="class_blind").kept()


def density(run: RunDirectory) -> float:
    masks = torch.cat([mask.flatten() for mask in kept(run).values()])
    return float(masks.double().mean())


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
    folder = folder_for(tmp_path_factory.mktemp("finished"), "mbart")
    (folder / "dev.tsv").unlink()
    trained(chain_in(folder, "first"))
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """That folder, put back as it was after the test: recipes name where data and models lie."""
    before = shutil.copytree(finished, tmp_path / "kept")
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(before, finished)


@pytest.fixture
def run(place: Path) -> RunDirectory:
    return RunDirectory.open(place / "runs" / "first")


def test_a_chain_equals_its_stages_run_by_hand(place: Path, run: RunDirectory) -> None:
    by_hand: list[RunDirectory] = []
    for name, settings in STAGES.items():
        given = {**settings_in(place), **settings, "output_dir": str(place / "by-hand" / name)}
        if by_hand:
            given["student.model"] = str(by_hand[-1].student_path)
        if name == "seq_inter":
            given["pruning.sparsity"] = 0.8  # which a chain hands on
        by_hand.append(trained(load_recipe(name, texts(given))))
    assert_equal_students(run, by_hand[-1])
    for stage, alone in zip(stages_of(run), by_hand, strict=True):
        assert_equal_students(stage, alone)
    weights = [student_of(alone)["model.shared.weight"] for alone in by_hand]
    assert not any(torch.equal(*pair) for pair in itertools.pairwise(weights))
    rows = [row for row in run.read_metrics() if "loss_nats" in row]
    expected = [(4 * stage + step, stage) for stage in (0, 1, 2) for step in (1, 2, 3, 4)]
    assert [(row["step"], row["stage"]) for row in rows] == expected
    assert [row["loss_nats"] for row in rows] == [one for alone in by_hand for one in losses(alone)]


def test_what_a_stage_prunes_is_zero_in_every_later_state_and_is_noted(finished: Path) -> None:
    dense, *pruned = stages_of(RunDirectory.open(finished / "runs" / "first"))
    assert density(dense) > 0.99 and density(pruned[0]) == pytest.approx(0.2, abs=1e-3)
    assert "pruning" not in dense.read_manifest()
    masks = kept(pruned[0])
    for stage in pruned:
        assert all(torch.equal(mask, masks[name]) for name, mask in kept(stage).items())
        states = sorted(stage.checkpoints_path.glob("checkpoint-*"))
        assert len(states) == 2
        for state in states:
            stored = load_file(state / "model.safetensors")
            for name, mask in masks.items():
                if (weight := stored.get(f"module.{name}")) is not None:
                    assert not weight[~mask].any(), f"{state.name}: {name}"
        facts = stage.read_manifest()["pruning"]
        assert isinstance(facts, dict)
        assert facts["kept"] == pytest.approx(0.2 * facts["weights"], abs=1)
        assert facts["densities"].keys() == masks.keys()


def test_finished_stages_are_used_and_not_written_to(
    place: Path, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_in(place)
    with pytest.raises(UserError, match="output_dir must be a new or empty folder"):
        trained(chain_in(place, "first"))
    assert files_in(place) == before
    run.write_results(Results(metrics=()))
    stage, student = files_in(run.path / DISTILLED), student_of(run)
    with caplog.at_level(logging.INFO, logger="seqdistill"):
        trained(chain_in(place, "first"), resume=True)
    assert reused(run) == [True] * 3
    assert sum("using the stage in" in message for message in caplog.messages) == 3
    assert files_in(run.path / DISTILLED) == stage
    assert torch.equal(student["model.shared.weight"], student_of(run)["model.shared.weight"])
    assert run.results_path.exists() and not run.members()


def test_a_changed_stage_is_refused_and_trained_again_once_its_folder_is_removed(
    place: Path, run: RunDirectory
) -> None:
    run.write_results(Results(metrics=()))
    old, before = student_of(run), files_in(run.path)
    changed = chain_in(place, "first", "stages.2.settings.training.learning_rate=0.002")
    with pytest.raises(UserError, match=rf"{TUNED}.*learning_rate was .* is now 0\.002"):
        trained(changed, resume=True)
    assert files_in(run.path) == before
    shutil.move(run.path / DISTILLED, place / "aside")
    with pytest.raises(UserError, match=TUNED):
        trained(changed, resume=True)
    assert not (run.path / DISTILLED).exists(), "all stages are looked at before one is trained"
    shutil.move(place / "aside", run.path / DISTILLED)
    shutil.rmtree(run.path / TUNED)
    trained(changed, resume=True)
    assert reused(run) == [True, True, False]
    assert not torch.equal(old["model.shared.weight"], student_of(run)["model.shared.weight"])
    assert not run.results_path.exists()  # they were about the student before
    assert "learning_rate: 0.002" in run.read_recipe()


def test_a_chain_does_not_go_on_with_other_data_or_models(place: Path, run: RunDirectory) -> None:
    shutil.rmtree(run.path / TUNED)
    for name in ("train.tsv", "teacher/model.safetensors"):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match="changed since"):
            trained(chain_in(place, "first"), resume=True)
        (place / name).write_bytes(content)
    assert not (run.path / TUNED).exists()


@pytest.mark.parametrize(
    ("left", "goes_on"),
    [("a checkpoint", "at update 2"), ("a recipe", "at update 0"), ("a torn recipe", "")],
)
def test_an_interrupted_stage_goes_on_and_ends_the_same(
    place: Path, run: RunDirectory, left: str, goes_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stages_of(run)[1]
    whole = RunDirectory(shutil.copytree(run.path, place / "kept"))
    for path in run.path.iterdir():  # the chain's own files come last
        if path.is_file():
            path.unlink()
    shutil.rmtree(run.student_path)
    shutil.rmtree(run.path / TUNED)
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
        trained(chain_in(place, "first"), resume=True)
    assert reused(run) == [True, False, False]
    assert ("resumed" in caplog.text) == bool(goes_on) and goes_on in caplog.text
    assert_equal_students(run, whole)
    timeless = ("step", "stage", "loss_nats", "gradient_norm", "tokens")
    rows, expected = (
        [[row[key] for key in timeless] for row in each.read_metrics() if "tokens" in row]
        for each in (run, whole)
    )
    assert rows == expected


def test_a_stage_whose_student_was_damaged_is_made_again(
    place: Path, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    weights = run.path / DISTILLED / "student" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    trained(chain_in(place, "first"), resume=True)
    assert "is damaged (model.safetensors does not match its checksum)" in caplog.text
    assert weights.read_bytes() == whole


def test_a_chain_says_which_teacher_each_stage_had_and_keeps_the_states_of_each(
    tmp_path: Path,
) -> None:
    """The second teacher came out later, the third is the student as the second left it."""
    folder = folder_for(tmp_path, "mbart")
    tiny_model("mbart", seed=5).save_pretrained(folder / "newer")
    character_tokenizer(closes=True).save_pretrained(folder / "newer")
    kept_on_disk = {"teacher.cache_hidden_states": "fp32"}
    newer, own = {"teacher": {"model": str(folder / "newer")}}, {"teacher": {"model": "student"}}
    stages = [{"preset": "word_kd", "settings": settings} for settings in ({}, newer, own)]
    given = {**settings_in(folder, "evolving"), **kept_on_disk, **SHORT, "training.steps": 2}
    recipe = load_recipe("seq_kd_prune_seq_inter", texts({**given, "stages": stages}))
    run = trained(recipe)
    rows: list[dict[str, Any]] = json.loads(run.manifest_path.read_text("utf-8"))["stages"]
    names = [str(folder / "teacher"), str(folder / "newer"), "student"]
    assert [row["teacher"] for row in rows] == names
    assert len({row["teacher_fingerprint"] for row in rows}) == 3
    states = [path for path in run.path.rglob("teacher-scores/*") if path.is_dir()]
    assert len(states) == 3


def test_a_chain_is_evaluated_like_any_run(run: RunDirectory) -> None:
    systems = evaluate_run(run, progress=NoProgress()).systems
    assert [row.method for row in systems] == ["teacher", "start", "seq_kd+prune+seq_inter"]
    student = load_recipe(str(run.recipe_path)).student.model
    assert [row.init for row in systems[1:]] == [f"pretrained {student}"] * 2


def test_a_plan_is_of_all_stages_and_writes_nothing(place: Path, run: RunDirectory) -> None:
    before = files_in(place)
    planned = plan(chain_in(place, "other", "stages.2.settings.training.steps=7"))
    pruned = ", 80.0% of the weights pruned"
    assert planned.stages == (
        "seq_kd: 4 updates",
        f"prune: 4 updates{pruned}",
        f"seq_inter: 7 updates{pruned}",
    )
    assert planned.updates == 15 and planned.update_seconds > 0
    lines = dict(plan(plain_in(place, "planned", "pruning.sparsity=0.75")).lines())
    weights = sum(mask.numel() for mask in kept(run).values())
    words = f"class_blind, {weights - round(0.75 * weights):,} of {weights:,} weights are kept"
    assert lines["pruning"] == words
    assert "pruning" not in dict(plan(plain_in(place, "planned")).lines())
    assert files_in(place) == before


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stages.1.settings.training.steps=none"], "must be a whole number"),
        (["stages.1.settings.data.train=missing.tsv"], "missing.tsv"),
        (["stages.1={preset: word_kd}", "student.model={place}/foreign"], "token"),
        (["data.train={place}/sources.tsv"], "target"),
        (["stages.1.settings.pruning={sparsity: 0.5, exclude: ['*x*']}"], r"'\*x\*' matches none"),
        (["stages.1.settings.pruning={sparsity: 0.5, exclude: ['*']}"], "every one is excluded"),
        (["stages.1.settings.pruning.sparsity=0.9999999"], "leaves none; lower pruning.sparsity"),
    ],
)
def test_what_fails_in_a_later_stage_is_refused_before_the_first(
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


def test_zeros_that_training_fills_are_warned_of_once_and_those_that_are_kept_are_not(
    place: Path, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    before = stages_of(run)[1]
    pruned = f"student.model={before.student_path}"
    shutil.rmtree(run.path / TUNED)
    for recipe, warned in (
        (plain_in(place, "dense"), None),
        (plain_in(place, "adapted", "student.lora.rank=2"), None),
        (plain_in(place, "kept", pruned, "pruning.sparsity=0"), None),
        (
            plain_in(place, "filled", pruned, "student.lora.rank=2"),
            "pruning.sparsity=0 and leave student.lora out",
        ),
        (chain_in(place, "first", "stages.2.settings.pruning.sparsity=null"), "pruning.sparsity=0"),
    ):
        caplog.clear()
        after = trained(recipe, resume=True)
        told = [message for message in caplog.messages if "exactly zero" in message]
        assert [warned in message for message in told if warned] == [True] * bool(warned)
        assert len(told) == bool(warned)
    assert reused(after) == [True, True, False]
    assert density(after) > 0.8  # not 1: few updates reach every row of an embedding
    masks = kept(before)
    found = kept(RunDirectory(place / "plain" / "kept"))
    assert all(torch.equal(mask, masks[name]) for name, mask in found.items())
