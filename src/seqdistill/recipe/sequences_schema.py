"""The recipe's keys for sequences: where they come from, and how each source decodes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from seqdistill.core.families import InnerRange, TimeConstant, rising
from seqdistill.core.schedules import Schedule, Scheduled, fraction, in_one_error, read_schedule
from seqdistill.recipe.sections import (
    ComputeType,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    UserPath,
)
from seqdistill.recipe.server_schema import RolloutServerSection


class Decoding(Section):
    """How sequences are generated. `sampling_temperature` is not the loss's temperature."""

    mode: Literal["beam", "sample"] = "beam"
    """Beam search, or ancestral sampling from the full distribution."""
    beam_size: PositiveInt = 5
    """Hypotheses kept per step; 1 is greedy. Kim and Rush 2016 use 5. Not read in mode `sample`."""
    n_best: PositiveInt = 1
    """Hypotheses kept per source, with scores: the best of the beam, or independent samples."""
    length_penalty: float = 1.0
    """Scores are divided by length ** length_penalty, a decoder's prefix counted in it; 0 compares
    plain log-probabilities."""
    sampling_temperature: PositiveFloat = 1.0
    """Divides the sampler's logits; 1 samples the model's own distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among the k likeliest symbols only; 0 means all of them."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the smallest set of symbols with this mass; 1 means all of them."""
    max_new_tokens: PositiveInt = 128
    """Longest output, end-of-sequence token included. A longer one is unfinished: not kept."""
    batch_tokens: PositiveInt = 1024
    """How many source tokens (padding included) are decoded together. On CPUs small batches stay in
    the cache; on GPUs larger ones are faster."""

    def width(self, source_length: int) -> int:
        """What a sequence takes of `batch_tokens`."""
        return source_length


class RolloutDecoding(Decoding):
    """How a student samples in training: `batch_tokens` are those that are held at once, prompts
    and the longest completions, so that it bounds the memory."""

    def width(self, source_length: int) -> int:
        """The prompt with the longest completion."""
        return source_length + self.max_new_tokens


class DecodingSection(Decoding):
    """How the teacher decodes, and with what."""

    engine: Literal["auto", "ctranslate2", "transformers", "server"] = "auto"
    """ctranslate2 is several times faster on CPU; transformers knows every architecture. auto is
    ctranslate2 where it computes the same as the model, else transformers, which is said. server
    asks teacher.server for texts, greedily (beam_size 1) or sampled; any tokenizer will do."""
    compute_type: ComputeType = "float32"
    """Arithmetic of the CTranslate2 engine; with another than float32 auto never is transformers.
    """
    threads: PositiveInt | None = None
    """CPU workers of one thread each; all the process may use when not given."""


class RolloutsSection(Section):
    """How the student samples in training: by default from its own distribution, dropout off."""

    engine: Literal["transformers", "ctranslate2", "auto", "vllm"] = "transformers"
    """transformers knows every architecture and device; ctranslate2 takes the new weights in memory
    before every update and compares them. auto is the faster of the two, timed as a run starts on
    the prompts of its first update and kept to its end; transformers where ctranslate2 does not
    compute the same as the student. They draw other sequences of one distribution: to repeat a run
    exactly, name the engine. vllm writes on `server`, which loads the new weights before every
    update and is compared with the student at each; for decoder-only students."""
    server: RolloutServerSection = RolloutServerSection()
    """The vLLM server of `engine: vllm`, started with the student's folder."""
    mode: Literal["sample", "greedy"] = "sample"
    """Ancestral sampling, or the likeliest symbol at every step."""
    sampling_temperature: PositiveFloat = 1.0
    """Divides the sampler's logits; at 1 the student's own distribution is sampled, and only then
    are the sequences what on-policy methods assume."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among the k likeliest symbols only; 0 means all of them."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the smallest set of symbols with this mass; 1 means all of them."""
    max_new_tokens: PositiveInt = 128
    """Longest rollout, end-of-sequence token included. A longer one is cut there and counted; it is
    learned from as far as it goes."""
    samples_per_prompt: PositiveInt = 1
    """Rollouts of each prompt; a reward with the baseline leave_one_out needs two or more."""
    teacher_fraction: Share = 0.0
    """Above 0 each token is sampled from this share of the teacher's distribution and the rest of
    the student's (MiniLLM uses 0.2)."""
    samples_every: PositiveInt = 100
    """Every n updates a few of the sequences just written are kept in rollouts.jsonl."""


