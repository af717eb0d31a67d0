"""A cell of the experiment: one student, with all its settings, and who it starts from.

Trains nothing; `plan` tells which cells there are.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from experiments.gkd.methods import PLAIN, Method
from experiments.gkd.tasks import Task

Experiment = Literal[
    "teacher",
    "initial",
    "learning_rates",
    "main",
    "data",
    "wall_clock",
    "reward",
    "follow_up",
    "later_initial",
    "later_rates",
    "later",
]
STARTS: tuple[Experiment, ...] = ("initial", "later_initial")
"""The supervised students that others start from: those of the tables, and those of `later`."""
RATES: tuple[Experiment, ...] = ("learning_rates", "later_rates")
"""Cells that choose a rate, of the students that begin from the same of `STARTS`."""
_DEV_SCORES = 3
"""How often a student is scored on dev; the best of these checkpoints is kept."""
INITIAL = dataclasses.replace(PLAIN["supervised_ft"], name="initial")
"""How the students are trained that all others start from."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student to train and measure; or the teacher, to measure."""

    task: Task
    experiment: Experiment
    method: Method
    seed: int
    updates: int
    learning_rate: float
    start: str | None = None
    """The digest of the training of the supervised student that it starts from; None where from
    random weights."""
    data_share: float = 1.0
    """Of the training inputs."""
    teacher_weight: float | None = None
    """Alpha, where it is rewarded."""

    @property
    def measured(self) -> bool:
        """Whether the test set is decoded; cells that choose a rate are scored on dev alone."""
        return self.experiment not in RATES

    @property
    def name(self) -> str:
        """What finds its row again."""
        parts = [self.experiment, self.method.name, f"seed{self.seed}"]
        if not self.measured:
            parts.append(f"rate{self.learning_rate:g}")
        if self.data_share < 1.0:
            parts.append(f"data{self.data_share:g}")
        if self.teacher_weight is not None and self.measured:
            parts.append(f"alpha{self.teacher_weight:g}")
        return "/".join(parts)

    @property
    def settings(self) -> dict[str, object]:
        """Keys of the recipe and their values, but for where it is written and starts from."""
        task, updates = self.task, self.updates
        settings = {**task.settings, **self.method.settings}
        if not self.method.reads_teacher_corpus:
            decoding = "sequences.decoding."
            settings = {k: v for k, v in settings.items() if not k.startswith(decoding)}
        else:
            settings["sequences.corpus"] = str(task.teacher_corpus)
            settings["data.train"] = task.labelled_inputs
        if self.method.writes:
            settings |= task.rollouts
        settings |= self._length(updates)
        if self.data_share < 1.0:
            settings["data.max_train_examples"] = round(self.data_share * task.num_train)
        if self.experiment in STARTS:
            settings |= task.student
        return {
            **settings,
            "method": self.method.name,
            "seed": self.seed,
            "teacher.model": task.teacher,
            "training.threads": 1,
            "training.steps": updates,
            "training.learning_rate": self.learning_rate,
        }

    def _length(self, updates: int) -> dict[str, object]:
        """A supervised student warms up as its task says; what follows it, for a tenth."""
        if self.experiment in STARTS:
            return {}
        return {
            "training.warmup_steps": max(1, updates // 10),
            "training.eval_every": math.ceil(updates / _DEV_SCORES),
        }

    @property
    def trained(self) -> tuple[str, ...]:
        """What it trains: two cells with the same may not run at once."""
        rate = f"{self.learning_rate:g}"
        what = (self.method.name, self.seed, self.updates, rate, self.data_share)
        return (" ".join(str(part) for part in (*what, self.teacher_weight)),)


def run_folder(task: Task, method: str, seed: int, training: str) -> Path:
    """The run directory of the training with that digest; cells that train the same share it."""
    return task.folder / "cells" / f"{method}-seed{seed}-{training}"
