"""The four tasks of the experiment: data, teacher, student, budget, and which cells each has.

Everything that a row depends on besides its method and seed stands here. Trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from experiments.gkd.methods import FULL_GRID, KEY_GRID, GridPoint
from experiments.kim_rush.tasks import EN_DE as TRANSLATION
from experiments.kim_rush.tasks import G2P as PHONEMES
from experiments.shapes import Settings, Size

ROOT = Path("runs/gkd")
"""Where data, corpora and students of the experiment lie; never committed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long students are trained, and the rates that each method may choose from."""

    initial_updates: int
    """Of the supervised student that every other student starts from."""
    initial_rate: float
    """Its peak rate."""
    updates: int
    """Of every student after it, whatever its method: of the runs that choose rates, too."""
    rates: tuple[float, ...]
    """Peak rates tried for each method on dev."""
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
    settings: Settings
    """What all recipes of the task share."""
    student: Settings
    """What every student is made of, before it is trained."""
    rollouts: Settings
    """What recipes say more where the student writes."""
    budget: Budget
    grid: tuple[GridPoint, ...]
    """The divergences and shares of the student that are tried."""
    seeds: tuple[int, ...]
    """Of the main rows."""
    further_seeds: tuple[int, ...]
    """Of the rows for data efficiency, equal time and rewards."""
    follow_up_seeds: tuple[int, ...]
    """Of the students that are trained for longer."""
    later_seeds: tuple[int, ...]
    """Of the students that start from one that was supervised for longer; its first is the first of
    `seeds`."""
    data_shares: tuple[float, ...]
    """Parts of the training inputs that on-policy and supervised students make do with."""
    teacher_weights: tuple[float, ...]
    """Alpha of the students that are rewarded, too; none where nothing is."""
    metric: str
    """The main one of `evaluation.metrics`, greedily decoded: what a row's `value` is."""
    dev_score: str
    """What chooses rates and checkpoints, by greedy decoding of dev."""
    lower_is_better: bool
    """Whether lower values of `metric` and `dev_score` are better."""
    further_tests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """More test sets, by the name that their columns get."""
    num_labelled: int | None = None
    """Of how many training inputs the teacher writes outputs, for SeqKD to read; None: all."""

    @property
    def folder(self) -> Path:
        """Where its data, corpora and students lie."""
        return ROOT / self.name

    @property
    def labelled_inputs(self) -> str:
        """What `data.train` of SeqKD is: the inputs whose outputs the teacher writes."""
        if self.num_labelled is None:
            return str(self.settings["data.train"])
        return str(self.folder / "data" / "labelled.jsonl")


def _from_scratch(architecture: Mapping[str, str | int | float | bool]) -> Settings:
    """A student of that transformers configuration, with random weights."""
    return {"student.init": "scratch", "student.architecture": dict(architecture)}


_SAMPLED: Settings = {
    "evaluation.sampling_temperatures": [0.3, 1.0],
    "evaluation.samples_per_source": 4,
}
_G2P_DATA = ROOT / "g2p" / "data"
G2P = Task(
    name="g2p",
    teacher=PHONEMES.teacher,
    teacher_corpus=PHONEMES.corpus("beam-5"),
    num_train=113_893,
    settings={
        **PHONEMES.settings,
        **{f"data.{split}": str(_G2P_DATA / f"{split}.tsv") for split in ("train", "dev", "test")},
        **_SAMPLED,
    },
    student=_from_scratch(PHONEMES.large.architecture),
    rollouts={
        "sequences.rollouts.max_new_tokens": 48,
        # 6,000 tokens a second where transformers samples 2,500.
        "sequences.rollouts.engine": "ctranslate2",
    },
    budget=Budget(
        initial_updates=1500,
        initial_rate=1.6e-2,
        # 0.15 to 0.2 CPU-seconds an update: three to four core-hours for the task, and as many
        # from later starts.
        updates=250,
        rates=(2e-3, 5e-3),
        rate_factor=2.5,
        more_rates=1,
    ),
    grid=FULL_GRID,
    seeds=(1, 2, 3, 4, 5),
    further_seeds=(1, 2, 3),
    follow_up_seeds=(1, 2, 3),
    later_seeds=(1, 2, 3),
    data_shares=(0.05, 0.25),
    teacher_weights=(),
    metric="sequence_error_rate",
    dev_score="token_error_rate",
    lower_is_better=True,
)