class AdaptiveSection(Section):
    """A fraction that is raised when dev gets worse, DistiLLM's."""

    shape: Literal["adaptive"]
    """Apart from those that follow the updates."""
    start: Share = 0.0
    """Its value at the first update."""
    end: Share = 1.0
    """The most it may become."""
    step: PositiveFloat = 0.1
    """How much it is raised at once."""
    threshold: float = 0.1
    """Raised when the dev loss (nats per token) is at least so much above the one before."""

    @property
    def ends(self) -> tuple[float, ...]:
        """The values that bound it."""
        return self.start, self.end

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g} (adaptive)"


class MeasuredSection(Section):
    """A fraction that follows where the student is far from its teacher (our rule)."""

    shape: Literal["measured"]
    """Apart from those that follow the updates."""
    within: InnerRange = (0.1, 0.9)
    """The least and the most that it may become: both kinds of sequences have to be seen."""
    time_constant: TimeConstant = 20.0
    """How slowly it follows, in updates that have sequences of a kind."""

    @property
    def ends(self) -> tuple[float, ...]:
        """The values that bound it."""
        return self.within

    def __str__(self) -> str:
        return f"{self.within[0]:g} to {self.within[1]:g} (measured)"


def _student_fraction(given: Any) -> Any:
    if given is None or isinstance(given, (AdaptiveSection, MeasuredSection)):
        return given
    shape = given.get("shape") if isinstance(given, dict) else None
    if shape == "adaptive":
        return in_one_error(AdaptiveSection.model_validate, given)
    if shape == "measured":
        return in_one_error(MeasuredSection.model_validate, given)
    return fraction(read_schedule({"end": 1.0, **given} if isinstance(given, dict) else given))


StudentFraction = Annotated[
    AdaptiveSection | MeasuredSection | Scheduled,
    BeforeValidator(_student_fraction),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "object"}]}),
]


class MixtureSection(Section):
    """What share of the sequences are rollouts, and where the others come from."""

    student_fraction: StudentFraction | None = None
    """GKD's lambda: 0 means the others write all and nothing is sampled, 1 that the student does
    and prompts alone are enough. Must be given with `origin: mixture`; with `replay` all are
    the student's when not given. The coin `both` has 0.5. Or {shape: adaptive, start: 0, end: 1,
    step: 0.1, threshold: 0.1}: raised by `step` when the dev loss is `threshold` worse. Or {shape:
    measured, within: [0.1, 0.9], time_constant: 20}: own / (own + others), moving means of the
    first term that compares with the teacher at every token, on own sequences and on others."""
    coin: Literal["batch", "example", "both"] = "batch"
    """`batch`: one coin for a whole batch, the same on every process (GKD). `example`: one for each
    prompt (ImitKD). `both`: every prompt is answered by both (DistiLLM-2, f-distill)."""
    others: Literal["reference", "teacher"] = "reference"
    """`reference`: the targets in the data. `teacher`: its outputs, decoded once beforehand as
    `sequences.decoding` says."""


class ReplaySection(Section):
    """How long the student's sequences are kept and learned from again."""

    capacity: PositiveInt = 1000
    """Sequences kept, of all processes together; the oldest goes first. DistiLLM uses 1000."""
    max_age: PositiveInt = 1000
    """Updates after which a sequence is dropped: the student that sampled it is gone."""
    fresh_fraction: Annotated[Scheduled, AfterValidator(fraction)] = Schedule(1.0, 0.0)
    """Share of the batches that are sampled again (and kept); the others are drawn from the kept
    ones. Falls linearly to 0 in DistiLLM."""


class NearPolicySection(Section):
    """How far a process of its own writes ahead of training."""

    sync_every: PositiveInt = 8
    """After so many updates n the process takes the student's weights; it writes the sequences of n
    updates at once. They are learned from n to 2n - 1 updates later."""
    keep_quantiles: Annotated[tuple[Share, Share], AfterValidator(rising)] | None = None
    """Of what is written together only the sequences between these two quantiles are kept, by how
    much harder the student finds the answer with its prompt than the teacher does: the gap of their
    instruction-following difficulties L(y | x) / L(y). [0.05, 0.95] leaves out both extremes. All
    when not given."""
    device: Annotated[str, Field(pattern="^(cpu|cuda(:[0-9]+)?)$")] | None = None
    """Where the process writes, such as cuda:1; where the student is when not given."""


