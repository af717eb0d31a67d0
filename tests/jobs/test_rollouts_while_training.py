"""Students that sample while they train, and what a run notes: samples, metrics, trackers."""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.jobs.runs import (
    folder_for,
    losses,
    recipe_in,
    student_of,
    trained,
)
from tests.sources.writing import batched
from tests.tiny import tiny_model

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.core.errors import UserError
from seqdistill.core.origins import Origin
from seqdistill.jobs.logs import RolloutLog, check_trackers, trackers_started
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion
from seqdistill.training.processes import make_accelerator


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_ctranslate2_writes_with_the_weights_of_each_update(tmp_path: Path, kind: str) -> None:
    place = folder_for(tmp_path, kind)
    engine = "sequences.rollouts.engine=ctranslate2"
    rows: list[dict[str, Any]] = trained(recipe_in(place, "on_policy_kd", engine)).read_metrics()
    written = [row for row in rows if "completion_length" in row]
    assert len(written) == 4
    assert all(row["refresh_seconds"] > 0.0 and row["completion_length"] > 0 for row in written)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("gkd", ("training.gradient_accumulation_steps=2",)),
        ("adaptive_gkd", ("sequences.mixture.coin=example",)),
        ("distillm", ()),
        ("minillm", ()),
        ("on_policy_kd", ("student.lora.rank=2",)),
        (
            "near_policy",
            (
                "sequences.near_policy.sync_every=3",
                "training.batch_tokens=50",
                "student.lora.rank=2",
            ),
        ),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    place: Path, method: str, given: tuple[str, ...]
) -> None:
    recipe = recipe_in(place, method, *given)
    run = trained(recipe)

    def found() -> list[object]:
        moved = [(row.get("student_fraction"), row.get("beta")) for row in run.read_metrics()]
        return [losses(run), moved, run.read_rollouts()]

    whole, student = found(), student_of(run)
    # As a kill after update 3 leaves it: the state of update 2, and metrics beyond it.
    last = run.checkpoints_path / "checkpoint-4"
    for folder in (last, run.student_path):
        shutil.rmtree(folder)
    trained(recipe, resume=True)
    assert last.is_dir() and found() == whole
    again = student_of(run)
    assert all(torch.equal(tensor, again[name]) for name, tensor in student.items())


@pytest.mark.parametrize(
    ("method", "origin"), [("on_policy_kd", "student"), ("minillm", "teacher_mixed")]
)
def test_what_rollouts_were_like_is_logged_and_some_are_kept(
    place: Path, method: str, origin: str
) -> None:
    run = trained(recipe_in(place, method))
    row: dict[str, Any] = run.read_metrics()[0]
    for name in (
        "completion_length",
        "eos_rate",
        "cut_fraction",
        "generation_tokens_per_second",
        "student_entropy",
        "teacher_reverse_kl",
    ):
        assert math.isfinite(row[name]), name
    assert 1.0 <= row["completion_length"] <= 8.0
    assert 0.0 < row["student_entropy"] < math.log(40) and row["teacher_reverse_kl"] > 0.0
    kept: list[dict[str, Any]] = run.read_rollouts()
    assert {row["step"] for row in kept} == {1, 3}
    assert {row["origin"] for row in kept} == {origin}
    assert all(row["tokens"] <= 8 and row["prompt"] for row in kept)


