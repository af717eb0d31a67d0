"""The results of a run: the one schema of results.json, and of the rows of samples and rollouts.

Evaluation writes it; the report, the command line and experiments read it. None stands for what
was not measured, or for what JSON has no number for. Starts without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from seqdistill.core.errors import UserError

TEACHER, START = "teacher", "start"
"""The methods of two systems that are no students: who taught, and a student before training."""

Mode = Literal["greedy", "beam"]
Row = TypeVar("Row", bound="Record")


class Record(BaseModel):
    """A part of a file. Unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Metric(Record):
    """A measure of quality: its name in recipes, what people call it, and which way is up."""

    name: str
    title: str
    higher_is_better: bool

    def score_key(self, value: float) -> float:
        """The value so that more is better."""
        return value if self.higher_is_better else -value


class Value(Record):
    """A number and its interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Score(Value):
    """A value of a metric, and every setting that it depends on."""

    signature: str = ""


def number(value: Value | None) -> float | None:
    """The number of what may not have been measured."""
    return None if value is None else value.value


class Decoded(Record):
    """What one way of decoding gave: quality, length and speed."""

    scores: dict[str, Score] = {}
    """By the metric's name, the main metric first."""
    length: float | None = None
    """Mean tokens of an output, its end of sequence included."""
    length_ratio: float | None = None
    """Tokens of the outputs / tokens of the references."""
    words_per_second: Value | None = None
    """The median of several rounds, the slowest and the fastest."""
    sentences_per_second: Value | None = None
    """What speeds are compared by: words per second grow for a system that does not stop."""
    timed_sentences: int | None = None
    """Sentences that each round decoded."""


class Sampled(Record):
    """What independent samples at one temperature are like."""

    temperature: float
    scores: dict[str, Score] = {}
    """Of all samples together."""
    self_bleu: Value | None = None
    """How alike the samples of one source are, 0 to 100."""
    repetition: float | None = None
    """Fraction of an output's 4-grams that it has had before."""
    finished_fraction: float | None = None
    """Fraction of the samples with an end of sequence."""


class Calculated(Record):
    """Greedy outputs in which a calculator corrected the marked steps."""

    scores: dict[str, Score]
    corrections_per_output: float


class Forced(Record):
    """Greedy outputs after one wrong token: at one place the second likeliest was forced."""

    scores: dict[str, Score]
    """Of a metric that an output passes or fails, such as accuracy, it is the recovery rate."""
    kept: float | None = None
    """The main metric / that of the plain greedy outputs; of error rates what is right counts."""


class CopyAgreement(Record):
    """How far a converted copy lies from its model, over `num_tokens` tokens."""

    num_tokens: int
    argmax_share: float
    """Positions at which both find the same token likeliest, in [0, 1]."""
    mean_nats: float
    max_nats: float
    longest: int | None = None
    """Positions up to which the two were compared."""


