"""What a run notes while it goes on: seconds and memory of its steps, samples, trackers.

What trackers write to disk lies in the run directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator

from seqdistill.assembly.data import chat_settings
from seqdistill.assembly.preparing import Prepared
from seqdistill.core.errors import UserError
from seqdistill.data.conversations import prompt_text
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion, PromptCompletions


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


_NUM_KEPT = 4
"""Sequences of each batch that is looked at."""


class RolloutLog:
    """Writes a few sequences of every `samples_every` updates to the run directory.

    Of the first batch in these updates in which the student had a hand: where a coin gave the
    prompts to somebody else, it waits for a later one. Each of another prompt, while there are any.
    """

    def __init__(self, prepared: Prepared, run: RunDirectory) -> None:
        self._run = run
        self._tokenizer = prepared.student.tokenizer
        self._decoder = TextDecoder(self._tokenizer)
        self._chat = chat_settings(prepared.recipe.data)
        self._every = prepared.recipe.sequences.rollouts.samples_every
        self._examples = prepared.train_examples
        self._next_update: int | None = None

    def __call__(self, update: int, found: PromptCompletions) -> None:
        """Keeps some of the sequences, if it is time and the student had a part in any."""
        if self._next_update is None:
            # Not earlier: a run that is resumed first forgets what it will write again.
            kept_at = [int(str(row["step"])) for row in self._run.read_rollouts()]
            self._next_update = max(map(self._after, kept_at), default=1)
        rows = found.students_rows
        if update < self._next_update or not rows:
            return
        self._next_update = self._after(update)
        ids = [found.prompts[row].id for row in rows]
        is_later = [name in ids[:place] for place, name in enumerate(ids)]
        kept = [row for _, row in sorted(zip(is_later, rows, strict=True))][:_NUM_KEPT]
        self._run.log_rollouts(update, [self._row(one) for one in found.select(kept).listed()])

    def _after(self, update: int) -> int:
        """When the next `samples_every` updates begin."""
        return update + self._every - (update - 1) % self._every

    def _row(self, one: Completion) -> dict[str, object]:
        ids, example = one.example.target_ids, self._examples.named(one.example.id)
        return {
            "id": example.id,
            "prompt": prompt_text(example, self._tokenizer, self._chat),
            "origin": one.origin,
            "written": self._decoder.text(one.content_ids).strip(),
            "tokens": len(ids),
            "finished": one.finished,
            "reference": example.target,
            "reward": one.reward,
            "sampled_at_update": one.sampled_at_update,
        }


_PROJECT = "seqdistill"


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package, of the same name, is not installed."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"training.trackers={name} needs the package {name}, which is not installed; run "
                f"pip install {name}, or remove it from training.trackers"
            )


@contextlib.contextmanager
def trackers_started(accelerator: Accelerator, recipe: Recipe, run: RunDirectory) -> Iterator[None]:
    """While open, `accelerator.log` of the main process reaches the trackers it was made with."""
    if not (accelerator.is_main_process and recipe.training.trackers):
        yield
        return
    name, folder = run.path.resolve().name, str(run.path.resolve())
    places = {"MLFLOW_TRACKING_URI": f"file://{folder}/mlruns", "TRACKIO_DIR": f"{folder}/trackio"}
    ours = {name: place for name, place in places.items() if name not in os.environ}
    os.environ.update(ours)
    accelerator.init_trackers(
        _PROJECT,
        init_kwargs={
            "wandb": {"name": name, "dir": folder},
            "trackio": {"name": name},
            "mlflow": {"run_name": name},
        },
    )
    try:
        yield
    finally:
        # Not accelerator.end_training, which ends the processes' group, too.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers.clear()
        for events in run.tensorboard_path.rglob("events.*"):  # without the machine's name
            events.rename(events.with_name(events.name.replace(f".{socket.gethostname()}.", ".")))
        for key in ours:
            del os.environ[key]
