"""How a long job tells that it moves. Libraries report here; only the command line draws."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener to one job at a time."""

    def start(self, description: str, total: int) -> None:
        """A job of `total` units begins."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` more are done; `note` is a few words such as 'loss 3.21'."""

    def finish(self) -> None:
        """The job that was started is over."""

    def echo(self, line: str) -> None:
        """A line that stays, such as a score on dev."""


class NoProgress:
    """Listens and says nothing."""

    def start(self, description: str, total: int) -> None:
        """Ignore the job's start."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Ignore the advance."""

    def finish(self) -> None:
        """Ignore the end."""

    def echo(self, line: str) -> None:
        """Ignore the line."""
