"""Interrupted or killed anywhere around a dev score, a resumed run equals an uninterrupted one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import random_examples
from tests.training.small import ListedBatches, Recorder, make_loop, same, student, weights
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.training import loop as loop_module
from seqdistill.training.checkpoint import BestStudents, save_state, saved_states
from seqdistill.training.loop import TrainingResult


class Killed(BaseException):
    """What cannot be handled: nothing is written after it."""


class ScoreReader(ListedBatches):
    """Its next batch depends on every dev score it was told."""

    def __init__(self) -> None:
        examples = random_examples(40)
        super().__init__([examples[i : i + 2] for i in range(0, 40, 2)])
        self.heard = 0.0

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        self.heard = 7 * self.heard + scores["bleu"]

    def next_batch(self) -> SequenceBatch:
        self._next = int(13 * self._next + self.heard) % 20
        return super().next_batch()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "heard": self.heard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.heard = state["heard"]


def score_dev(model: Any) -> Mapping[str, float]:
    """Hangs on the weights, and draws from the random numbers of dropout."""
    drawn = float(torch.rand(()))
    total = sum(float(p.detach().double().sum()) for p in model.parameters())
    return {"bleu": float(round(abs(total) * 1000 + 5 * drawn) % 11), "chrf": drawn}


CASES: dict[str, dict[str, Any]] = {
    "often": {"eval_every": 1, "checkpoint_every": 1},
    "rarely saved": {"eval_every": 2, "checkpoint_every": 3, "keep_best": 2},
    "never saved": {"eval_every": 3, "average_best": True, "keep_best": 2},
    "stopping": {"eval_every": 1, "checkpoint_every": 2, "patience": 2},
}


def train(folder: Path, metrics: Recorder, case: str, *, resume: bool) -> tuple[Any, Any, Any]:
    """The weights, the result without seconds, and the metrics without timings."""
    # A student that is put back from a state may have started from anything.
    model = student(dropout=0.3, seed=1 if saved_states(folder) else 0)
    source = ScoreReader()
    loop = make_loop(
        folder, model, source=source, metrics=metrics, score_dev=score_dev, **CASES[case]
    )
    result: TrainingResult = loop.run(resume=resume)
    counted = (result.updates, result.tokens, result.best, result.stopped_early, source.heard)
    return weights(model), counted, metrics.without_timings


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        case: train(tmp_path_factory.mktemp("whole"), Recorder(), case, resume=False)
        for case in CASES
    }


def stopping(
    real: Callable[..., Any], error: BaseException, *, call: int, after: bool
) -> Callable[..., Any]:
    """The function, which at its n-th call raises before or after it does its work."""
    calls = itertools.count(1)

    def stopped(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            raise error
        found = real(*args, **kwargs)
        if now:
            raise error
        return found

    return stopped


WINDOWS: dict[str, tuple[Any, str]] = {
    "scoring": (sys.modules[__name__], "score_dev"),
    "logging": (Recorder, "log_metrics"),
    "keeping the best": (BestStudents, "offer"),
    "telling the source": (ScoreReader, "dev_scored"),
    "saving": (loop_module, "save_state"),
    "cleaning": (BestStudents, "clean"),
    "restoring": (BestStudents, "restore"),
}


def moments() -> Iterator[Any]:
    kinds: Iterator[Any] = itertools.cycle(
        itertools.product((KeyboardInterrupt, Killed), ((1, False), (2, True), (3, False)))
    )
    for window, case in itertools.product(WINDOWS, CASES):
        kind, (call, after) = next(kinds)
        name = f"{window}-{case}-{kind.__name__}-{call}-{'after' if after else 'before'}"
        yield pytest.param(window, case, call, after, kind, id=name)


@pytest.mark.parametrize(("window", "case", "call", "after", "kind"), moments())
def test_a_run_stopped_at_any_moment_ends_the_same(
    window: str,
    case: str,
    call: int,
    after: bool,
    kind: type[BaseException],
    uninterrupted: dict[str, tuple[dict[str, Tensor], Any, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics, error = Recorder(), kind()
    owner, name = WINDOWS[window]
    with monkeypatch.context() as patch:
        if kind is Killed:  # a process that is gone saves nothing on its way out
            real = save_state
            patch.setattr(
                loop_module,
                "save_state",
                lambda *args, **kwargs: None if gone(error) else real(*args, **kwargs),
            )
        stop = stopping(getattr(owner, name), error, call=call, after=after)
        patch.setattr(owner, name, stop)
        try:
            found = train(tmp_path, metrics, case, resume=False)
        except (KeyboardInterrupt, Killed):
            found = None
    if found is None:
        torch.rand(100)  # whatever the next process does before it resumes
        found = train(tmp_path, metrics, case, resume=True)
    expected = uninterrupted[case]
    assert same(found[0], expected[0])
    assert found[1:] == expected[1:]


def gone(error: BaseException) -> bool:
    """Whether it was raised."""
    return error.__traceback__ is not None
