"""What the tests of the report share."""

from __future__ import annotations

import pytest

from seqdistill.report import plots


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are empty, for tests of what stands around them: drawing is what takes time."""

    def empty(name: str, *_: object, **__: object) -> str:
        return f'<svg id="{name}-"></svg>'

    for drawing in ("scatter", "plane", "columns", "curves", "over_updates"):
        monkeypatch.setattr(plots, drawing, empty)
