"""The five families of methods, and the members that the package brings: names and parameters.

The functions themselves, which need torch, are imported when they are first called. Registering
from outside: `seqdistill.plugins`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from seqdistill.core.origins import Origin
from seqdistill.core.registry import Member, NoParameters, Registry, parameters, resolved
from seqdistill.core.schedules import Schedulable, between

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
InnerFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
"""Neither end: what is left of a distribution would have no mass, or a range no width."""


def rising(ends: tuple[float, float]) -> tuple[float, float]:
    """The two bounds of a range, for a validator. Raises where the first is not the lower one."""
    if not ends[0] < ends[1]:
        raise PydanticCustomError("rising", "the first of two bounds must be below the second")
    return ends


InnerRange = Annotated[tuple[InnerFraction, InnerFraction], AfterValidator(rising)]
TimeConstant = Annotated[float, Field(ge=1.0)]
"""Of an exponential mean: what is new weighs 1 / it."""


@runtime_checkable
class DivergenceState(Protocol):
    """What a divergence learns from one update for the next; each term has one of its own."""

    def arguments(self) -> Mapping[str, Any]:
        """What the function is called with now, in place of the parameters."""

    def logged(self) -> Mapping[str, float]:
        """What metrics show of it, by name."""

    def learn(self, loss: float, update: int, updates: int) -> None:
        """Moves on after `update`, counted from 1, of `updates`; `loss` is its term's mean over the
        whole update, NaN where nothing counted."""

    def state_dict(self) -> Mapping[str, float]:
        """For a checkpoint."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""


SparseForm = Literal["bucket", "renormalized", "sampled"]
"""What stands for a teacher's distribution of which some symbols are known: they and all others as
one symbol; they alone, scaled to sum to 1; symbols drawn from it, as often as they were drawn."""


@dataclasses.dataclass(frozen=True)
class Divergence(Member):
    """`function(student_log_probs, teacher_log_probs, **parameters)`: nats at every position."""

    takes_targets: bool = False
    """The second argument is target ids: no teacher is asked."""
    one_right_symbol: bool = False
    """A likelihood: temperatures are none of its business."""
    manual_gradient: str | None = None
    """`module:name` of the same with the gradient written out, see `manual_gradients`; without
    one autograd finds it, chunk by chunk."""
    sparse: tuple[SparseForm, ...] = ()
    """What it can compare with in the place of a teacher's whole distribution; other forms are
    refused. With `bucket` it sums over symbols and never rises where two become one; with
    `renormalized` it is finite where the teacher has no mass; with `sampled` it is linear in it."""
    state: Callable[..., Any] | str | None = None
    """Makes the DivergenceState of a term from the parameters."""
    any_vocabulary: bool = False
    """The two last dimensions may differ: it never asks which symbol is which."""
    of_chunks: bool = False
    """Both arguments are log-probabilities of whole chunks of text, a number each, whatever tokens
    they are made of; over one vocabulary every token is a chunk."""

    @property
    def crosses_tokenizers(self) -> bool:
        """Whether the teacher may have other tokens than the student."""
        return self.takes_targets or self.any_vocabulary or self.of_chunks

    def new_state(self, given: object) -> DivergenceState | None:
        """The state of a term that begins; None for a divergence that learns nothing."""
        return None if self.state is None else resolved(self.state)(given)


OBSERVED = (
    "student_log_probs",
    "teacher_log_probs",
    "student_entropy",
    "values",
    "in_one_pass",
    "sampled_log_probs",
    "advantages",
)
"""The attributes of an observation that are there for those that name them in `reads` alone."""


