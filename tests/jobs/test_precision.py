"""Which arithmetic a run is trained in: told by the recipe, by the machine, or by its beginning."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import settings_in, texts

from seqdistill.core.progress import NoProgress
from seqdistill.jobs.training import train_student
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.training.loop import TrainingLoop, TrainingResult


class Stopped(Exception):
    """Somebody pressed Ctrl-C before the first update."""


@pytest.fixture
def trained_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision of each training that began; each is stopped before its first update."""
    begun: list[str] = []

    def stop(self: TrainingLoop, *, resume: Resume) -> TrainingResult:
        begun.append(self._precision)
        raise Stopped

    monkeypatch.setattr(TrainingLoop, "run", stop)
    return begun


def word_kd_in(folder: Path, *overrides: str) -> Recipe:
    return load_recipe("word_kd", [*texts(settings_in(folder)), *overrides])


def has_bf16(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"avx512_bf16": there}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


def begin(recipe: Recipe, *, resume: bool = False) -> None:
    with pytest.raises(Stopped):
        train_student(recipe, progress=NoProgress(), resume=resume)


@pytest.mark.parametrize(("there", "precision"), [(True, "bf16"), (False, "fp32")])
def test_what_the_cpu_multiplies_fast_is_taken_and_noted(
    there: bool,
    precision: str,
    place: Path,
    trained_in: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_bf16(there, monkeypatch)
    begin(word_kd_in(place))
    assert trained_in == [precision]
    assert RunDirectory(place / "runs" / "run").read_manifest()["precision"] == precision


def test_a_run_goes_on_as_it_was_begun_on_another_machine(
    place: Path, trained_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = word_kd_in(place)
    has_bf16(True, monkeypatch)
    begin(recipe)
    has_bf16(False, monkeypatch)
    begin(recipe, resume=True)
    assert trained_in == ["bf16", "bf16"]
    assert RunDirectory(place / "runs" / "run").read_manifest()["precision"] == "bf16"


def test_bf16_that_was_asked_for_is_taken_and_its_price_told(
    place: Path,
    trained_in: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    has_bf16(False, monkeypatch)
    with caplog.at_level(logging.WARNING):
        begin(word_kd_in(place, "training.precision=bf16"))
    assert trained_in == ["bf16"]
    assert "training.precision=bf16 takes many times as long as fp32 on this CPU" in caplog.text
