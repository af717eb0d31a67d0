"""The two tasks of the experiment: data, teacher, student sizes, budgets, and the rates tried.

Everything that a row depends on besides its method and seed stands here. Trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from experiments.shapes import Settings, Size

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
    settings: Settings
    """What all recipes of the task share."""
    large: Size
    """The student of every row."""
    small: Size
    """The student of the four main rows (of every row where cells are cheap)."""
    budgets: Mapping[str, Budget]
    """By the size's name."""
    interpolation_examples: int
    """How many training sources the K = 35 hypotheses are decoded for."""
    seeds: tuple[int, ...]
    """Of the main rows of the large student."""
    small_seeds: tuple[int, ...]
    """Of the rows of the small student."""
    all_rows_everywhere: bool
    """Whether the small size and the further seeds have every row, not just the main ones."""
    curve_sizes: tuple[Size, ...]
    """More student sizes, for a curve; each method chooses its rate for each of them."""
    curve_updates: tuple[int, ...]
    """More lengths of training of the small student, for a curve."""
    trained_longer: Size
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


_G2P_BUDGET = Budget(
    updates=1500,
    grid_updates=1500,
    rates=(2e-3, 4e-3, 8e-3, 1.6e-2),
    fine_tuning_updates=300,
    fine_tuning_rates=(3e-4, 1e-3),
    retraining_updates=750,
    retraining_rates=(2e-3, 4e-3, 8e-3),
)
_G2P_CURVE_BUDGET = dataclasses.replace(
    _G2P_BUDGET,
    # The lowest of the other sizes' rates was the worst of each of their grids.
    rates=(4e-3, 8e-3, 1.6e-2),
)
_G2P_DATA = ROOT / "g2p" / "data"
G2P = Task(
    name="g2p",
    teacher="experiments/kim_rush/teachers/g2p",
    settings={
        "data.train": str(_G2P_DATA / "train.tsv"),
        "data.dev": str(_G2P_DATA / "dev.tsv"),
        "data.test": str(_G2P_DATA / "test.tsv"),
        "data.max_source_tokens": 48,
        "data.max_target_tokens": 48,
        "sequences.decoding.max_new_tokens": 48,
        "sequences.decoding.batch_tokens": 2048,
        "training.batch_tokens": 1500,
        "training.precision": "fp32",
        "training.warmup_steps": 200,
        "training.eval_every": 500,
        "training.eval_metric": "token_error_rate",
        "training.trackers": [],
        "evaluation.metrics": ["sequence_error_rate", "token_error_rate", "bleu"],
        "evaluation.max_new_tokens": 48,
    },
    large=Size(64, 2, 2),
    small=Size(32, 1, 1),
    budgets={
        **dict.fromkeys(("64x2+2", "32x1+1"), _G2P_BUDGET),
        **dict.fromkeys(("16x1+1", "48x1+1", "96x2+2"), _G2P_CURVE_BUDGET),
    },
    interpolation_examples=40_000,
    seeds=(1, 2, 3, 4, 5),
    small_seeds=(1, 2, 3, 4, 5),
    all_rows_everywhere=True,
    curve_sizes=(Size(16, 1, 1), Size(48, 1, 1), Size(96, 2, 2)),
    curve_updates=(375, 750, 3000, 6000),
    trained_longer=Size(64, 2, 2),
    dev_score="token_error_rate",
    lower_is_better=True,
)

EN_DE = Task(
    name="en-de",
    teacher="bundled:en-de",
    settings={
        "data.train": "bundled:en-de",
        "data.dev": str(ROOT / "en-de" / "data" / "dev.jsonl"),
        "data.test": "bundled:en-de",
        "training.batch_tokens": 3000,
        "training.precision": "bf16",
        "training.warmup_steps": 200,
        "training.eval_every": 600,
        # Smoother than BLEU where BLEU is still small.
        "training.eval_metric": "chrf",
        "training.checkpoint_every": 200,
        "training.trackers": [],
    },
    large=Size(128, 2, 2),
    small=Size(64, 2, 2),
    budgets={
        "128x2+2": Budget(
            updates=2400,
            grid_updates=400,
            rates=(1e-3, 2e-3, 4e-3),
            fine_tuning_updates=300,
            fine_tuning_rates=(1e-4, 3e-4),
            retraining_updates=800,
            retraining_rates=(2e-3, 4e-3, 8e-3),
        ),
        "64x2+2": Budget(
            updates=2400,
            grid_updates=400,
            rates=(2e-3, 4e-3, 8e-3),
            fine_tuning_updates=300,
            fine_tuning_rates=(1e-4, 3e-4),
            retraining_updates=800,
            retraining_rates=(2e-3, 4e-3, 8e-3),
        ),
    },
    interpolation_examples=20_000,
    seeds=(1, 2, 3),
    small_seeds=(1,),
    all_rows_everywhere=False,
    curve_sizes=(),
    curve_updates=(),
    # The large one would take twice as many hours.
    trained_longer=Size(64, 2, 2),
    dev_score="chrf",
    lower_is_better=False,
)

TASKS = {task.name: task for task in (G2P, EN_DE)}
