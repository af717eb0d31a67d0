"""What a plan says of time: parts are measured on some and counted for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in

from seqdistill.assembly.data import epoch_batches
from seqdistill.assembly.preparing import prepare
from seqdistill.core.phases import PhaseClock
from seqdistill.data.collating import Collator
from seqdistill.jobs import costs
from seqdistill.jobs.costs import RunSeconds, of_all, update_seconds
from seqdistill.jobs.plan import plan
from seqdistill.sources.completions import SequenceSource


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_for(tmp_path_factory.mktemp("costs"), "mbart")


@pytest.mark.parametrize("size", [1, 5, 8, 9, 100, 128, 10_000])
def test_a_fixed_part_and_one_for_each_example_give_all_of_them(size: int) -> None:
    asked: list[int] = []

    def seconds_of(count: int) -> float:
        asked.append(count)
        return 0.25 + 0.01 * count

    assert of_all(seconds_of, size, most=128) == pytest.approx(0.25 + 0.01 * size)
    assert max(asked) <= min(size, 128)


def test_no_more_examples_are_tried_than_there_is_time_for() -> None:
    asked: list[int] = []

    def seconds_of(count: int) -> float:
        asked.append(count)
        return 1.0 * count

    assert of_all(seconds_of, 1000, most=128) == pytest.approx(1000.0)
    assert asked == [8]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_updates_are_counted_in_positions_of_the_batches_to_come(
    place: Path, accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves on with every padded position, and by 1,000 at each optimizer's step."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def update(_: object, source: SequenceSource, micro_batches: int, clock: PhaseClock) -> None:
        for batch in source.batches(micro_batches):
            with clock.phase("backward"):
                now[0] += float(batch.padding.count)
        with clock.phase("optimizer"):
            now[0] += 1000.0

    monkeypatch.setattr(costs._Trial, "update", update)
    recipe = recipe_in(
        place,
        "word_kd",
        "training.steps=40",
        "training.batch_tokens=30",
        f"training.gradient_accumulation_steps={accumulated}",
    )
    prepared = prepare(recipe)
    found = update_seconds(prepared, torch.device("cpu"))

    def sizes() -> Iterator[float]:
        collator = Collator("seq2seq", pad_id=0, start_id=0)
        batches = epoch_batches(recipe, prepared.train, "seq2seq")
        for _ in range(40 * accumulated):
            batch = collator([prepared.train[place] for place in batches.next()])
            yield float(batch.padding.count)

    assert found["optimizer"] == pytest.approx(40 * 1000.0)
    assert found["backward"] == pytest.approx(sum(sizes()))


def test_a_plan_says_the_time_by_part_and_adds_it_up(place: Path) -> None:
    recipe = recipe_in(place, "seq_kd", f"data.test={place / 'test.tsv'}", name="planned")
    seconds = plan(recipe).seconds
    assert seconds.labels > 0.0 and seconds.dev > 0.0 and seconds.evaluation > 0.0
    assert seconds.scores == 0.0 and "teacher's scores" not in str(seconds)
    assert seconds.training == pytest.approx(
        seconds.labels + seconds.dev + sum(seconds.updates.values())
    )
    assert plan(recipe, evaluated=False).seconds.evaluation == 0.0


def test_kept_scores_are_counted_until_they_are_there(place: Path) -> None:
    recipe = recipe_in(place, "word_kd", "teacher.scores=top_k", name="kept")
    assert plan(recipe, evaluated=False).seconds.scores > 0.0
    assert not list(place.rglob("scores.json")), "a plan keeps none"


def test_stages_add_up() -> None:
    one = RunSeconds(60.0, 0.0, {"rollout": 30.0, "backward": 90.0}, 6.0)
    two = RunSeconds(0.0, 12.0, {"backward": 30.0}, 0.0, evaluation=60.0)
    both = RunSeconds.summed([one, two])
    assert (both.training, both.evaluation) == (228.0, 60.0)
    assert str(both).endswith(
        "labels 1.0, teacher's scores 0.2, updates (backward 2.0, rollouts 0.5) 2.5, dev scores 0.1"
    )


def test_epochs_are_counted_in_prompts_however_many_samples_each_has(place: Path) -> None:
    once, often = (
        plan(recipe_in(place, "on_policy_kd", "training.batch_tokens=200", *more), evaluated=False)
        for more in ((), ("sequences.rollouts.samples_per_prompt=4",))
    )
    assert often.epochs == pytest.approx(once.epochs / 4, rel=0.5)
    assert often.tokens_per_update == pytest.approx(once.tokens_per_update, rel=0.5)