ARITHMETIC = Task(
    name="arithmetic",
    teacher="bundled:arithmetic",
    teacher_corpus=ROOT / "arithmetic" / "corpora" / "beam-5",
    num_train=24_000,
    # More than twice what a training reads; beam search takes 15 CPU-seconds a hundred.
    num_labelled=6_144,
    settings={
        "data.train": "bundled:arithmetic",
        "data.dev": "bundled:arithmetic",
        "data.test": "bundled:arithmetic",
        # Of either test set 500: with all that is sampled, a student's outputs are 350,000 tokens.
        "data.max_test_examples": 500,
        "data.max_source_tokens": 128,
        "data.max_target_tokens": 120,
        "sequences.decoding.max_new_tokens": 128,
        "training.batch_tokens": 2000,
        "training.precision": "fp32",
        "training.warmup_steps": 100,
        "training.eval_every": 500,
        "training.eval_metric": "answer_accuracy",
        "training.trackers": [],
        "evaluation.metrics": ["answer_accuracy"],
        "evaluation.calculator": True,
        "evaluation.max_new_tokens": 128,
        "evaluation.beam_size": 2,
        "evaluation.sampling_temperatures": [1.0],
        "evaluation.samples_per_source": 2,
    },
    student={"student.init": "teacher_layers", "student.decoder_layers": 2},
    rollouts={
        "sequences.rollouts.max_new_tokens": 128,
        "sequences.rollouts.engine": "ctranslate2",
    },
    budget=Budget(
        initial_updates=1000,
        initial_rate=2e-3,
        # About half a CPU-second an update with lambda 0, one with 1.
        updates=120,
        rates=(3e-4, 1e-3),
        rate_factor=10 / 3,
        more_rates=0,
    ),
    grid=FULL_GRID,
    seeds=(1, 2, 3),
    further_seeds=(1, 2, 3),
    follow_up_seeds=(1, 2, 3),
    later_seeds=(),
    data_shares=(0.05, 0.25),
    teacher_weights=(),
    metric="answer_accuracy",
    dev_score="answer_accuracy",
    lower_is_better=False,
    further_tests={"new_templates": "bundled:arithmetic/new-templates"},
)

EN_DE = Task(
    name="en-de",
    teacher=TRANSLATION.teacher,
    teacher_corpus=ROOT / "en-de" / "corpora" / "beam-5",
    num_train=79_050,
    num_labelled=8_000,
    settings={
        **TRANSLATION.settings,
        "data.dev": str(ROOT / "en-de" / "data" / "dev.jsonl"),
        "data.max_test_examples": 1000,
        "training.batch_tokens": 1500,
        "training.precision": "fp32",
        "evaluation.sampling_temperatures": [1.0],
        "evaluation.samples_per_source": 2,
    },
    # The teacher was trained to do without some of its layers.
    student={
        "student.init": "teacher_layers",
        "student.encoder_layers": 2,
        "student.decoder_layers": 1,
    },
    rollouts={
        "sequences.rollouts.max_new_tokens": 96,
        "sequences.rollouts.engine": "ctranslate2",
    },
    budget=Budget(
        initial_updates=600,
        initial_rate=1e-3,
        # 1.5 CPU-seconds an update with lambda 0, 2.6 with 1: four to five core-hours for the task.
        updates=120,
        # An eighth and half of the rate before: what the other tasks were found to prefer.
        rates=(1.25e-4, 5e-4),
        rate_factor=10 / 3,
        more_rates=0,
    ),
    grid=KEY_GRID,
    seeds=(1, 2, 3),
    further_seeds=(1, 2, 3),
    follow_up_seeds=(),
    later_seeds=(),
    data_shares=(),
    teacher_weights=(),
    metric="bleu",
    dev_score="chrf",
    lower_is_better=False,
)

SUMMARIES = Task(
    name="summaries",
    teacher="bundled:debian-summaries",
    teacher_corpus=ROOT / "summaries" / "corpora" / "beam-5",
    num_train=27_983,
    settings={
        "data.train": "bundled:debian-summaries",
        "data.dev": str(ROOT / "summaries" / "data" / "dev.jsonl"),
        "data.test": "bundled:debian-summaries",
        "data.max_source_tokens": 192,
        "data.max_target_tokens": 40,
        "sequences.decoding.max_new_tokens": 40,
        "training.batch_tokens": 4000,
        # bf16 where the machine has it; elsewhere that would take days.
        "training.precision": "auto",
        "training.warmup_steps": 200,
        "training.eval_every": 500,
        "training.eval_metric": "rouge_2",
        "training.trackers": [],
        "evaluation.metrics": ["rouge_2", "rouge_1", "rouge_l"],
        "evaluation.max_new_tokens": 40,
        **_SAMPLED,
    },
    student=_from_scratch(Size(96, 2, 2).architecture),
    rollouts={
        "sequences.rollouts.max_new_tokens": 40,
        "sequences.rollouts.engine": "ctranslate2",
    },
    budget=Budget(
        initial_updates=2000,
        initial_rate=4e-3,
        # 1.0 CPU-second an update with lambda 0, 1.2 with 1: nine to ten core-hours for the task.
        updates=250,
        rates=(5e-4, 2e-3),
        rate_factor=4.0,
        more_rates=1,
    ),
    grid=KEY_GRID,
    seeds=(1, 2, 3, 4),
    further_seeds=(2, 3, 4),
    follow_up_seeds=(),
    later_seeds=(),
    data_shares=(),
    teacher_weights=(0.0, 0.25, 0.5, 0.75, 1.0),
    metric="rouge_2",
    dev_score="rouge_2",
    lower_is_better=False,
)

TASKS = {task.name: task for task in (G2P, ARITHMETIC, EN_DE, SUMMARIES)}
