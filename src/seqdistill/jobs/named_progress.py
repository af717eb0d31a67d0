"""Progress under the name of what is being made, where several things are made in turn."""

from __future__ import annotations

from seqdistill.core.progress import Progress


class NamedProgress:
    """Passes progress on, each job's description after the name."""

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
