"""Planted collapses raise alarms in whole runs, healthy runs raise none, and `stop` ends a run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.jobs.runs import folder_for, recipe_in, settings_in, student_of, texts, trained
from tests.tiny import EOS, tiny_model
from tests.training.small import without_timings
from transformers import PreTrainedModel

from seqdistill.cli.training import _show_trained
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report.page import build_report

LETTER = 8
QUIET = ("training.checkpoint_every=null", "training.warmup_steps=1", "training.alarms.every=1")


def surest(prompts: Sequence[str], completions: Sequence[str], references: Any) -> list[float]:
    """A reward that wants one output: the largest of it is of a deterministic student."""
    return [float(text.count("a") - 2 * len(text.replace("a", ""))) for text in completions]


def longest(prompts: Sequence[str], completions: Sequence[str], references: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def never_ends(model: PreTrainedModel) -> None:
    model.final_logits_bias[0, EOS] = -1e4


def repeats(model: PreTrainedModel) -> None:
    model.final_logits_bias[0, LETTER] = 1e3


def ends_soon(model: PreTrainedModel) -> None:
    model.final_logits_bias[0, EOS] += 6.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return folder_for(tmp_path, "mbart")


def with_student(place: Path, change: Callable[[PreTrainedModel], None]) -> Path:
    model = tiny_model("mbart", seed=8)
    change(model)
    model.save_pretrained(place / "student")
    return place


def raised(run: RunDirectory) -> set[str]:
    return {str(row["quantity"]) for row in run.read_alarms()}


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (never_ends, {"cut_fraction"}),
        (repeats, {"cut_fraction", "repetition_4", "student_entropy"}),
    ],
)
def test_a_collapsed_student_raises_alarms_in_records_on_screen_and_in_the_report(
    place: Path,
    plant: Callable[[PreTrainedModel], None],
    expected: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = ("training.steps=6", "sequences.rollouts.max_new_tokens=24", *QUIET)
    run = trained(recipe_in(with_student(place, plant), "on_policy_kd", *more))
    assert expected <= raised(run)
    told = [r.getMessage() for r in caplog.records if "collapse alarm" in r.getMessage()]
    assert told == [row["text"] for row in run.read_alarms()]
    report = build_report(run.path)
    assert "collapse alarm" in report and "Outputs do not end" not in told
    manifest: dict[str, Any] = run.read_manifest()
    assert manifest["training"]["updates"] == 6, "a warning ends nothing"


@pytest.mark.parametrize(
    ("reward", "quantity"), [("surest", "student_entropy"), ("longest", "completion_length")]
)
def test_a_reward_that_wants_a_collapse_raises_its_alarm(
    place: Path, reward: str, quantity: str
) -> None:
    more = (
        f"objective.reward.function=tests.jobs.test_alarms:{reward}",
        "objective.terms=[{divergence: negative_log_likelihood, token_weights: advantages}]",
        "objective.monitors=[]",
        "teacher.scores=none",
        "sequences.rollouts.max_new_tokens=24",
        "training.steps=12",
        "training.learning_rate=0.03",
        "training.batch_tokens=600",
        *QUIET,
    )
    run = trained(recipe_in(with_student(place, ends_soon), "gkd_rl", *more))
    assert quantity in raised(run)


def test_stop_ends_the_run_with_the_best_student_and_says_why(place: Path) -> None:
    settings = (
        "training.steps=40",
        "training.eval_every=2",
        "training.alarms.action=stop",
        "training.alarms.looks=4",
        "training.alarms.every=1",
        "training.checkpoint_every=1",
    )
    recipe = recipe_in(with_student(place, never_ends), "on_policy_kd", *settings)
    run = trained(recipe)
    manifest: dict[str, Any] = run.read_manifest()
    training = manifest["training"]
    assert training["updates"] == 5 and run.is_finished
    assert "outputs do not end" in training["stopped_by"]
    _, best_update = training["best"][0]
    best = load_file(run.checkpoints_path / f"best-{best_update}.safetensors")
    assert all(torch.equal(tensor, best[f"module.{n}"]) for n, tensor in student_of(run).items())
    # Killed after its last checkpoint, it stops again at once, with nothing trained on.
    shutil.rmtree(run.student_path)
    run.update_manifest({"finished": False})
    before = without_timings(run.read_metrics())
    again = trained(recipe, resume=True)
    assert without_timings(again.read_metrics()) == before and again.is_finished
    assert student_of(again).keys() and again.read_alarms()[0]["step"] == 5


def test_a_chain_says_which_stage_was_stopped_and_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_student(place, never_ends)
    alarms = {"action": "stop", "looks": 1, "every": 1}
    rollouts = {"rollouts": {"max_new_tokens": 8}}
    stopping = {"training": {"alarms": alarms, "warmup_steps": 0}, "sequences": rollouts}
    stages = [{"preset": "on_policy_kd", "settings": stopping}, {"preset": "baseline"}]
    given = {
        **settings_in(place, "chain"),
        "stages": stages,
        "training.steps": 3,
    }
    run = trained(load_recipe("seq_kd_prune_seq_inter", texts(given)))
    rows: list[dict[str, Any]] = json.loads(run.manifest_path.read_text("utf-8"))["stages"]
    assert "outputs do not end" in rows[0]["stopped_by"] and rows[1]["stopped_by"] is None
    assert str(run.read_alarms()[0]["text"]).startswith("1-on_policy_kd: collapse alarm")
    _show_trained(run, ())
    assert "1-on_policy_kd: collapse alarm at update 1" in capsys.readouterr().out


def test_a_resumed_run_raises_the_alarms_of_an_uninterrupted_one(place: Path) -> None:
    settings = ("training.steps=12", "training.checkpoint_every=5", "training.alarms.every=3")
    recipe = recipe_in(with_student(place, never_ends), "on_policy_kd", *settings)
    run = trained(recipe)
    alarms = run.read_alarms()
    assert alarms
    shutil.rmtree(run.checkpoints_path / "checkpoint-12")
    shutil.rmtree(run.student_path)
    assert trained(recipe, resume=True).read_alarms() == alarms


def test_of_stored_sequences_dev_is_watched(place: Path) -> None:
    settings = ("training.steps=8", "training.eval_every=1", "training.warmup_steps=0")
    run = trained(recipe_in(with_student(place, never_ends), "baseline", *settings))
    assert "dev_cut_fraction" in raised(run)
    row = next(row for row in run.read_metrics() if "dev_bleu" in row or "dev_chrf" in row)
    assert row["dev_cut_fraction"] == 1.0 and row["dev_completion_length"] == 12.0
    quiet = recipe_in(place, "baseline", *settings, "training.alarms.action=none", name="quiet")
    assert not trained(quiet).read_alarms()


@pytest.mark.parametrize("method", ["on_policy_kd", "baseline"])
def test_a_healthy_run_raises_no_alarm(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundled teacher goes on with what it can."""
    given = {
        **dict.fromkeys(("data.train", "data.dev", "student.model"), "bundled:en-de"),
        "data.max_train_examples": 8,
        "data.max_dev_examples": 3,
        "data.max_target_tokens": 20,
        "training.steps": 2,
        "training.batch_tokens": 120,
        "training.learning_rate": 1e-5,
        "training.warmup_steps": 0,
        "training.log_every": 1,
        "training.alarms.every": 1,
        "training.eval_every": 2,
        "training.threads": 1,
        "training.device": "cpu",
        "training.trackers": [],
        "evaluation.engine": "transformers",
        "evaluation.max_new_tokens": 60,
        "output_dir": str(tmp_path / "run"),
    }
    if method == "on_policy_kd":
        given |= {"teacher.model": "bundled:en-de", "sequences.rollouts.max_new_tokens": 40}
    recipe = load_recipe(method, texts(given))
    with caplog.at_level(logging.WARNING):
        run = trained(recipe)
    assert run.read_alarms() == [] and not run.alarms_path.exists()
