"""Every folder of tests is one that pytest enters: it passes over some names in silence."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest


def test_no_folder_of_tests_is_passed_over(request: pytest.FixtureRequest) -> None:
    passed_over: list[str] = request.config.getini("norecursedirs")
    folders = {path.parent.name for path in Path(__file__).parent.rglob("test_*.py")}
    assert "build" in folders
    assert not [f for f in folders for pattern in passed_over if fnmatch.fnmatch(f, pattern)]
