"""Reads clocks and memory of a training from inside its process, whoever trains.

Needs torch alone, so that it runs in every environment. An update begins and ends where the
optimizer has stepped: what lies between two steps is all that an update costs.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


class UpdateClock:
    """Seconds at the end of every update; made after the imports and before any model is loaded."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []
        self._libraries = _status_bytes("VmRSS")
        self._rollouts = 0
        register_optimizer_step_post_hook(self._tick)

    def _tick(self, *_: Any) -> None:
        self._ticks.append((time.perf_counter(), time.process_time()))

    def count_rollout(self) -> None:
        """Notes that the student has written a batch."""
        self._rollouts += 1

    def report(self, given: dict[str, Any], **facts: object) -> None:
        """Writes the costs to `given["result"]`, the first `given["warm_up"]` updates left out."""
        later = self._ticks[given["warm_up"] - 1 :]
        count = max(1, len(later) - 1)
        found = {
            "updates": len(self._ticks),
            "rollout_updates": self._rollouts,
            "wall_s": (later[-1][0] - later[0][0]) / count,
            "cpu_s": (later[-1][1] - later[0][1]) / count,
            "train_cpu_s": count and later[-1][1] - self._ticks[0][1],
            "peak_bytes": _status_bytes("VmHWM"),
            "library_bytes": self._libraries,
            **facts,
        }
        Path(given["result"]).write_text(json.dumps(found), encoding="utf-8")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")
