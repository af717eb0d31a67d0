"""How long each step of a run took and how much memory it needed, in the run's manifest."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

from seqdistill.records.run_directory import RunDirectory


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in megabytes (Linux counts in kilobytes)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


@contextlib.contextmanager
def timed(run: RunDirectory, step: str) -> Iterator[None]:
    """Writes the seconds of the block, and the peak memory after it, under the step's name."""
    started = time.perf_counter()
    yield
    row: dict[str, object] = {
        "step": step,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    known = run.read_manifest().get("timings") if run.manifest_path.exists() else None
    rows = known if isinstance(known, list) else []
    kept = [old for old in rows if isinstance(old, dict) and old.get("step") != step]
    run.update_manifest({"timings": [*kept, row]})