@dataclasses.dataclass(frozen=True)
class TokenWeight(Member):
    """`function(observation, **parameters)`: what multiplies every position, (batch, time)."""

    reads: tuple[str, ...] = ()
    """The attributes of the observation that it looks at beside masks, ids, origins, extras."""
    extras: tuple[str, ...] = ()
    """The columns of the data that it looks at; `{name}` is the column that a parameter names."""
    extras_range: tuple[float, float] | None = None
    """What lies in them; every row of the training data is checked before training."""
    selects: bool = False
    """A weight of 0 leaves its position out: of the head's work, and of the term's logged mean."""
    leaves_count: bool = False
    """... and out of the number that the objective is divided by; implies `selects`."""
    on_policy: bool = False
    """The term is an expectation over whole sequences that the present student samples: a policy
    gradient. Every token weighs 1 in it, whatever the reduction, and sequences are counted."""
    measure: Callable[..., Any] | str | None = None
    """Of a weight that depends on the whole update: `function(observation, **parameters)`, what it
    looks at, (measures, batch, time). Before anything of an update is learned from, all its
    micro-batches are measured, in all processes; the weights are then `function(measures,
    target_mask, **parameters)` of all these sequences as one batch."""

    def columns(self, given: object) -> tuple[str, ...]:
        """The columns of the data that it looks at with these parameters."""
        return tuple(column.format_map(vars(given)) for column in self.extras)

    @property
    def needs_teacher(self) -> bool:
        """Whether it looks at the teacher's distribution."""
        names = ("teacher_log_probs", "values", "in_one_pass")
        return any(name in self.reads for name in names)

    @property
    def needs_eval_states(self) -> bool:
        """Whether it looks at the student as it samples, with its dropout off."""
        names = ("student_log_probs", "student_entropy", "values", "in_one_pass")
        return any(name in self.reads for name in names)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.reads if name not in OBSERVED]:
            raise ValueError(
                f"reads of the token weight {self.name} must be among {', '.join(OBSERVED)}, got "
                f"{unknown[0]!r}"
            )


Stack = Literal["encoder", "decoder"]
"""Of layers; all there is of a decoder-only model is a decoder."""
READABLE = ("hidden", "attention", "queries", "keys", "values")
"""The attributes of a layer's features that are there for those that name them in `reads` alone."""


@dataclasses.dataclass(frozen=True)
class FeatureMatch(Member):
    """`function(student, teacher, **parameters)`: how far one layer's features are from those of
    another, (batch, time); what it gives where no token counts is not read."""

    reads: tuple[str, ...] = ("hidden",)
    """The attributes of both layers' features that it looks at."""
    projects: bool = False
    """The student's hidden states come multiplied by a matrix that is trained with it, where their
    width is not the teacher's."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.reads if name not in READABLE]:
            raise ValueError(
                f"reads of the feature match {self.name} must be among {', '.join(READABLE)}, got "
                f"{unknown[0]!r}"
            )


@dataclasses.dataclass(frozen=True)
class Reward(Member):
    """`function(prompts, completions, references, **parameters)`: a finite number for each
    completion, more is better; a reference is None where there is none."""

    unit: tuple[str, str] | None = None
    """As a metric's."""


@dataclasses.dataclass(frozen=True)
class Metric(Member):
    """`function(outputs, references)`: a number for each output, whose mean is the score, or
    `SummedStatistics`."""

    higher_is_better: bool = True
    compares_with: Callable[[str], bool] | str | None = None
    """Whether a text can be a reference: not every text holds an answer. All can when None."""
    unit: tuple[str, str] | None = None
    """What it is told about the language: its keyword, and the attribute of `Units`."""
    title: str = ""
    """What people call it, where that is not its name."""


DIVERGENCES = Registry(
    "divergence",
    Divergence,
    reserved=(
        "divergence",
        "weight",
        "token_weights",
        "weights",
        "factor",
        "temperature",
        "manual",
    ),
)
TOKEN_WEIGHTS = Registry("token weight", TokenWeight, reserved=("kind",))
FEATURES = Registry(
    "feature match", FeatureMatch, reserved=("match", "weight", "stack", "layers", "project")
)
REWARDS = Registry("reward", Reward)
METRICS = Registry("metric", Metric)


