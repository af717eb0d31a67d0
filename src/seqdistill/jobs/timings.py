"""How long each step of a run took and how much memory it needed, in the run's manifest."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from seqdistill.records.run_directory import RunDirectory


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in megabytes.

    Linux tells it of the process's own memory; elsewhere it may be that of the process before exec.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    # Both count in kilobytes.
    kilobytes = int(peaks[0]) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 1024, 1)


@contextlib.contextmanager
def timed(run: RunDirectory, step: str) -> Iterator[None]:
    """Writes the seconds of the block, and the peak memory after it, under the step's name."""
    started = time.perf_counter()
    yield
    note_seconds(run, step, time.perf_counter() - started)


def note_seconds(run: RunDirectory, step: str, seconds: float) -> None:
    """Writes those of a step that has just ended, and the peak memory so far."""
    rounded, peak = round(seconds, 2), peak_memory_mb()
    _add_timings(run, [{"step": step, "seconds": rounded, "peak_memory_mb": peak}])


def take_over_timings(run: RunDirectory, part: RunDirectory, name: str) -> None:
    """Adds the rows of a run inside this one, under its name."""
    rows = _timings_of(part)
    _add_timings(run, [{**row, "step": f"{name}: {row['step']}"} for row in rows])


def _timings_of(run: RunDirectory) -> list[dict[str, object]]:
    known = run.read_manifest().get("timings") if run.manifest_path.exists() else None
    rows = known if isinstance(known, list) else []
    return [dict(row) for row in rows if isinstance(row, dict)]


def _add_timings(run: RunDirectory, rows: Sequence[Mapping[str, object]]) -> None:
    """Appends rows to the manifest; one of a step that is there already takes its place."""
    steps = {row["step"] for row in rows}
    kept = [row for row in _timings_of(run) if row.get("step") not in steps]
    run.update_manifest({"timings": [*kept, *rows]})
