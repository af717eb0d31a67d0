"""Schedules: their ends, their middle, and what they refuse."""

from __future__ import annotations

import pytest

from seqdistill.core.schedules import Schedule, Shape


@pytest.mark.parametrize(
    ("shape", "middle"),
    [("linear", 0.5), ("exponential", 0.4), ("complement_exponential", 0.6)],
)
def test_a_schedule_begins_at_start_ends_at_end_and_goes_its_own_way(
    shape: Shape, middle: float
) -> None:
    schedule = Schedule(0.2, 0.8, shape)
    found = [schedule.value(update, 101) for update in (1, 101, 51)]
    assert found == pytest.approx([0.2, 0.8, middle])
    assert Schedule(0.2, 0.8).value(1, 1) == 0.2
    assert [Schedule.constant(0.3).value(update, 5) for update in range(1, 6)] == [0.3] * 5


def test_the_complement_is_imitkds_decay_of_the_gold_share() -> None:
    schedule, updates = Schedule(0.0, 1.0 - 1.0 / 200.0, "complement_exponential"), 41
    for update in range(1, updates + 1):
        gold_share = 200.0 ** (-(update - 1) / (updates - 1))
        assert schedule.value(update, updates) == pytest.approx(1.0 - gold_share, abs=1e-12)


@pytest.mark.parametrize(
    ("start", "end", "shape"),
    [(0.0, 1.0, "exponential"), (0.5, -1.0, "exponential"), (0.0, 1.0, "complement_exponential")],
)
def test_ends_that_the_shape_cannot_join_are_refused(
    start: float, end: float, shape: Shape
) -> None:
    with pytest.raises(ValueError, match="must have"):
        Schedule(start, end, shape)
