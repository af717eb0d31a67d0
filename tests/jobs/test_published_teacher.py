"""A teacher that is published anew while its student trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

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
from tests.tiny import VOCAB, collator, random_examples, tiny_adapter, tiny_model

from seqdistill.core.errors import ModelError, RecipeError, UserError
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.models.adapters import SequenceModel
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.published import Change, Place, PublishedTeacher


class Publisher(NoProgress):
    """Publishes another teacher once the first update is done, and keeps what is said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()

    def advance(self, count: int = 1, note: str = "") -> None:
        if count == 1 and note:
            publish(self.folder)

    def echo(self, text: str) -> None:
        self.lines.append(text)


def publish(place: Path, seed: int = 11) -> None:
    tiny_model("mbart", seed=seed).save_pretrained(place / "teacher")


def teachers_of(run: RunDirectory) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", run.read_manifest()["teachers"])


def recipe(place: Path, name: str, *given: str, method: str = "word_kd") -> Recipe:
    return recipe_in(place, method, *given, name=name)


def test_the_newer_teacher_teaches_from_the_next_look_on_and_a_run_says_so(tmp_path: Path) -> None:
    place = folder_for(tmp_path, "mbart")
    fixed = trained(recipe(place, "fixed"))
    looking = trained(recipe(place, "looking", "teacher.reload_every=1"))
    assert_equal_students(looking, fixed)
    (only,) = teachers_of(looking)
    assert only["since"] == 0

    paused = recipe(place, "paused", "teacher.reload_every=2")
    train(paused, progress=NoProgress(), until=2)
    progress = Publisher(place)
    run = train(recipe(place, "run", "teacher.reload_every=2"), progress=progress)
    assert losses(run)[:2] == losses(fixed)[:2] and losses(run)[2] != losses(fixed)[2]
    first, second = teachers_of(run)
    assert (first["since"], second["since"]) == (0, 2)
    assert first["fingerprint"] == only["fingerprint"] != second["fingerprint"]
    assert any("another teacher after update 2" in line for line in progress.lines)
    # Who goes on with a checkpoint takes what is published by then.
    resumed = trained(paused, resume=True)
    assert_equal_students(resumed, run)
    assert teachers_of(resumed) == [first, second]
    assert any(not one.equal(student_of(fixed)[name]) for name, one in student_of(run).items())


def teacher(place: Place, changes: list[Change]) -> PublishedTeacher:
    def told(found: object) -> None:
        changes[:] = found  # type: ignore[call-overload]

    return PublishedTeacher(
        tiny_adapter("mbart", seed=1), place, every=2, on_change=told, vocab_size=VOCAB
    )


def test_its_scores_are_those_of_the_published_weights_and_unreadable_ones_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    there: dict[str, SequenceModel | None] = {"a": tiny_adapter("mbart", seed=1)}

    def name() -> str:
        return next(iter(there))

    def load() -> SequenceModel:
        found = there[name()]
        if found is None:
            raise UserError("half of it is written")
        return found

    changes = list[Change]()
    published, batch = teacher(Place(name, load), changes), collator("seq2seq")(random_examples(3))
    before = published.score(batch).hidden
    there.clear()
    there["b"] = None
    with caplog.at_level(logging.WARNING):
        published.student_updated(1)
        assert not caplog.records
        published.student_updated(2)
    assert "half of it is written" in caplog.text
    assert torch.equal(published.score(batch).hidden, before) and not changes
    there["b"] = tiny_adapter("mbart", seed=2)
    published.student_updated(3)
    assert torch.equal(published.score(batch).hidden, before)
    published.student_updated(4)
    expected = InProcessTeacher(tiny_adapter("mbart", seed=2), vocab_size=VOCAB).score(batch)
    assert torch.equal(published.score(batch).hidden, expected.hidden)
    assert changes == [Change(0, "a"), Change(4, "b")]
    there.clear()
    there["c"] = SequenceModel(tiny_model("mbart", d_model=8))
    with pytest.raises(ModelError, match="shapes of the one before"):
        published.student_updated(6)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("word_kd", ["teacher.cache_hidden_states=fp32"]),
        ("opsd", ["teacher.model=student", "teacher.prompt_column=hint"]),
        ("gkd", ["sequences.rollouts.teacher_fraction=0.5"]),
        ("seq_kd", []),
    ],
)
def test_what_is_made_once_of_a_teacher_is_refused(
    tmp_path: Path, method: str, given: list[str]
) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.reload_every must be left out"):
        recipe(folder_for(tmp_path, "mbart"), "x", "teacher.reload_every=3", *given, method=method)
