"""Which arithmetic a run is trained in: told by the recipe, by the machine, or by its beginning."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tests.jobs.test_distill import QUICK, save_pairs, save_teacher

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
        begun.append(self.precision)
        raise Stopped

    monkeypatch.setattr(TrainingLoop, "run", stop)
    return begun


def recipe_in(folder: Path, *overrides: str) -> Recipe:
    save_pairs(folder / "train.tsv", 12, seed=0)
    settings = {
        **QUICK,
        "teacher.model": str(save_teacher(folder / "teacher", "mbart")),
        "student.init": "teacher_layers",
        "data.train": str(folder / "train.tsv"),
        "output_dir": str(folder / "run"),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe("word_kd", [*given, *overrides])


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
    tmp_path: Path,
    trained_in: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_bf16(there, monkeypatch)
    begin(recipe_in(tmp_path))
    assert trained_in == [precision]
    assert RunDirectory(tmp_path / "run").read_manifest()["precision"] == precision


def test_a_run_goes_on_as_it_was_begun_on_another_machine(
    tmp_path: Path, trained_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(tmp_path)
    has_bf16(True, monkeypatch)
    begin(recipe)
    has_bf16(False, monkeypatch)
    begin(recipe, resume=True)
    assert trained_in == ["bf16", "bf16"]
    assert RunDirectory(tmp_path / "run").read_manifest()["precision"] == "bf16"


def test_bf16_that_was_asked_for_is_taken_and_its_price_told(
    tmp_path: Path,
    trained_in: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    has_bf16(False, monkeypatch)
    with caplog.at_level(logging.WARNING):
        begin(recipe_in(tmp_path, "training.precision=bf16"))
    assert trained_in == ["bf16"]
    assert "training.precision=bf16 takes many times as long as fp32 on this CPU" in caplog.text
