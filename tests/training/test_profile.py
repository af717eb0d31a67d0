"""The profile of a training: phases that add up, padding as it was, both over a resume."""

from __future__ import annotations

import itertools
import json
import time
import types
from pathlib import Path

import pytest
from tests.training.small import Recorder, make_loop, scripted, stored, student

from seqdistill.core.phases import PREFIX


def whole(profile: dict[str, float]) -> float:
    return sum(value for key, value in profile.items() if key.startswith(PREFIX))


def test_phases_add_up_to_the_time_that_the_training_took(tmp_path: Path) -> None:
    metrics = Recorder()
    loop = make_loop(
        tmp_path,
        student(),
        metrics=metrics,
        score_dev=scripted([1.0, 2.0], lambda _model: time.sleep(0.05)),
        eval_every=3,
    )
    began = time.perf_counter()
    loop.run(resume=False)
    took = time.perf_counter() - began
    names = {"data", "teacher", "forward_loss", "backward", "optimizer", "evaluation", "checkpoint"}
    last = metrics.profiles[-1]
    assert last.keys() == {"step", *(PREFIX + name for name in (*names, "other"))}
    assert last["seconds_evaluation"] >= 0.1
    # Nothing but the start of `run` and its end, which loads the best student, is beside it.
    assert 0.7 * took < whole(last) <= took + 0.005
    for before, after in itertools.pairwise(metrics.profiles):
        assert all(after[key] >= value for key, value in before.items())
    steps = whole(last) - last["seconds_evaluation"] - last["seconds_checkpoint"]
    assert steps >= metrics.rows[-2]["seconds"] - 0.005, "of the updates alone"


def test_padding_is_what_the_masks_say_of_all_batches(tmp_path: Path) -> None:
    metrics, source = Recorder(), stored()
    padded = positions = 0
    for _ in range(2 * 6):
        batch = source.next_batch()
        assert batch.source is not None
        for mask in (batch.decoder_mask, batch.source.mask):
            padded += int((~mask).sum())
            positions += mask.numel()
    make_loop(tmp_path, student(), metrics=metrics, gradient_accumulation_steps=2).run(resume=False)
    assert 0 < padded < positions
    assert metrics.rows[-1]["padded_fraction"] == padded / positions


def test_a_resumed_run_goes_on_from_the_seconds_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("seqdistill.core.phases.time", clock)
    metrics = Recorder(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        make_loop(tmp_path, student(), metrics=metrics, checkpoint_every=2).run(resume=False)
    state = json.loads((tmp_path / "checkpoint-4" / "state.json").read_text("utf-8"))
    (at_four,) = (row for row in metrics.profiles if row["step"] == 4)
    logged = {key.removeprefix(PREFIX): value for key, value in at_four.items() if key != "step"}
    assert state["phases"].keys() == logged.keys()
    assert all(seconds >= logged[name] for name, seconds in state["phases"].items())
    metrics.stop_at = None
    make_loop(tmp_path, student(), metrics=metrics, checkpoint_every=2).run(resume=True)
    update = {name: seconds / 4 for name, seconds in logged.items()}  # a tick a phase and update
    (at_five,) = (row for row in metrics.profiles if row["step"] == 5 and row is not at_four)
    for name in ("data", "teacher", "forward_loss", "backward", "optimizer"):
        found = at_five[PREFIX + name]
        assert found == state["phases"][name] + update[name], name
