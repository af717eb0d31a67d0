"""The four tasks of the experiment, which are in tasks.yaml: what is said of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.shapes import NamedSize, read_tasks

ROOT = Path("runs/gkd")
"""Where data, corpora and students of the experiment lie; never committed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long students are trained, and the rates that each method may choose from on dev."""

    initial_updates: int
    """Of the supervised student that every other student starts from."""
    initial_rate: float
    """Its peak rate."""
    updates: int
    """Of every student after it, whatever its method: of the runs that choose rates, too."""
    rates: tuple[float, ...]
    rate_factor: float
    """By how much further rates lie beyond the ends of those."""
    more_rates: int
    """How many further ones are tried at most."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, teacher and student of one task."""

    name: str
    teacher: str
    """Folder or `bundled:` name."""
    teacher_corpus: Path
    """The teacher's beam outputs for the training sources."""
    num_train: int
    """Training inputs, of which `data_shares` are parts."""
    settings: dict[str, Any]
    """What all recipes of the task share."""
    rollouts: dict[str, Any]
    """What recipes say more where the student generates."""
    budget: Budget
    grid: Literal["full", "key", "ends"]
    """The divergences and fractions of the student that are tried."""
    seeds: tuple[int, ...]
    """Of the main rows."""
    further_seeds: tuple[int, ...]
    """Of the rows for data efficiency, equal time and rewards."""
    metric: str
    """The main one of `evaluation.metrics`, greedily decoded: what a row's `value` is."""
    dev_score: str
    """What chooses rates and checkpoints, by greedy decoding of dev."""
    lower_is_better: bool
    """Whether lower values of `metric` and `dev_score` are better."""
    student: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What every student is made of, before it is trained."""
    scratch: NamedSize | None = None
    """Its size, where it starts from random weights."""
    follow_up_seeds: tuple[int, ...] = ()
    """Of the students that are trained for longer."""
    later_seeds: tuple[int, ...] = ()
    """Of the students that start from one that was supervised for longer; its first is the first of
    `seeds`."""
    data_shares: tuple[float, ...] = ()
    """Parts of the training inputs that on-policy and supervised students make do with."""
    teacher_weights: tuple[float, ...] = ()
    """Alpha of the students that are rewarded, too; none where nothing is."""
    further_tests: dict[str, str] = dataclasses.field(default_factory=dict)
    """More test sets, by the name that their columns get."""
    num_labelled: int | None = None
    """Of how many training inputs the teacher generates outputs, for SeqKD; None: all."""

    @property
    def first_weights(self) -> dict[str, Any]:
        """The settings that say what students are before they are trained."""
        if self.scratch is None:
            return self.student
        return {"student.init": "scratch", "student.architecture": self.scratch.architecture}

    @property
    def folder(self) -> Path:
        """Where its data, corpora and students lie."""
        return ROOT / self.name

    @property
    def labelled_inputs(self) -> str:
        """What `data.train` of SeqKD is: the inputs whose outputs the teacher generates."""
        if self.num_labelled is None:
            return str(self.settings["data.train"])
        return str(self.folder / "data" / "labelled.jsonl")


TASKS = read_tasks(Path(__file__).with_suffix(".yaml"), Task)
G2P, ARITHMETIC, EN_DE, SUMMARIES = TASKS.values()