@pytest.mark.parametrize("kind", ["mbart", "llama"])
def test_a_lora_student_is_stored_whole_and_as_adapters(tmp_path: Path, kind: str) -> None:
    place = folder_for(tmp_path, kind)
    recipe = recipe_in(place, "on_policy_kd", "student.lora.rank=2", "training.learning_rate=0.05")
    run = trained(recipe)
    before, after = tiny_model(kind, seed=8).state_dict(), student_of(run)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.endswith("weight") for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A recipe that wants to see something of every third update."""
    place = folder_for(tmp_path_factory.mktemp("place"), "mbart")
    return prepare(recipe_in(place, "gkd", "sequences.rollouts.samples_every=3"))


def written(prepared: Prepared, writer: Origin, prompts: Sequence[int]) -> list[Completion]:
    """A sequence for each of the prompts, which may come again."""
    return [Completion(prepared.train[prompt], writer) for prompt in prompts]


def kept(run: RunDirectory) -> list[tuple[Any, Any, Any]]:
    run.close()
    return [(row["step"], row["origin"], row["id"]) for row in run.read_rollouts()]


@pytest.mark.parametrize("writer", ["student", "teacher_mixed"])
def test_where_the_coin_falls_to_references_the_log_waits_for_the_student(
    prepared: Prepared, tmp_path: Path, writer: Origin
) -> None:
    run = RunDirectory(tmp_path)
    log = RolloutLog(prepared, run)
    ids = [example.id for example in prepared.train]
    by_others = written(prepared, "reference", [0, 1]) + written(prepared, "teacher", [2])
    log(1, batched(by_others))
    assert kept(run) == []
    log(2, batched(by_others + written(prepared, writer, [3, 4])))
    expected = [(2, writer, ids[3]), (2, writer, ids[4])]
    assert kept(run) == expected
    for update in (2, 3):  # another micro-batch, another update of the same three
        log(update, batched(written(prepared, writer, [5])))
    assert kept(run) == expected
    log(4, batched(by_others))
    log(6, batched(by_others))
    log(
        9, batched(written(prepared, writer, [6]))
    )  # nobody is late twice: the next three begin at 10
    log(10, batched(written(prepared, writer, [7])))
    assert kept(run) == [*expected, (9, writer, ids[6]), (10, writer, ids[7])]


@pytest.mark.parametrize("resumed_at", range(1, 11))
def test_a_log_that_is_resumed_keeps_the_same(
    prepared: Prepared, tmp_path: Path, resumed_at: int
) -> None:
    def hear(log: RolloutLog, first: int, last: int) -> None:
        for update in range(first, last + 1):
            writer: Origin = "student" if update in (2, 3, 8, 10) else "reference"
            log(update, batched(written(prepared, writer, [update])))

    whole, part = (RunDirectory.create(tmp_path / name) for name in ("whole", "part"))
    hear(RolloutLog(prepared, whole), 1, 10)
    assert [step for step, _, _ in kept(whole)] == [2, 8, 10]
    log = RolloutLog(prepared, part)
    hear(log, 1, resumed_at)
    logs = part.logs_so_far()
    hear(log, resumed_at + 1, min(10, resumed_at + 2))
    again = RolloutLog(prepared, part)
    part.go_back_to(logs)
    hear(again, resumed_at + 1, 10)
    assert kept(part) == kept(whole)


def test_several_samples_of_a_prompt_leave_room_for_other_prompts(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    ids = [example.id for example in prepared.train]
    log = RolloutLog(prepared, run)
    log(1, batched(written(prepared, "student", [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])))
    log(4, batched(written(prepared, "student", [n // 4 for n in range(24)])))
    log(7, batched(written(prepared, "student", [5] * 8)))
    names = [name for _, _, name in kept(run)]
    assert names == [*ids[:3], ids[0], *ids[:4], *[ids[5]] * 4]


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(["wandb"])


def test_tensorboard_gets_the_numbers_in_the_run_directory(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    folder = run.tensorboard_path
    accelerator: Accelerator = make_accelerator(
        "auto", on_cpu=True, trackers=["tensorboard"], folder=folder
    )
    before = dict(os.environ)
    with trackers_started(accelerator, Recipe(), run):
        for step in (10, 20):
            accelerator.log({"loss_nats": step / 8}, step=step)
    assert dict(os.environ) == before
    (events,) = [path for path in run.path.rglob("*") if path.is_file()]
    assert socket.gethostname() not in events.name
    read = EventAccumulator(str(events.parent)).Reload()
    found = [(event.step, event.value) for event in read.Scalars("loss_nats")]
    assert found == [(10, 1.25), (20, 2.5)]
    accelerator.log({"loss_nats": 1.0}, step=30)  # nobody listens any more