class System(Record):
    """A model as it was measured: the teacher, a student, its start, or a converted copy."""

    name: str
    method: str
    init: str | None = None
    engine: str | None = None
    """What decoded it and its arithmetic: `ctranslate2 float32`."""
    parameters: int | None = None
    nonzero: int | None = None
    density: float | None = None
    bytes: int | None = None
    greedy: Decoded = Decoded()
    beam: Decoded = Decoded()
    greedy_beam_gap: Value | None = None
    """What beam search gains in the main metric; positive is better, also of an error rate."""
    sampled: tuple[Sampled, ...] = ()
    """By rising temperature."""
    calculator: Calculated | None = None
    forced: Forced | None = None
    kl_student_teacher_own: Value | None = None
    """KL(student || teacher) in nats a token of its own samples, temperature 1."""
    kl_teacher_student_own: Value | None = None
    """KL(teacher || student) there."""
    topk_overlap_own: Value | None = None
    """Its probability, there, of the tokens that are among the 8 likeliest of both models."""
    acceptance_own: Value | None = None
    """The chance, there, that the teacher accepts a token that it drafts (speculative sampling)."""
    mode_share: Value | None = None
    """Mean probability of a system's own beam output."""
    outputs: int | None = None
    unfinished: int | None = None
    """Beam outputs without an end of sequence."""
    empty: int | None = None
    """Beam outputs without any text."""
    repetition: float | None = None
    repetition_references: float | None = None
    loss_nats: Value | None = None
    """Nats a token of the references, end of sequence included."""
    perplexity: Value | None = None
    entropy_nats: Value | None = None
    to_teacher: Score | None = None
    """The main metric of the beam outputs against the teacher's."""
    exact_match_to_teacher: float | None = None
    """Fraction of outputs that are the same text."""
    agreement_top1: Value | None = None
    """Fraction of reference positions with the same likeliest token as the teacher's."""
    faults: tuple[str, ...] = ()
    """Why it is broken, each a few words; none of a sound system."""
    copy_of: str | None = None
    format: str | None = None
    folder: str | None = None
    """In the run directory, of a copy."""
    copy_agreement: CopyAgreement | None = None

    @property
    def is_student(self) -> bool:
        """Whether it was trained here."""
        return self.method not in (TEACHER, START)

    def score(self, metric: str, mode: Mode = "beam") -> float | None:
        """The value of a metric by that way of decoding."""
        decoded = self.beam if mode == "beam" else self.greedy
        return number(decoded.scores.get(metric))

    def columns(self) -> dict[str, Any]:
        """The system as one flat row: `bleu_beam`, `bleu_beam_low`, `words_per_second_greedy`, ...

        Samples end in their temperature: `self_bleu_sample_t0.5`. What is None has no column.
        """
        return {key: value for key, value in _columns(self) if value is not None}


class PairedTest(Record):
    """Two systems on the same sentences: the first less the second."""

    system: str
    versus: str
    metric: str
    mode: Mode = "beam"
    delta: float
    p_value: float
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    test: str = "paired test"


class EntropyCurve(Record):
    """Mean entropy in nats at target positions 1, 2, ..., and how many references reach each."""

    entropy_nats: tuple[float, ...]
    counts: tuple[int, ...]


class Results(Record):
    """results.json: all systems of a run on one test set."""

    created: str | None = None
    metrics: tuple[Metric, ...]
    """The first is the main one: what chooses and is tested."""
    units: dict[str, object] = {}
    """What the metrics count in."""
    overrides: tuple[str, ...] = ()
    """Settings of data and evaluation in place of the run's own."""
    systems: tuple[System, ...] = ()
    exports: tuple[System, ...] = ()
    """Converted copies of a student, which stand beside the systems."""
    baseline: str | None = None
    """What the paired tests compare with."""
    student: str | None = None
    """The best student."""
    recommended: str | None = None
    """The best student where there is a choice and it is sound."""
    paired_tests: tuple[PairedTest, ...] = ()
    entropy_by_position: dict[str, EntropyCurve] = {}
    """By the system's name."""

    def system(self, name: str) -> System:
        """The system or copy of that name."""
        return next(each for each in (*self.systems, *self.exports) if each.name == name)

    @property
    def teacher(self) -> System | None:
        """The teacher, if it was measured."""
        return next((each for each in self.systems if each.method == TEACHER), None)

    @property
    def start(self) -> System | None:
        """The student before its first update, if it was measured."""
        return next((each for each in self.systems if each.method == START), None)


def best_student(systems: Sequence[System], metric: Metric) -> str | None:
    """The student with the best beam score; of equals the first. A broken one only if all are.

    A teacher that was trained alone counts as its own student. None where nothing has a score.
    """
    scored = [each for each in systems if _quality(each, metric) is not None]
    students = [each for each in scored if each.is_student]
    students = students or [each for each in scored if each.method != START]
    sound = [each for each in students if not each.faults] or students
    best = max(sound, key=lambda s: metric.score_key(_quality(s, metric) or 0.0), default=None)
    return None if best is None else best.name


