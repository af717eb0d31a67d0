"""What a report shows, in typed form: systems, tests, curves, samples. Reads no files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqdistill.records.atomic import JsonValue


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of quality: what people call it, and which way is up."""

    name: str
    higher_is_better: bool

    @property
    def title(self) -> str:
        """`BLEU`, `token error rate`, ..."""
        return TITLES.get(self.name, self.name)

    def score_key(self, value: float) -> float:
        """The value so that more is better."""
        return value if self.higher_is_better else -value


TITLES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "token_error_rate": "token error rate",
    "sequence_error_rate": "sequence error rate",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact match",
    "answer_accuracy": "answer accuracy",
}
FALLING = frozenset({"token_error_rate", "sequence_error_rate"})
"""Those of TITLES of which less is better: for logs, which do not say so themselves. Stated twice,
because the package of the metrics takes seconds to load; a test compares."""

Points = tuple[tuple[float, float], ...]
"""(update, value) pairs in order."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value and its interval, whose ends are both given or both None."""

    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a system's samples at one temperature are like."""

    temperature: float
    scores: Mapping[str, Measured]
    """Of all samples, by the metric's name."""
    self_bleu: Measured | None
    """How alike the samples of one source are, 0 to 100."""
    repetition: float | None
    """Share of an output's runs of four words that it has had before."""
    finished_share: float | None
    """Share of the samples that end by themselves."""


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the results: a model as it was measured. None is what was not measured."""

    name: str
    method: str
    init: str | None
    parameters: float | None
    size_bytes: float | None
    metric: Metric
    """The main one: what `greedy` and `beam` are in."""
    greedy: float | None
    beam: float | None
    beam_low: float | None
    beam_high: float | None
    second: float | None
    """By the second metric, beam search."""
    gap: Measured | None
    """What beam search gains over greedy decoding."""
    perplexity: float | None
    mode_share: float | None
    mode_share_low: float | None
    mode_share_high: float | None
    entropy_nats: float | None
    length_ratio_greedy: float | None
    length_ratio_beam: float | None
    agreement: float | None
    """Share of reference positions at which it finds the teacher's likeliest token likeliest."""
    to_teacher: Measured | None
    """The main metric against the teacher's outputs."""
    words_per_second_greedy: float | None
    words_per_second_beam: float | None
    sentences_per_second_greedy: float | None
    sentences_per_second_beam: float | None
    """What speeds are compared by: words per second grow for a system that does not stop."""
    signatures: Mapping[str, str]
    """By the metric's name."""
    faults: tuple[str, ...]
    """What is wrong with it, each a few words; none of a sound system."""
    folder: str | None = None
    """Where in the run directory it lies, of a copy."""
    sampled: tuple[Sampled, ...] = ()
    """By rising temperature."""

    @property
    def is_teacher(self) -> bool:
        """Whether the others learned from this one."""
        return self.method == "teacher"

    @property
    def is_start(self) -> bool:
        """Whether it is the student before its first update."""
        return self.method == "start"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One paired test between two systems."""

    system: str
    versus: str
    metric: str
    higher_is_better: bool
    delta: float
    p_value: float
    low: float | None
    high: float | None
    test: str


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One sequence that was written for an update, and kept to be looked at."""

    step: int
    id: str
    prompt: str
    origin: str
    written: str
    tokens: int
    finished: bool
    """Whether it has an end; else it was cut at the limit."""
    reference: str | None
    reward: float | None
    sampled_at_update: int
    """The update it was first written for: before `step` in replay."""

    @property
    def is_written(self) -> bool:
        """Whether a model wrote it, rather than people: then it is the reference."""
        return self.origin != "reference"


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """What one training run logged."""

    name: str
    loss_nats: Points
    dev: Points
    """Dev scores in the run's `dev_metric`."""
    measures: Mapping[str, Points]
    """Of the sequences written while it trained, by name in the log. None that was not logged."""
    rollouts: tuple[Rollout, ...]
    dev_loss_nats: Points = ()
    """Nats a token of dev's targets."""


@dataclasses.dataclass(frozen=True)
class EntropyCurve:
    """A system's mean entropy in nats at target positions 1, 2, 3, ..."""

    name: str
    entropy_nats: tuple[float, ...]
    counts: tuple[float, ...]
    """How many references reach each position."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sentence with everybody's output, by system name."""

    id: str
    source: str
    reference: str | None
    outputs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long a step took and how much memory it needed at its peak."""

    step: str
    seconds: float
    peak_memory_mb: float | None


@dataclasses.dataclass(frozen=True)
class RunContents:
    """All that the page shows."""

    folder: str
    created: str | None
    metrics: tuple[Metric, ...]
    """The first is the main one."""
    systems: tuple[System, ...]
    copies: tuple[System, ...]
    """Other forms of a student, such as int8, which stand beside the systems."""
    comparisons: tuple[Comparison, ...]
    baseline: str | None
    notes: tuple[str, ...]
    logs: tuple[TrainingLog, ...]
    dev_metric: Metric
    entropy: tuple[EntropyCurve, ...]
    samples: tuple[Sample, ...]
    timings: tuple[Timing, ...]
    facts: dict[str, dict[str, JsonValue]]
    """The manifest's groups of facts: versions, machine, and the rest under `run`."""
    recipe: str | None
