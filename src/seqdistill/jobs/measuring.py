"""How things are measured: in turns, so that a busy machine slows all alike, and by medians."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Taken:
    """One call: wall and CPU seconds of this process, and the number that it returned, or 0."""

    wall_s: float
    cpu_s: float
    result: float


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of several rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a round."""
        return cls(statistics.median(values), min(values), max(values))


def in_turns(
    forms: Mapping[str, Callable[[int], float | None]],
    *,
    before: Callable[[str], None] = lambda _form: None,
    seconds: float = 0.0,
    least: int = 3,
    most: int = 9,
    device: torch.device | None = None,
) -> dict[str, list[Taken]]:
    """What each form took, called with the number of the round, round after round.

    A first round warms up and does not count. Then as many rounds as `seconds` allow follow, from
    `least` to `most`. `before` is called with the form's name ahead of each, untimed. A GPU is
    waited for before the clock is read.
    """
    taken: dict[str, list[Taken]] = {form: [] for form in forms}
    number, rounds = 0, most
    while number <= rounds:
        for form, call in forms.items():
            before(form)
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            result = call(number) or 0.0
            _wait(device)
            seen = Taken(time.perf_counter() - wall, time.process_time() - cpu, result)
            if number:
                taken[form].append(seen)
            else:
                seconds -= seen.wall_s
        if number == 1:  # the first was slow
            a_round = sum(found[0].wall_s for found in taken.values())
            rounds = min(most, max(least, int(seconds / a_round)))
        number += 1
    return taken


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_over_held(call: Callable[[], None], device: torch.device | None = None) -> int:
    """Peak bytes of a call over what was held before it: on a GPU there, else of this process,
    which must be a fresh one, on Linux."""
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - held
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
