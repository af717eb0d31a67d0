"""How a long job tells that it moves. Libraries report here; only the command line draws."""

from __future__ import annotations


class Progress:
    """A listener to one job at a time; by itself it says nothing."""

    def start(self, description: str, total: int) -> None:
        """A job of `total` units begins."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` more are done; `note` is a few words such as 'loss 3.21'."""

    def finish(self) -> None:
        """The job that was started is over."""

    def echo(self, line: str) -> None:
        """A line that stays, such as a score on dev."""


class NoProgress(Progress):
    """Says nothing."""


class NamedProgress(Progress):
    """Passes progress on, under the name of what is being made: for several made in turn."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name

    def start(self, description: str, total: int) -> None:
        """The job, under the name."""
        self._inner.start(f"{self._name}: {description}", total)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Passed on."""
        self._inner.advance(units, note)

    def finish(self) -> None:
        """Passed on."""
        self._inner.finish()

    def echo(self, line: str) -> None:
        """The line, after the name."""
        self._inner.echo(f"{self._name}: {line}")
