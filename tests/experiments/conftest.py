"""Cells train in the tests' own process: a fresh one for each would spend its time on imports."""

from __future__ import annotations

import functools

import pytest
from experiments.gkd import measure as gkd
from experiments.kim_rush import measure as kim_rush

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train


@pytest.fixture(autouse=True)
def trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for measure in (gkd, kim_rush):
        here = functools.partial(train, progress=NoProgress(), resume=True)
        monkeypatch.setattr(measure, "train_apart", here)