def recommended_student(systems: Sequence[System], metric: Metric) -> str | None:
    """The best student where there is a choice between several and it is sound; else None."""
    best = best_student(systems, metric)
    broken = any(each.name == best and each.faults for each in systems)
    return None if broken or sum(each.is_student for each in systems) < 2 else best


def _quality(system: System, metric: Metric) -> float | None:
    beam = system.score(metric.name)
    return system.score(metric.name, "greedy") if beam is None else beam


class Sample(Record):
    """A line of samples.jsonl: a test sentence with every system's output."""

    id: str
    source: str
    reference: str | None = None
    outputs: dict[str, str]
    audio: str | None = None
    """A recording to play, as a data URI, where that is what the systems heard."""


class Rollout(Record):
    """A line of rollouts.jsonl: a sequence sampled for the update `step`."""

    step: int
    id: str
    prompt: str
    origin: str
    written: str
    tokens: int
    finished: bool
    """Whether it has an end of sequence; else it was cut at the limit."""
    reference: str | None = None
    reward: float | None = None
    sampled_at_update: int
    """The update it was sampled for: before `step` in replay."""

    @property
    def is_sampled(self) -> bool:
        """Whether a model wrote it; else it is the reference itself."""
        return self.origin != "reference"


class Alarm(Record):
    """A line of alarms.jsonl: a sign of collapse that was noticed at the update `step`."""

    step: int
    quantity: str
    """The metric that left its limit, which it had been beyond for several looks in a row."""
    value: float
    limit: float
    text: str
    stage: int = 0
    """Of a chain."""


class Timing(Record):
    """How long a step took, and the peak memory of the process after it."""

    step: str
    seconds: float
    peak_memory_mb: float | None = None


def parsed(kind: type[Row], content: object, place: object) -> Row:
    """The content of a file as a record. Raises UserError that names file, key and what is wrong"""
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{place}: {key} is wrong: {first['msg']}, got {first['input']!r}; evaluate again, or "
            "restore the file"
        ) from error


_DECODED = ("length", "length_ratio")
_SPEEDS = ("words_per_second", "sentences_per_second")
_NESTED = {
    "greedy",
    "beam",
    "sampled",
    "calculator",
    "forced",
    "to_teacher",
    "copy_agreement",
    "faults",
}


def _columns(system: System) -> Iterator[tuple[str, object]]:
    for key in type(system).model_fields:
        if key not in _NESTED:
            yield from _column(key, getattr(system, key))
    for mode, decoded in (("greedy", system.greedy), ("beam", system.beam)):
        for name, score in decoded.scores.items():
            yield from _column(f"{name}_{mode}", score)
            yield f"{name}_signature", score.signature or None
        for key in (*_DECODED, *_SPEEDS, "timed_sentences"):
            yield from _column(f"{key}_{mode}", getattr(decoded, key))
    for sampled in system.sampled:
        end = f"sample_t{sampled.temperature:g}"
        for name, score in sampled.scores.items():
            yield from _column(f"{name}_{end}", score)
        for key in ("self_bleu", "repetition", "finished_fraction"):
            yield from _column(f"{key}_{end}", getattr(sampled, key))
    if system.calculator is not None:
        for name, score in system.calculator.scores.items():
            yield from _column(f"{name}_calculator", score)
        yield "corrections_per_output", system.calculator.corrections_per_output
    if system.forced is not None:
        for name, score in system.forced.scores.items():
            yield from _column(f"{name}_forced", score)
        yield "kept_forced", system.forced.kept
    if system.to_teacher is not None:
        main = next(iter(system.beam.scores))
        yield from _column(f"{main}_to_teacher", system.to_teacher)


def _column(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Value):
        yield key, value.value
        yield f"{key}_low", value.low
        yield f"{key}_high", value.high
    else:
        yield key, value
