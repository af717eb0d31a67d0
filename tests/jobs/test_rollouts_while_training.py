"""The GKD family end to end on tiny models: each preset, both kinds, prompts alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.test_distill import QUICK, save_pairs
from tests.jobs.test_stages import student_of, texts
from tests.jobs.test_teacher_states import folder_for
from tests.tiny import character_tokenizer, tiny_model

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.plan import plan
from seqdistill.jobs.training import train_student
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory

FAMILY = (
    "supervised_kd",
    "on_policy_kd",
    "gkd",
    "imitkd",
    "f_distill",
    "minillm",
    "distillm",
    "distillm_2",
    "akl",
    "taid",
    "gkd_rl",
)


def place_for(folder: Path, name: str) -> Path:
    save_pairs(folder / "dev.tsv", 4, seed=2)
    return folder_for(folder, name)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return place_for(tmp_path, "mbart")


def recipe_in(folder: Path, method: str, *overrides: str, name: str = "run") -> Recipe:
    given = {
        **QUICK,
        "data.train": str(folder / "train.tsv"),
        "data.dev": str(folder / "dev.tsv"),
        "teacher.model": str(folder / "teacher"),
        "student.model": str(folder / "student"),
        "sequences.rollouts.max_new_tokens": 8,
        "sequences.rollouts.samples_every": 2,
        "sequences.decoding.engine": "transformers",
        "evaluation.engine": "transformers",
        "training.precision": "fp32",
        "training.log_every": 1,
        "output_dir": str(folder / "runs" / name),
    }
    if not read_recipe(method).sequences.can_roll_out:
        given = {key: value for key, value in given.items() if "rollouts" not in key}
    if method == "distillm":
        given["training.eval_every"] = 2
    return load_recipe(method, [*texts(given), *overrides])


def trained(recipe: Recipe, *, resume: bool = False) -> RunDirectory:
    return train_student(recipe, progress=NoProgress(), resume=resume)


def losses(run: RunDirectory) -> list[float]:
    found = [row["loss_nats"] for row in run.read_metrics() if "loss_nats" in row]
    return [float(str(value)) for value in found]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place_for(tmp_path_factory.mktemp("causal"), "llama")


@pytest.mark.parametrize("method", FAMILY)
def test_each_method_trains_a_causal_student(causal: Path, method: str) -> None:
    """Encoder-decoders: `test_published_teacher_bugs`."""
    before = tiny_model("llama", seed=8).state_dict()
    run = trained(recipe_in(causal, method, name=method))
    assert len(losses(run)) == 4 and all(map(math.isfinite, losses(run)))
    after = student_of(run)
    assert any(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_ctranslate2_writes_with_the_weights_of_each_update(tmp_path: Path, kind: str) -> None:
    place = place_for(tmp_path, kind)
    engine = "sequences.rollouts.engine=ctranslate2"
    rows: list[dict[str, Any]] = trained(recipe_in(place, "on_policy_kd", engine)).read_metrics()
    written = [row for row in rows if "completion_length" in row]
    assert len(written) == 4
    assert all(row["refresh_seconds"] > 0.0 and row["completion_length"] > 0 for row in written)


@pytest.mark.parametrize("method", ["gkd", "distillm", "minillm"])
def test_a_resumed_run_equals_an_uninterrupted_one(place: Path, method: str) -> None:
    whole = trained(recipe_in(place, method, "training.checkpoint_every=2", name="whole"))
    recipe = recipe_in(place, method, "training.checkpoint_every=2", name="part")
    part = trained(recipe)
    # As a kill after update 3 leaves it: the state of update 2, and metrics beyond it.
    shutil.rmtree(part.checkpoints_path / "checkpoint-4")
    again = trained(recipe, resume=True)
    first, second = student_of(whole), student_of(again)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(again) == losses(whole)
    kept = [{**row, "step": row["step"]} for row in again.read_rollouts()]
    assert kept == whole.read_rollouts()


def test_what_rollouts_were_like_is_logged_and_some_are_kept(place: Path) -> None:
    run = trained(recipe_in(place, "on_policy_kd"))
    row: dict[str, Any] = run.read_metrics()[0]
    for name in (
        "completion_length",
        "eos_rate",
        "cut_fraction",
        "generation_tokens_per_second",
        "student_entropy",
        "teacher_reverse_kl",
    ):
        assert math.isfinite(row[name]), name
    assert 1.0 <= row["completion_length"] <= 8.0
    assert 0.0 <= row["student_entropy"] <= math.log(40)
    kept: list[dict[str, Any]] = run.read_rollouts()
    assert {row["step"] for row in kept} == {1, 3}
    assert {row["origin"] for row in kept} == {"student"}
    assert all(row["tokens"] <= 8 and row["prompt"] for row in kept)


def test_a_plan_times_what_the_student_writes(place: Path) -> None:
    planned = plan(recipe_in(place, "distillm"))
    assert planned.seconds_per_method > 0.0 and not (place / "runs").exists()


def test_rollouts_that_cannot_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    place = place_for(tmp_path, "llama")
    with pytest.raises(UserError, match=r"must leave room for the longest prompt"):
        trained(recipe_in(place, "on_policy_kd", "sequences.rollouts.max_new_tokens=39"))
    assert not (place / "runs").exists()


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_a_lora_student_is_stored_whole_and_as_adapters(tmp_path: Path, kind: str) -> None:
    place = place_for(tmp_path, kind)
    recipe = recipe_in(place, "on_policy_kd", "student.lora.rank=2", "training.learning_rate=0.05")
    run = trained(recipe)
    before, after = tiny_model(kind, seed=8).state_dict(), student_of(run)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.endswith("weight") for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


def test_a_lora_student_resumes_as_it_was(place: Path) -> None:
    given = ("student.lora.rank=2", "training.checkpoint_every=2")
    whole = trained(recipe_in(place, "on_policy_kd", *given, name="whole"))
    recipe = recipe_in(place, "on_policy_kd", *given, name="part")
    part = trained(recipe)
    shutil.rmtree(part.checkpoints_path / "checkpoint-4")
    first, second = student_of(whole), student_of(trained(recipe, resume=True))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_chats_without_an_answer_are_prompts(tmp_path: Path) -> None:
    place = place_for(tmp_path, "llama")
    template = (
        "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}a {% endif %}"
    )
    for folder in ("student", "teacher"):
        tokenizer = character_tokenizer(closes=False)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(place / folder)
    turns = [[{"role": "user", "content": word}] for word in ("rot", "blau", "zwei", "drei")]
    rows = [json.dumps({"messages": messages}) for messages in turns]
    (place / "chats.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = f"data.train={place / 'chats.jsonl'}"
    run = trained(recipe_in(place, "on_policy_kd", given, "sequences.rollouts.samples_every=1"))
    kept: list[dict[str, Any]] = run.read_rollouts()
    assert {row["prompt"] for row in kept} <= {f"u {w} a " for w in ("rot", "blau", "zwei", "drei")}
    assert all(row["reference"] is None for row in kept)
