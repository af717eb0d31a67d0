"""What the tests of the report share."""

from __future__ import annotations

import pytest

from seqdistill.report import plots


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are empty, for tests of what stands around them: drawing is what takes time."""
    monkeypatch.setattr(plots, "draw", lambda name, *_: f'<svg id="{name}-"></svg>')
