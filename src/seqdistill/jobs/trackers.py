"""Where metrics go while training: the run directory always, TensorBoard when asked."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from seqdistill.records.run_directory import RunDirectory


class _Board:
    """A file of events for TensorBoard.

    Written here because the library's writer puts the name of the machine into the file's name, and
    writes from a thread, where a full disk is not heard of.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._records = RecordWriter(open(folder / name, "xb"))  # noqa: SIM115
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Appends a number."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()


class MetricsFanOut:
    """Hands every measured value to each listener. Use as a context manager."""

    def __init__(self, run: RunDirectory, trackers: Sequence[str]) -> None:
        self._run = run
        self._board = _Board(run.tensorboard_path) if "tensorboard" in trackers else None

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Record the values measured at a step."""
        self._run.log_metrics(step, values)
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, float(value), step)

    def state_dict(self) -> dict[str, Any]:
        """How much the run directory's logs hold."""
        return dict(self._run.logs_so_far())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remove from the run directory what a resumed run will measure again."""
        self._run.go_back_to(state)

    def __enter__(self) -> MetricsFanOut:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._board is not None:
            self._board.close()
        self._run.close()
