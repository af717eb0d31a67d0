"""What data a recipe needs by who writes: references, prompts alone, room in the memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in, student_of, trained

from seqdistill.assembly import sequences
from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import UserError
from seqdistill.recipe.loading import load_recipe

ALL_BY_THE_STUDENT = ("1", "{start: 1, end: 1, shape: linear}", "{start: 1, shape: adaptive}")


def test_prompts_alone_are_enough_for_a_mixture_that_is_all_the_students(tmp_path: Path) -> None:
    place = folder_for(tmp_path, "llama")
    rows = [json.dumps({"prompt": f"eins {word}"}) for word in ("rot", "blau", "zwei", "drei")]
    (place / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = (
        f"data.train={place / 'prompts.jsonl'}",
        "objective.terms=[{divergence: forward_kl}]",
        "sequences.rollouts.samples_every=1",
        "training.eval_every=2",
    )
    purely = student_of(trained(recipe_in(place, "on_policy_kd", *given)))
    for number, share in enumerate(ALL_BY_THE_STUDENT):
        constant = f"sequences.mixture.student_fraction={share}"
        run = trained(recipe_in(place, "gkd", *given, constant, name=f"gkd-{number}"))
        mixed = student_of(run)
        assert all(torch.equal(mixed[name], purely[name]) for name in purely), share
        assert {row["origin"] for row in run.read_rollouts()} == {"student"}
    by_teacher = "sequences.mixture={student_fraction: 1, others: teacher}"
    trained(recipe_in(place, "gkd", *given, by_teacher, name="no-corpus"))
    assert not list(place.rglob("teacher-corpora")), "the teacher has nothing to write"


def test_a_mixture_that_is_never_the_students_samples_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampler(*_: object, **__: object) -> None:
        raise AssertionError("a sampler was made")

    place = folder_for(tmp_path, "llama")
    plain = student_of(trained(recipe_in(place, "supervised_kd")))
    monkeypatch.setattr(sequences, "TransformersSampler", sampler)
    never = (
        "sequences.mixture.student_fraction={start: 0, end: 0}",
        "objective.terms=[{divergence: forward_kl}]",
        "sequences.rollouts.max_new_tokens=400",  # beyond the student's positions
    )
    run = trained(recipe_in(place, "gkd", *never, name="never"))
    never_own = student_of(run)
    assert all(torch.equal(never_own[name], plain[name]) for name in plain)
    assert not run.read_rollouts()


@pytest.mark.parametrize(
    ("method", "needing"),
    [
        ("baseline", "sequences.origin: reference"),
        ("supervised_kd", "sequences.origin: reference"),
        ("seq_inter", "sequences.origin: interpolation"),
        ("gkd", "sequences.mixture.others: reference with student_fraction: 0.5"),
        ("minillm", "sequences.mixture.others: reference with coin: both"),
    ],
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"prompt": "eins"}\n'),
        ("x.jsonl", '{"prompt": "eins", "completion": "a"}\n{"prompt": "zwei"}\n'),
        ("x.txt", "eins\nzwei\n"),
    ],
)
def test_prompts_alone_say_which_setting_asks_for_targets_and_what_learns_without(
    tmp_path: Path, method: str, needing: str, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    given = [f"data.train={tmp_path / name}", "student.model=small", "teacher.model=large"]
    with pytest.raises(UserError) as caught:
        prepare(load_recipe(method, given))
    message = str(caught.value)
    assert str(tmp_path / name) in message.splitlines()[0], "what is wrong with the file is first"
    assert f"method {method} learns from targets (completions) in the data ({needing})" in message
    assert (
        "prompts alone: on_policy_kd, or gkd with sequences.mixture.student_fraction=1" in message
    )


def test_a_mistake_in_the_prompts_is_not_blamed_on_the_method_and_dev_needs_targets(
    place: Path,
) -> None:
    (place / "x.jsonl").write_text('{"prompt": 1}\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        prepare(recipe_in(place, "gkd", f"data.train={place / 'x.jsonl'}"))
    assert "on_policy_kd" not in str(caught.value)
    (place / "x.txt").write_text("eins\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"scored against the targets .* data\.dev"):
        prepare(recipe_in(place, "on_policy_kd", f"data.dev={place / 'x.txt'}"))


@pytest.mark.parametrize(("samples", "coin"), [(3, "batch"), (2, "both")])
def test_a_memory_holds_the_largest_batch_exactly_or_is_refused_before_anything_is_written(
    place: Path, samples: int, coin: str
) -> None:
    given = (
        f"sequences.mixture={{coin: {coin}, student_fraction: 0.5}}",
        f"sequences.rollouts.samples_per_prompt={samples}",
        "sequences.replay.fresh_fraction=0",
        "training.steps=12",
    )
    with pytest.raises(UserError, match=r"sequences\.replay\.capacity must be at least") as caught:
        trained(recipe_in(place, "distillm", *given, f"sequences.replay.capacity={samples}"))
    assert not (place / "runs").exists()
    (most,) = re.findall(r"at least the (\d+) sequences", str(caught.value))
    one_less = f"sequences.replay.capacity={int(most) - 1}"
    with pytest.raises(UserError, match=f"at least the {most} sequences"):
        prepare(recipe_in(place, "distillm", *given, one_less))
    enough = recipe_in(place, "distillm", *given, f"sequences.replay.capacity={most}")
    rows: list[dict[str, Any]] = trained(enough).read_metrics()
    found = [row.get("realized_fresh_fraction") for row in rows]
    assert 0.0 in found, "some updates learn from memory alone"