class SequencesSection(Section):
    """Where the sequences come from that the student learns from."""

    origin: Literal[
        "reference", "teacher", "interpolation", "student", "near_policy", "mixture", "replay"
    ] = "reference"
    """`reference`: the targets in the data. `teacher`: its decoded outputs (Seq-KD), made once,
    stored, verified and reused. `interpolation`: of its n best outputs the one most similar to the
    target in the data (Seq-Inter), for fine-tuning a student that is trained already. `student`:
    on-policy, sampled from the student's weights of the current update. `near_policy`: sampled by
    a process of its own from weights a few updates old, while training goes on. `mixture`: a share
    by the student, the others as `mixture` says (GKD). `replay`: as `mixture`, but the student's
    sequences are kept and used again, so some are those of an earlier student: not on-policy."""
    similarity: Literal[
        "smoothed_bleu", "smoothed_bleu_of_tokens", "sentence_bleu", "sentence_chrf"
    ] = "smoothed_bleu"
    """With `interpolation`: what most similar means; `smoothed_bleu` is Kim and Rush's."""
    max_word_error_rate: Annotated[float, Field(ge=0.0)] | None = None
    """With `teacher`: its outputs with a higher word error rate against the target in the data, in
    percent, are left out and counted. Distil-Whisper's 10 keeps what was heard well."""
    corpus: UserPath | None = None
    """Folder of the teacher's corpus; beside the runs, named by content, when not given."""
    decoding: DecodingSection = DecodingSection()
    """How the teacher decodes."""
    rollouts: RolloutsSection = RolloutsSection()
    """How the student samples."""
    mixture: MixtureSection = MixtureSection()
    """How much comes from where."""
    replay: ReplaySection = ReplaySection()
    """What is used again."""
    near_policy: NearPolicySection = NearPolicySection()
    """What is sampled ahead."""

    @property
    def can_roll_out(self) -> bool:
        """Whether the student may sample sequences, whatever its share."""
        return self.origin in ("student", "near_policy", "mixture", "replay")

    @property
    def rolls_out(self) -> bool:
        """Whether any are rollouts: not where the student's share is 0 at every update."""
        return self.can_roll_out and self._constant_share != 0.0

    @property
    def answers_per_prompt(self) -> int:
        """How many sequences of an update answer one prompt."""
        if not self.rolls_out:
            return 1
        twice = self.has_two_origins and self.mixture.coin == "both"
        return self.rollouts.samples_per_prompt + twice

    @property
    def decoded_by_teacher(self) -> bool:
        """Whether outputs of the teacher are decoded before training begins."""
        return "teacher" in self.writers

    @property
    def reads_mixture(self) -> bool:
        """Whether `mixture` is read: not all sequences need be rollouts."""
        return self.origin == "mixture" or (
            self.origin == "replay" and self.mixture.student_fraction is not None
        )

    @property
    def has_two_origins(self) -> bool:
        """Whether there are rollouts and others: neither has every update to itself."""
        return self.reads_mixture and self._constant_share not in (0.0, 1.0)

    @property
    def writers(self) -> tuple[str, ...]:
        """The possible origins of a sequence, as a term's `origin` names them."""
        student = "teacher_mixed" if self.rollouts.teacher_fraction > 0.0 else "student"
        if self.has_two_origins:
            return (student, self.mixture.others)
        if self.rolls_out:
            return (student,)
        if self.reads_mixture:
            return (self.mixture.others,)
        return ("reference",) if self.origin == "reference" else ("teacher",)

    @property
    def needs_references(self) -> str | None:
        """The setting that learns from targets in the data, or chooses by them, as users write it;
        None where prompts alone are enough."""
        if self.origin == "interpolation":
            return "sequences.origin: interpolation"
        if self.origin == "teacher" and self.max_word_error_rate is not None:
            return f"sequences.max_word_error_rate: {self.max_word_error_rate:g}"
        if "reference" not in self.writers:
            return None
        if not self.reads_mixture:
            return f"sequences.origin: {self.origin}"
        coin = self.mixture.coin
        share = (
            "coin: both" if coin == "both" else f"student_fraction: {self.mixture.student_fraction}"
        )
        return f"sequences.mixture.others: reference with {share}"

    @property
    def _constant_share(self) -> float | None:
        """The student's share of a mixture where it is the same at every update, else None.

        With the coin `both` no share is read: every prompt is answered by both.
        """
        share = self.mixture.student_fraction
        if not self.reads_mixture or share is None or self.mixture.coin == "both":
            return None
        return share.ends[0] if len(set(share.ends)) == 1 else None
