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


class NamedProgress:
    """Passes progress on, under the name of what is being made: for several made in turn."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner = inner
        self._name = name

    def start(self, description: str, total: int) -> None:
        """A job of what bears the name begins."""
        self._inner.start(f"{self._name}: {description}", total)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Pass the advance on."""
        self._inner.advance(units, note)

    def finish(self) -> None:
        """Pass the end on."""
        self._inner.finish()

    def echo(self, line: str) -> None:
        """Pass the line on, after the name."""
        self._inner.echo(f"{self._name}: {line}")
