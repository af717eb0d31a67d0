"""The watch for collapses: what raises an alarm, when, and what does not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from seqdistill.core.token_sum import TokenSum
from seqdistill.recipe.schema import AlarmsSection
from seqdistill.training.alarms import Alarm, CollapseWatch

HEALTHY = {
    "student_entropy": 1.0,
    "teacher_entropy": 0.8,
    "student_topk_overlap": 0.9,
    "teacher_topk_overlap": 0.9,
    "distinct_2": 0.8,
    "repetition_4": 0.05,
    "completion_length": 20.0,
    "cut_fraction": 0.1,
}
REFERENCES = {"completion_length": 25.0, "repetition_4": 0.02}
COLLAPSED = {
    "student_entropy": (0.01, 0.08),
    "student_topk_overlap": (0.4, 0.45),
    "teacher_topk_overlap": (0.1, 0.45),
    "distinct_2": (0.1, 0.24),
    "repetition_4": (0.5, 0.22),
    "completion_length": (60.0, 50.0),
    "cut_fraction": (0.9, 0.5),
}
"""A value beyond the limit, and that limit by the defaults."""


def watch(references: Mapping[str, float] = REFERENCES, **settings: Any) -> CollapseWatch:
    return CollapseWatch(AlarmsSection(**settings), references, after=0)


def looked_at(
    watching: CollapseWatch, rows: Sequence[Mapping[str, float | None]], first: int = 1
) -> list[tuple[int, Alarm]]:
    """The alarms, each with its update."""
    return [
        (update, alarm)
        for update, row in enumerate(rows, start=first)
        for alarm in watching.look(update, row)
    ]


@pytest.mark.parametrize("name", COLLAPSED)
def test_what_collapses_raises_one_alarm_after_as_many_looks(name: str) -> None:
    value, limit = COLLAPSED[name]
    rows = [HEALTHY] * 4 + [{**HEALTHY, name: value}] * 9
    ((update, alarm),) = looked_at(watch(), rows)
    assert (update, alarm.quantity, alarm.value) == (7, name, value)
    assert alarm.limit == pytest.approx(limit)
    assert name in alarm.text(update) and "update 7" in alarm.text(update)


def test_a_healthy_run_and_one_that_comes_back_raise_none() -> None:
    noisy = [{k: v * (1.2 if n % 2 else 0.85) for k, v in HEALTHY.items()} for n in range(40)]
    assert looked_at(watch(), noisy) == []
    for name, (value, _) in COLLAPSED.items():
        spikes = [{**HEALTHY, name: value if n % 3 else HEALTHY[name]} for n in range(40)]
        assert looked_at(watch(), [HEALTHY] * 3 + spikes) == [], "two looks in a row are no three"
    # A student that starts badly and gets better: it ends ever more of its outputs.
    rows = [{**HEALTHY, "cut_fraction": 1.0 - 0.05 * n} for n in range(20)]
    assert looked_at(watch(), rows) == []


def test_what_never_ends_from_the_start_on_raises_an_alarm() -> None:
    ((update, alarm),) = looked_at(watch(), [{**HEALTHY, "cut_fraction": 1.0}] * 9)
    assert (update, alarm.quantity) == (3, "cut_fraction")


def test_looks_in_the_warm_up_tell_only_how_it_began() -> None:
    watching = CollapseWatch(AlarmsSection(), {}, after=5)
    rows = [HEALTHY] * 3 + [{**HEALTHY, "distinct_2": 0.1}] * 9
    ((update, alarm),) = looked_at(watching, rows)
    assert update == 8 and alarm.limit == pytest.approx(0.3 * HEALTHY["distinct_2"])


@pytest.mark.parametrize(
    ("given", "rows_of_start", "limit"),
    [
        ({}, {"student_entropy": 2.0, "teacher_entropy": None}, ("student_entropy", 0.2)),
        ({}, {"repetition_4": 0.3}, ("repetition_4", 0.5)),
        ({"completion_length": 5.0}, {"completion_length": 10.0}, ("completion_length", 20.0)),
        ({"distinct_2": 0.5}, {}, ("distinct_2", 0.15)),
    ],
    ids=["no teacher", "no references", "references shorter than the start", "references on dev"],
)
def test_limits_are_of_references_teacher_or_start(
    given: dict[str, float], rows_of_start: dict[str, float | None], limit: tuple[str, float]
) -> None:
    name, expected = limit
    start = {k: v for k, v in {**HEALTHY, **rows_of_start}.items() if v is not None}
    value = 2.0 * expected if name in ("completion_length", "repetition_4") else 0.1 * expected
    ((_, alarm),) = looked_at(watch(given), [start] * 3 + [{**start, name: value}] * 3)
    assert alarm.quantity == name and alarm.limit == pytest.approx(expected)


def test_what_is_not_watched_or_not_measured_raises_none() -> None:
    worst = {name: value for name, (value, _) in COLLAPSED.items()}
    limits = [n for n in AlarmsSection.model_fields if n.startswith(("min_", "max_"))]
    rows = [HEALTHY] * 3 + [{**HEALTHY, **worst}] * 9
    nothing: dict[str, Any] = dict.fromkeys(limits)
    assert looked_at(watch(**nothing), rows) == []
    assert looked_at(watch(action="none"), rows) == []
    unmeasured: dict[str, float | None] = dict.fromkeys(HEALTHY)
    assert looked_at(watch(), [unmeasured, {}, dict.fromkeys(HEALTHY, math.nan)] * 9) == []


def test_an_alarm_comes_again_only_after_its_number_came_back() -> None:
    bad, watching = {**HEALTHY, "distinct_2": 0.1}, watch()
    rows = [HEALTHY] * 3 + [bad] * 9 + [HEALTHY] + [bad] * 3
    assert [update for update, _ in looked_at(watching, rows)] == [6, 16]


def sums(**values: tuple[float, float]) -> dict[str, TokenSum]:
    return {name: TokenSum(*map(torch.tensor, pair)) for name, pair in values.items()}


def test_a_look_is_the_mean_over_its_updates_and_survives_a_pause() -> None:
    """Batches of short and of long outputs in turn: far from the start each, near it together."""
    watching = watch({"completion_length": 20.0}, every=4)
    healthy = [sums(completion_length=(n * 8.0, 8.0)) for n in (5, 5, 5, 65)] * 20
    assert not [a for n, one in enumerate(healthy, 1) for a in watching.add(n, one)]
    longer = [sums(completion_length=(n * 8.0, 8.0)) for n in (5, 80, 80, 60)] * 4
    found = []
    for update, one in enumerate(longer, start=81):
        found += [(update, alarm) for alarm in watching.add(update, one)]
        stored = json.loads(json.dumps(watching.state_dict()))
        watching = watch({"completion_length": 20.0}, every=4)
        watching.load_state_dict(stored)
    ((update, alarm),) = found
    assert update == 92 and alarm.value == pytest.approx(56.25) and alarm.limit == 40.0


def test_a_watch_that_was_stored_goes_on_as_it_would_have() -> None:
    rows = [HEALTHY] * 2 + [{**HEALTHY, "distinct_2": 0.1, "cut_fraction": 0.9}] * 6
    expected = looked_at(watch(), rows)
    assert len(expected) == 2
    for cut in range(len(rows)):
        first, second = watch(), watch()
        found = looked_at(first, rows[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert found + looked_at(second, rows[cut:], first=cut + 1) == expected
