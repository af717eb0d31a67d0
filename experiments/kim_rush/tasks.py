"""The two tasks of the experiment, which are in tasks.yaml: what is said of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.shapes import NamedSize, read_tasks

ROOT = Path("runs/kim_rush")
"""Where data, teachers and students of the experiment lie; never committed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long one student of a size is trained, and the rates that each method may choose from."""

    updates: int
    """Of every student trained from random weights."""
    grid_updates: int
    """Of the runs that choose the rate: the whole length, or less where that costs hours."""
    rates: tuple[float, ...]
    """Peak rates tried for each method on dev."""
    fine_tuning_updates: int
    """Of every Seq-Inter stage."""
    fine_tuning_rates: tuple[float, ...]
    """Peak rates tried for each Seq-Inter stage."""
    retraining_updates: int
    """Of a student after pruning."""
    retraining_rates: tuple[float, ...]
    """Peak rates tried after pruning."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, teacher and students of one of the two tables."""

    name: str
    teacher: str
    """Folder or `bundled:` name."""
    settings: dict[str, Any]
    """What all recipes of the task share."""
    large: NamedSize
    """The student of every row."""
    small: NamedSize
    """The student of the four main rows (of every row where cells are cheap)."""
    budgets: dict[str, Budget]
    """By the size's name."""
    interpolation_examples: int
    """How many training sources the K = 35 hypotheses are decoded for."""
    seeds: tuple[int, ...]
    """Of the main rows of the large student."""
    small_seeds: tuple[int, ...]
    """Of the rows of the small student."""
    all_rows_everywhere: bool
    """Whether the small size and the further seeds have every row, not just the main ones."""
    curve_sizes: tuple[NamedSize, ...]
    """More student sizes, for a curve; each method chooses its rate for each of them."""
    curve_updates: tuple[int, ...]
    """More lengths of training of the small student, for a curve."""
    trained_longer: NamedSize
    """The student that is also trained several times as long, undistilled and by Seq-KD."""
    dev_score: str
    """What chooses rates and checkpoints, by greedy decoding of dev."""
    lower_is_better: bool
    """Whether a lower `dev_score` is better."""

    @property
    def folder(self) -> Path:
        """Where its data, corpora and students lie."""
        return ROOT / self.name

    @property
    def interpolation_sources(self) -> Path:
        """The file with the training examples whose K = 35 hypotheses are decoded."""
        return self.folder / "data" / "interpolation.jsonl"

    def corpus(self, name: str) -> Path:
        """The folder of a teacher corpus, `beam-5` or `best-35`."""
        return self.folder / "corpora" / name


TASKS = read_tasks(Path(__file__).with_suffix(".yaml"), Task)
G2P, EN_DE = TASKS["g2p"], TASKS["en-de"]
