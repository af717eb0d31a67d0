"""Where metrics go: trackers get the numbers of the run, and keep to its folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqdistill.core.errors import UserError
from seqdistill.jobs.trackers import check_trackers, trackers_started
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory
from seqdistill.training.processes import make_accelerator


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
