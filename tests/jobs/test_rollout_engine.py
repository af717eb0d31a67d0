"""engine: auto of rollouts: measured once, recorded, kept by a resumed run and all processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import assert_equal_students, folder_for, losses, recipe_in, trained

from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress
from seqdistill.generation.verification import TOLERANCES
from seqdistill.jobs import bench as benching
from seqdistill.jobs import rollout_engine, training
from seqdistill.jobs.measuring import Taken, in_turns
from seqdistill.jobs.plan import plan
from seqdistill.jobs.rollout_engine import RolloutEngine, rollout_engine_for

CPU = torch.device("cpu")
AUTO = "sequences.rollouts.engine=auto"
Forms = Mapping[str, Callable[[int], float | None]]


class Screen(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def echo(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], list[str]]:
    """Makes an engine the faster one, whatever the clock says; None for no measuring at all."""

    def make(engine: str | None) -> list[str]:
        written: list[str] = []

        def taken(forms: Forms, **given: Any) -> dict[str, list[Taken]]:
            assert engine is not None, "nothing is left to be measured"
            found = in_turns(forms, **{**given, "least": 1, "most": 1})
            written.extend(name for name, rounds in found.items() if rounds[0].wall_s > 0.0)
            walls = {name: 1.0 if name == engine else 2.5 for name in found}
            return {name: [Taken(wall, 0.0, 0.0)] for name, wall in walls.items()}

        monkeypatch.setattr(rollout_engine, "in_turns", taken)
        return written

    return make


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_a_run_is_that_of_the_engine_that_was_faster_also_when_resumed(
    place: Path, faster: Callable[[str | None], list[str]], engine: str
) -> None:
    one = f"sequences.rollouts.engine={engine}"
    named = trained(recipe_in(place, "on_policy_kd", one, name="named"))
    recipe, measured = recipe_in(place, "on_policy_kd", AUTO), faster(engine)
    run = trained(recipe)
    assert sorted(measured) == ["ctranslate2", "transformers"]
    assert_equal_students(named, run)
    assert losses(run) == losses(named) and run.read_rollouts() == named.read_rollouts()
    manifest: dict[str, Any] = run.read_manifest()
    assert manifest["engines"]["sequences.rollouts"] == engine
    assert sorted(manifest["rollout_engine_seconds"].values()) == [1.0, 2.5]
    faster(None)
    for folder in (run.checkpoints_path / "checkpoint-4", run.student_path):
        shutil.rmtree(folder)
    assert_equal_students(named, trained(recipe, resume=True))
    assert run.read_manifest()["engines"] == manifest["engines"]
    shutil.rmtree(run.student_path)
    for engines in (["x"], {}, {"sequences.rollouts": "other"}):
        run.update_manifest({"engines": engines})
        with pytest.raises(UserError, match=r"which one sequences\.rollouts began with"):
            trained(recipe, resume=True)


def test_all_processes_take_the_first_ones_choice(
    place: Path, faster: Callable[[str | None], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = trained(
        recipe_in(place, "on_policy_kd", "sequences.rollouts.engine=ctranslate2", name="named")
    )
    faster("transformers")  # as it would be found by this process

    def told(own: object, _accelerator: object) -> object:
        return "ctranslate2" if own == "transformers" else own

    monkeypatch.setattr(training, "broadcast_from_main", told)
    assert_equal_students(named, trained(recipe_in(place, "on_policy_kd", AUTO)))


@pytest.mark.parametrize(
    ("method", "given", "engine"),
    [
        ("on_policy_kd", ("sequences.rollouts.engine=ctranslate2",), "ctranslate2"),
        ("on_policy_kd", (), "transformers"),
        ("minillm", (), "transformers"),
        ("word_kd", (), None),
    ],
)
def test_nothing_is_measured_where_there_is_no_choice(
    place: Path,
    faster: Callable[[str | None], list[str]],
    method: str,
    given: tuple[str, ...],
    engine: str | None,
) -> None:
    faster(None)
    prepared = prepare(recipe_in(place, method, *given))
    found = rollout_engine_for(prepared, CPU)
    assert found == (None if engine is None else RolloutEngine(engine))


def test_nor_where_ctranslate2_would_not_write_what_the_student_does(
    place: Path, faster: Callable[[str | None], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(None)
    monkeypatch.setitem(TOLERANCES, "float32", (-1.0, -1.0))
    found = rollout_engine_for(prepare(recipe_in(place, "on_policy_kd", AUTO)), CPU)
    assert found == RolloutEngine("transformers")


@pytest.mark.parametrize("samples", [1, 3])
def test_what_is_timed_is_an_update_with_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    place = folder_for(tmp_path, "llama")
    refreshed: list[int] = []
    engine = "seqdistill.generation.ctranslate2_engine.CTranslate2Generator.refresh"
    monkeypatch.setattr(engine, lambda *_given: refreshed.append(1))
    more = (f"sequences.rollouts.samples_per_prompt={samples}", "training.dropout=0.5")
    accumulated = "training.gradient_accumulation_steps=2"
    prepared = prepare(recipe_in(place, "on_policy_kd", AUTO, accumulated, *more))
    state = torch.get_rng_state()
    found = rollout_engine_for(prepared, CPU)
    assert found is not None and found.seconds[found.name] == min(found.seconds.values())
    assert len(refreshed) >= 2 and torch.equal(state, torch.get_rng_state())
    assert found.num_sequences % samples == 0 and found.num_sequences > 2 * samples
    assert f"{found.num_sequences} sequences" in str(found) and str(found).count(" s") >= 2


def test_dry_runs_and_benches_say_what_auto_means_here(
    place: Path, faster: Callable[[str | None], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster("transformers")
    said = dict(plan(recipe_in(place, "on_policy_kd", AUTO)).lines())["rollouts by"]
    assert "transformers, the faster" in said and "1 s, ctranslate2 2.5 s" in said
    assert "rollouts by" not in dict(plan(recipe_in(place, "on_policy_kd")).lines())
    for part in ("steps", "labelling", "loss"):
        monkeypatch.setattr(benching._Bench, part, lambda _bench: [])
    monkeypatch.setattr(benching, "_SECONDS", {"writing": 0.0})
    monkeypatch.setattr(benching, "_MOST", 4)
    screen = Screen()
    found = benching.bench(recipe_in(place, "on_policy_kd", AUTO), progress=screen)
    assert any("rollouts by transformers, the faster" in line for line in screen.lines)
    measured: Any = found.to_json()["rollout_engine"]
    assert measured["seconds"] == {"ctranslate2": 2.5, "transformers": 1.0}
