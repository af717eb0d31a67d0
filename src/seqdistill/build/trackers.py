"""Where metrics go while training: the run directory always, TensorBoard when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from seqdistill.records.run_directory import RunDirectory


class MetricsFanOut:
    """Hands every measured value to each listener. Use as a context manager."""

    def __init__(self, run: RunDirectory, trackers: Sequence[str]) -> None:
        self._run = run
        self._board = (
            SummaryWriter(str(run.tensorboard_path)) if "tensorboard" in trackers else None
        )

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Record the values measured at a step."""
        self._run.log_metrics(step, values)
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def forget_metrics_after(self, step: int) -> int:
        """Remove from the run directory what a resumed run will measure again."""
        return self._run.forget_metrics_after(step)

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
