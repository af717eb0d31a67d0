"""Students that sample while they train, on tiny models: resumed, logged, adapted, refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import (
    assert_equal_students,
    folder_for,
    losses,
    recipe_in,
    student_of,
    trained,
)
from tests.tiny import character_tokenizer, tiny_model


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_ctranslate2_writes_with_the_weights_of_each_update(tmp_path: Path, kind: str) -> None:
    place = folder_for(tmp_path, kind)
    engine = "sequences.rollouts.engine=ctranslate2"
    rows: list[dict[str, Any]] = trained(recipe_in(place, "on_policy_kd", engine)).read_metrics()
    written = [row for row in rows if "completion_length" in row]
    assert len(written) == 4
    assert all(row["refresh_seconds"] > 0.0 and row["completion_length"] > 0 for row in written)


@pytest.mark.parametrize(
    ("method", "given"),
    [("gkd", ()), ("distillm", ()), ("minillm", ()), ("on_policy_kd", ("student.lora.rank=2",))],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    place: Path, method: str, given: tuple[str, ...]
) -> None:
    whole = trained(recipe_in(place, method, *given, name="whole"))
    recipe = recipe_in(place, method, *given, name="part")
    part = trained(recipe)
    # As a kill after update 3 leaves it: the state of update 2, and metrics beyond it.
    shutil.rmtree(part.checkpoints_path / "checkpoint-4")
    again = trained(recipe, resume=True)
    assert_equal_students(whole, again)
    assert losses(again) == losses(whole)
    assert again.read_rollouts() == whole.read_rollouts()


@pytest.mark.parametrize(
    ("method", "origin"), [("on_policy_kd", "student"), ("minillm", "teacher_mixed")]
)
def test_what_rollouts_were_like_is_logged_and_some_are_kept(
    place: Path, method: str, origin: str
) -> None:
    run = trained(recipe_in(place, method))
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
    assert 0.0 < row["student_entropy"] < math.log(40) and row["teacher_reverse_kl"] > 0.0
    kept: list[dict[str, Any]] = run.read_rollouts()
    assert {row["step"] for row in kept} == {1, 3}
    assert {row["origin"] for row in kept} == {origin}
    assert all(row["tokens"] <= 8 and row["prompt"] for row in kept)


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_a_lora_student_is_stored_whole_and_as_adapters(tmp_path: Path, kind: str) -> None:
    place = folder_for(tmp_path, kind)
    recipe = recipe_in(place, "on_policy_kd", "student.lora.rank=2", "training.learning_rate=0.05")
    run = trained(recipe)
    before, after = tiny_model(kind, seed=8).state_dict(), student_of(run)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.endswith("weight") for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


def test_chats_without_an_answer_are_prompts(tmp_path: Path) -> None:
    place = folder_for(tmp_path, "llama")
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
