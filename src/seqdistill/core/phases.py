"""Where the seconds of a training go, by phase: they add up to the whole, whatever is timed."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PHASES = {
    "data": "data",
    "rollout": "rollouts",
    "teacher": "teacher",
    "forward_loss": "forward and loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "evaluation": "dev scores",
    "checkpoint": "checkpoints",
    "other": "other",
}
"""What people call each phase. `forward_loss` is the student's forward pass with the loss, which
computes the gradient of the output head on its way; `backward` is the rest of the gradient.
`rollout` has refreshed weights and rewards, too. `other` is all that is none of these."""
PREFIX = "seconds_"
"""Of a phase's name in metrics: seconds since the first update, of a run that was resumed too."""


class _Moment:
    """A moment of the wall clock, with what is read of a CUDA event."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def query(self) -> bool:
        """Whether it is over."""
        return True

    def elapsed_time(self, later: _Moment) -> float:
        """Milliseconds between the two."""
        return 1000.0 * (later._at - self._at)


def _event() -> Any:
    """The moment at which the GPU will have done all that it was given so far."""
    import torch  # not by the report, which starts without it

    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class PhaseClock:
    """Counts every second since `start` for the phase that is open then, or for `other`.

    Inside a phase another may be open: a second counts once, for the inner one. On a GPU, which
    runs behind the process that gives it work, the seconds are those of the device: an event is
    recorded where a phase begins and ends, and read when the device has passed it, so that nothing
    waits. What it has not passed yet is not counted yet.
    """

    def __init__(self, device_type: str = "cpu") -> None:
        self._now: Callable[[], Any] = _event if device_type == "cuda" else _Moment
        self._seconds: dict[str, float] = {}
        self._open = ["other"]
        self._marks: deque[tuple[str, Any]] = deque()
        """Moments, each with the phase that went on then; up to the first all is counted."""

    def start(self, before: Mapping[str, float]) -> None:
        """Counts from now on, on top of what was counted before."""
        self._seconds = dict(before)
        self._marks.clear()
        self._mark()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While open, seconds count for this phase of `PHASES`."""
        self._open.append(name)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that there was, in the order of `PHASES`."""
        self._mark()
        return {name: self._seconds[name] for name in PHASES if name in self._seconds}

    def _mark(self) -> None:
        self._marks.append((self._open[-1], self._now()))
        while len(self._marks) > 1 and self._marks[1][1].query():
            (name, began), (_, ended) = self._marks[0], self._marks[1]
            taken = began.elapsed_time(ended) / 1000.0
            self._seconds[name] = self._seconds.get(name, 0.0) + taken
            self._marks.popleft()


def mean_seconds(of_processes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over processes, which run side by side: it adds up to the time that a user waits."""
    count = len(of_processes)
    return {
        name: sum(each.get(name, 0.0) for each in of_processes) / count
        for name in PHASES
        if any(name in each for each in of_processes)
    }
