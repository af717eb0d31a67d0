"""Progress on screen: a bar with time left on a terminal, a line every tenth elsewhere.

`job` is the frame around every command that computes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from seqdistill.cli.quiet import tame_libraries
from seqdistill.cli.screen import is_main_rank
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress, Progress

# Seconds of history behind the time left: updates can take seconds each, and dev scoring minutes.
_SPEED_SECONDS = 120.0
_PARTS = 10
_SILENCE_SECONDS = 600.0
# Columns for the words and numbers of one line; the bar takes what is left, within limits.
_WORDS_WIDTH, _MIN_BAR, _MAX_BAR = 78, 6, 40


class RichProgress(Progress):
    """One bar a job, on a terminal. A bar stays on screen when its job is over."""

    def __init__(self, console: Console, *, transient: bool = False) -> None:
        self._console = console
        self._transient = transient
        self._bars: Bars | None = None
        self._task = TaskID(0)

    def start(self, description: str, total: int) -> None:
        """A bar appears; one that was not finished stops where it is."""
        self.close()
        bar_width = min(max(self._console.width - _WORDS_WIDTH, _MIN_BAR), _MAX_BAR)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=bar_width),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=self._transient,
            refresh_per_second=4,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._task = self._bars.add_task(description, total=total, note="")
        self._bars.start()

    def advance(self, units: int = 1, note: str = "") -> None:
        """The bar moves; the last note that was given stays."""
        if self._bars is not None:
            self._bars.advance(self._task, units)
            if note:
                self._bars.update(self._task, note=note)

    def finish(self) -> None:
        """The bar is drawn a last time."""
        self.close()

    def echo(self, line: str) -> None:
        """The line stands above the bar."""
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Leaves the terminal as it was, also after an error."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class PlainProgress(Progress):
    """Lines for a log: at the start, at every tenth of the job and at its end.

    In between also after ten minutes without a line.
    """

    def __init__(
        self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._description, self._note = "", ""
        self._total, self._done = 0, 0
        self._started, self._told = 0.0, 0.0
        # The first advance can be what an earlier process did: it says nothing about the speed.
        self._first: tuple[int, float] | None = None

    def start(self, description: str, total: int) -> None:
        """A line with the job's size."""
        self._description, self._note, self._total, self._done = description, "", total, 0
        self._started, self._first = self._clock(), None
        self._told = self._started
        self._write(f"{description}: 0 of {total:,}")

    def advance(self, units: int = 1, note: str = "") -> None:
        """A line when another tenth is done, but for the last, which is the end."""
        before = self._part()
        self._done += units
        self._note = note or self._note
        now = self._clock()
        if self._first is None:
            self._first = (self._done, now)
        waited = now - self._told >= _SILENCE_SECONDS and self._part() < _PARTS
        if before < self._part() < _PARTS or waited:
            self._told = now
            words = [f"{clock_time(now - self._started)} elapsed", self._left(now), self._note]
            share = 100 * self._done // self._total
            counted = f"{share} % ({self._done:,} of {self._total:,})"
            self._write(f"{self._description}: {counted}, {', '.join(w for w in words if w)}")

    def finish(self) -> None:
        """A line with the time that the job took."""
        seconds = self._clock() - self._started
        counted = f"{self._done:,} of {self._total:,}"
        note = f", {self._note}" if self._note else ""
        self._write(f"{self._description}: done, {counted} in {clock_time(seconds)}{note}")

    def echo(self, line: str) -> None:
        """The line as it is."""
        self._write(line)

    def _part(self) -> int:
        return _PARTS * self._done // self._total if self._total else _PARTS

    def _left(self, now: float) -> str:
        if self._first is None or now <= self._first[1] or self._done <= self._first[0]:
            return ""
        rate = (self._done - self._first[0]) / (now - self._first[1])
        return f"{clock_time((self._total - self._done) / rate)} left"


@contextlib.contextmanager
def progress_on(console: Console, *, transient: bool = False) -> Iterator[Progress]:
    """The progress that suits the console; bars that are `transient` leave no trace."""
    if not console.is_terminal:
        yield PlainProgress(lambda line: print(line, file=console.file, flush=True))
        return
    bars = RichProgress(console, transient=transient)
    try:
        yield bars
    finally:
        bars.close()


def clock_time(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def job(console: Console, *, verbose: bool, transient: bool = False) -> Iterator[Progress]:
    """The progress to hand down, libraries quiet; `transient` bars leave no trace when done.

    Before torch is imported: the command imports what it runs inside.
    """
    tame_libraries(verbose=verbose)
    keep_freed_memory()
    if not is_main_rank():
        yield NoProgress()
        return
    with progress_on(console, transient=transient) as progress:
        yield progress
