"""Seconds by phase: each counts once, also on a device that is behind."""

from __future__ import annotations

import types

import pytest

from seqdistill.core import phases
from seqdistill.core.phases import PhaseClock, mean_seconds


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A clock that stands still until `now` is moved."""
    clock = types.SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(phases, "time", clock)
    return clock


def test_every_second_counts_once_for_the_innermost_phase(wall: types.SimpleNamespace) -> None:
    clock = PhaseClock()
    clock.start({"backward": 5.0, "other": 1.0})
    wall.now += 1.0
    with clock.phase("data"):
        wall.now += 2.0
        with clock.phase("rollout"):
            wall.now += 4.0
        wall.now += 8.0
    with pytest.raises(KeyError), clock.phase("data"):
        wall.now += 16.0
        raise KeyError
    wall.now += 32.0
    found = clock.seconds()
    assert found == {"data": 26.0, "rollout": 4.0, "backward": 5.0, "other": 34.0}
    assert sum(found.values()) - 6.0 == wall.now - 100.0, "the whole time, and what was before"


class Passed:
    """An event of a device that has passed only some of what it was given."""

    given, passed = 0, 0

    def __init__(self) -> None:
        Passed.given += 1
        self.number = Passed.given

    def query(self) -> bool:
        return self.number <= Passed.passed

    def elapsed_time(self, later: Passed) -> float:
        assert self.query() and later.query(), "CUDA raises for an event that is not over"
        return 1000.0 * (later.number - self.number)


def test_what_a_device_has_not_passed_is_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_event", Passed)
    clock = PhaseClock("cuda")
    clock.start({})  # event 1
    with clock.phase("teacher"):  # 2
        with clock.phase("forward_loss"):  # 3
            pass  # 4
        Passed.passed = 3
        assert clock.seconds() == {"teacher": 1.0, "other": 1.0}  # 5
    # 6
    Passed.passed = 7
    assert clock.seconds() == {"teacher": 3.0, "forward_loss": 1.0, "other": 2.0}


def test_processes_run_side_by_side() -> None:
    found = mean_seconds([{"rollout": 3.0, "other": 1.0}, {"other": 2.0}])
    assert found == {"rollout": 1.5, "other": 1.5}