def all_members() -> tuple[Member, ...]:
    """Of all families, those of plug-ins too."""
    families = (DIVERGENCES, TOKEN_WEIGHTS, FEATURES, REWARDS, METRICS)
    return tuple(member for family in families for member in family.values())


divergence = DIVERGENCES.register
token_weight = TOKEN_WEIGHTS.register
feature_match = FEATURES.register
reward = REWARDS.register
metric = METRICS.register


@parameters
class JensenShannon:
    """beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q (GKD)."""

    beta: Fraction
    """The teacher's share of M. 0 means forward_kl and 1 reverse_kl."""
    scale: Literal["raw", "gradient"] = "raw"
    """`gradient` divides by beta (1 - beta), so that the gradient's size stays continuous toward
    forward and reverse KL; `raw` is the paper's value."""


@parameters
class AdaptiveJensenShannon:
    """jensen_shannon in the scale `gradient`, whose beta follows how much student and teacher have
    in common: near 0, forward_kl, where it is little, near 1, reverse_kl, where it is much (our
    rule)."""

    within: InnerRange = (0.1, 0.9)
    """beta stays between the two, and begins in the middle."""
    time_constant: TimeConstant = 20.0
    """In updates: how slowly it follows."""


@parameters
class Skew:
    """KL to a mixture of both distributions, which cannot explode (DistiLLM)."""

    alpha: Annotated[Schedulable, between(0.0, 1.0)]
    """The share of the other distribution that is mixed in; DistiLLM uses 0.1."""


@parameters
class AdaptiveKL:
    """Forward and reverse KL, weighed for each token (AKL)."""

    head_mass: InnerFraction = 0.5
    """The teacher's likeliest symbols up to this mass are the head."""


@parameters
class InterpolatedForwardKL:
    """Forward KL to a target that moves from the student to the teacher (TAID)."""

    start_fraction: Fraction = 0.4
    """The teacher's share of the target at the first update, which grows to 1."""
    step: Fraction = 5e-4
    """The largest adaptive step of that share."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Of the average of the loss's relative falls."""


@parameters
class ChunkLikelihood:
    """The divergence between two outcomes, the chunk of text or anything else, of which the teacher
    and the student each give the chunk its likelihood^(1 / chunk_temperature) (ALM)."""

    of: Literal["forward_kl", "reverse_kl", "total_variation"] = "forward_kl"
    """Which divergence; ALM trains with forward_kl."""
    chunk_temperature: Annotated[float, Field(gt=0.0)] = 100.0
    """Divides the chunks' log-likelihoods, so that long chunks, whose likelihood is nearly 0, still
    tell the models apart. ALM: 100."""


@parameters
class ByOrigin:
    """1 for sequences of these origins and 0 for all others."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]
    """reference, teacher, student, teacher_mixed. The sum is still divided by all sequences."""


@parameters
class SequenceReverseKL:
    """What is to come: the log-ratios of the later tokens, the long-range part of KL(Q || P) over
    whole sequences (MiniLLM)."""

    estimator: Literal["paper", "released"] = "paper"
    """`paper` sums the log-ratios of the later tokens; `released`, as MiniLLM's code does, counts
    the token's own ratio, which reverse_kl has counted already."""
    length_normalized: bool = True
    """The return after a token divided by the number of tokens after it."""
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """How much less each later token of a return counts than the one before it; 1, not at all, as
    in MiniLLM's paper (its code uses 0.95)."""
    clip: InnerFraction | None = None
    """Importance weights are clipped to 1 - clip ... 1 + clip, as in PPO; not when not given."""


@parameters
class TopTokens:
    """1 for the tokens of each sequence that score highest and 0 for all others, which leave the
    count (TIP). Scores are scaled over the whole update: all micro-batches, all processes."""

    by: Literal["soft_or", "entropy", "divergence", "third_quadrant"] = "soft_or"
    """With h the student's entropy and d its reverse KL from the teacher, both from 0 to 1 over the
    update: `soft_or` h + d - hd; `entropy` h; `divergence` d; `third_quadrant` KL(P || Q) (1 - h),
    where the student is sure and wrong."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Of a sequence's tokens, rounded down."""


