"""Which arithmetic a run is trained in: told by the recipe, by the machine, or by its beginning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.jobs.runs import settings_in, texts, trained

from seqdistill.recipe.loading import load_recipe
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.training.loop import TrainingLoop, TrainingResult


class Stopped(Exception):
    """Somebody pressed Ctrl-C before the first update."""


@pytest.mark.parametrize(
    ("has_bf16", "given", "precision"),
    [(True, [], "bf16"), (False, [], "fp32"), (False, ["training.precision=bf16"], "bf16")],
)
def test_what_the_cpu_multiplies_fast_is_taken_noted_and_kept_on_another_machine(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_bf16: bool,
    given: list[str],
    precision: str,
) -> None:
    begun: list[str] = []

    def stop(self: TrainingLoop, *, resume: Resume) -> TrainingResult:
        begun.append(self._precision)
        raise Stopped

    monkeypatch.setattr(TrainingLoop, "run", stop)
    recipe = load_recipe("word_kd", [*texts(settings_in(place)), *given])
    for resume in (False, True):
        found = {"avx512_bf16": has_bf16 != resume}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f, raising=False)
        with pytest.raises(Stopped):
            trained(recipe, resume=resume)
        told = "training.precision=bf16 takes many times as long as fp32 on this CPU" in caplog.text
        assert told == bool(given)
    assert begun == [precision] * 2
    assert RunDirectory(place / "runs" / "run").read_manifest()["precision"] == precision