@parameters
class AttentionRelations:
    """KL between the teacher's and the student's relations of queries, of keys and of values: how
    alike those of two tokens are, a softmax over the tokens that one may see (MiniLMv2)."""

    relation_heads: Annotated[int, Field(ge=1)] = 8
    """Into how many parts queries, keys and values are split, whatever heads the models have: their
    widths must be multiples of it. MiniLMv2 has 48 for a width of 768."""


OF_ROLLOUTS = "rollout_pass_rate"
"""The column that comes with no data: of the update's own rollouts."""


@parameters
class PassRate:
    """p^alpha (1 - p)^beta of each sequence's prompt, divided by the mean over the update's
    sequences; p is the fraction of the model's answers to the prompt that are right (PACED)."""

    column: str = "pass_rate"
    """The column of the data that holds p, from 0 to 1; `rollout_pass_rate` is of no data: of the
    update's own rollouts of the prompt the fraction that objective.reward lets pass, so p is that
    of the present student."""
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """How fast prompts lose weight that the model hardly ever answers: 0, not at all."""
    beta: Annotated[float, Field(ge=0.0)] = 1.0
    """How fast prompts lose weight that it nearly always answers: 0, not at all."""
    within: Annotated[tuple[Fraction, Fraction], AfterValidator(rising)] | None = None
    """0 for p that is not strictly between the two. With alpha and beta 0, a hard filter."""


_PLAIN, _ADAPTIVE, _MANUAL = (
    f"seqdistill.objectives.{module}:%s"
    for module in ("divergences", "adaptive_divergences", "manual_gradients")
)


_BUCKET: tuple[SparseForm, ...] = ("bucket",)
_LINEAR: tuple[SparseForm, ...] = ("bucket", "renormalized", "sampled")


def _by_hand(
    name: str, given: type[Any] = NoParameters, sparse: tuple[SparseForm, ...] = _BUCKET
) -> None:
    by_hand = _MANUAL % name
    DIVERGENCES.add(name, _PLAIN % name, parameters=given, manual_gradient=by_hand, sparse=sparse)


DIVERGENCES.add(
    "negative_log_likelihood",
    _PLAIN % "negative_log_likelihood",
    takes_targets=True,
    one_right_symbol=True,
)
_by_hand("cross_entropy", sparse=_LINEAR)
_by_hand("forward_kl", sparse=_LINEAR)
_by_hand("reverse_kl")
_by_hand("jensen_shannon", JensenShannon)
DIVERGENCES.add(
    "adaptive_jensen_shannon",
    _PLAIN % "jensen_shannon",
    parameters=AdaptiveJensenShannon,
    manual_gradient=_MANUAL % "jensen_shannon",
    sparse=_BUCKET,
    state="seqdistill.objectives.adaptive_divergences:OverlapBeta",
)
_by_hand("skew_forward_kl", Skew)
_by_hand("skew_reverse_kl", Skew)
DIVERGENCES.add("total_variation", _PLAIN % "total_variation", sparse=_BUCKET)
DIVERGENCES.add("neg_log_acceptance", _PLAIN % "neg_log_acceptance", sparse=_BUCKET)
DIVERGENCES.add("adaptive_kl", _ADAPTIVE % "adaptive_kl", parameters=AdaptiveKL)
DIVERGENCES.add(
    "interpolated_forward_kl",
    _ADAPTIVE % "interpolated_forward_kl",
    parameters=InterpolatedForwardKL,
    state="seqdistill.objectives.adaptive_divergences:InterpolationShare",
)
DIVERGENCES.add(
    "teacher_mode_likelihood",
    _ADAPTIVE % "teacher_mode_likelihood",
    one_right_symbol=True,
    sparse=("renormalized",),  # the likeliest symbol is among those kept; others as one may pass it
)

_ACROSS = "seqdistill.objectives.across_tokenizers:%s"
DIVERGENCES.add("uld", _ACROSS % "uld", any_vocabulary=True)
DIVERGENCES.add(
    "chunk_likelihood",
    _ACROSS % "chunk_likelihood",
    parameters=ChunkLikelihood,
    of_chunks=True,
)

_WEIGHT = "seqdistill.objectives.token_weights:%s"
TOKEN_WEIGHTS.add("uniform", _WEIGHT % "uniform")
TOKEN_WEIGHTS.add("origin", _WEIGHT % "by_origin", parameters=ByOrigin, selects=True)
TOKEN_WEIGHTS.add(
    "importance", _WEIGHT % "importance", reads=("student_log_probs", "sampled_log_probs")
)
TOKEN_WEIGHTS.add("advantages", _WEIGHT % "advantages", reads=("advantages",), on_policy=True)
TOKEN_WEIGHTS.add(
    "sequence_reverse_kl",
    _WEIGHT % "sequence_reverse_kl",
    parameters=SequenceReverseKL,
    reads=("student_log_probs", "teacher_log_probs", "sampled_log_probs"),
    on_policy=True,
)
TOKEN_WEIGHTS.add(
    "top_tokens",
    _WEIGHT % "top_tokens",
    parameters=TopTokens,
    reads=("in_one_pass",),
    leaves_count=True,
    measure=_WEIGHT % "measured_for_top_tokens",
)
TOKEN_WEIGHTS.add(
    "pass_rate",
    _WEIGHT % "pass_rate",
    parameters=PassRate,
    extras=("{column}",),
    extras_range=(0.0, 1.0),
    selects=True,
    measure=_WEIGHT % "measured_for_pass_rate",
)

_FEATURE = "seqdistill.objectives.features:%s"
FEATURES.add("hidden_mse", _FEATURE % "hidden_mse", projects=True)
FEATURES.add("hidden_cosine", _FEATURE % "hidden_cosine", projects=True)
FEATURES.add("attention_transfer", _FEATURE % "attention_transfer", reads=("attention",))
FEATURES.add(
    "attention_relations",
    _FEATURE % "attention_relations",
    parameters=AttentionRelations,
    reads=("queries", "keys", "values"),
)

_REWARD = "seqdistill.metrics.rewards:%s"
for _name in ("exact_answer", "rouge_l", "rouge_2"):
    REWARDS.add(_name, _REWARD % _name)
REWARDS.add("bleu", _REWARD % "bleu", unit=("tokenize", "bleu_tokenizer"))
REWARDS.add("entailment", "seqdistill.generation.entailment:EntailmentReward")

_METRIC = "seqdistill.metrics.%s"
METRICS.add(
    "bleu",
    _METRIC % "translation:bleu_statistics",
    unit=("tokenize", "bleu_tokenizer"),
    title="BLEU",
)
METRICS.add("chrf", _METRIC % "translation:chrf_statistics", title="chrF")
METRICS.add(
    "token_error_rate",
    _METRIC % "error_rates:token_error_rate",
    higher_is_better=False,
    unit=("characters", "unspaced"),
    title="token error rate",
)
METRICS.add(
    "word_error_rate",
    _METRIC % "error_rates:word_error_rate",
    higher_is_better=False,
    title="WER",
)
METRICS.add(
    "sequence_error_rate",
    _METRIC % "error_rates:sequence_error_rate",
    higher_is_better=False,
    title="sequence error rate",
)
for _name in ("rouge_1", "rouge_2", "rouge_l"):
    _title = _name.upper().replace("_", "-")
    METRICS.add(_name, _METRIC % f"summaries:{_name}_statistics", title=_title)
METRICS.add("exact_match", _METRIC % "answers:exact_match", title="exact match")
METRICS.add(
    "answer_accuracy",
    _METRIC % "answers:answer_accuracy",
    compares_with=_METRIC % "answers:has_answer",
    title="answer accuracy",
)
