"""What a recipe may say of the objective: terms, weights, reduction, temperature."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from seqdistill.core.origins import Origin
from seqdistill.recipe.sections import (
    InnerShare,
    Number,
    PositiveFloat,
    Section,
    Share,
    UserPath,
)

Divergence = Literal[
    "negative_log_likelihood",
    "cross_entropy",
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
    "adaptive_kl",
    "interpolated_forward_kl",
    "teacher_mode_likelihood",
    "sequence_reverse_kl",
    "reward",
]
Reduction = Literal["token", "sequence", "sum"]


class Term(Section):
    """One weighted part of the objective."""

    divergence: Divergence
    """A function of `seqdistill.objectives`."""
    weight: Number = Number.constant(1.0)
    """Multiplies the term. Kim and Rush's alpha is the weight of the teacher's term."""
    beta: Share | None = None
    """jensen_shannon only: M = beta P + (1 - beta) Q. 0 means forward_kl and 1 reverse_kl."""
    alpha: Number | None = None
    """Skew divergences only: the share of the other distribution mixed in (DistiLLM uses 0.1)."""
    scale: Literal["raw", "gradient"] = "raw"
    """jensen_shannon only: `gradient` divides by beta (1 - beta), so that the gradient's size stays
    continuous toward forward and reverse KL; `raw` is the paper's value."""
    head_mass: InnerShare | None = None
    """adaptive_kl only: the teacher's likeliest symbols up to this mass are the head; 0.5 when not
    given (AKL)."""
    start_fraction: Share | None = None
    """interpolated_forward_kl only: the teacher's share of the target at the first update, which
    grows to 1; 0.4 when not given (TAID)."""
    importance_weighted: bool = False
    """reverse_kl only: each token's term times q / (the probability it was sampled with), for
    sequences that were not sampled from the student alone (MiniLLM)."""
    length_normalized: bool = True
    """sequence_reverse_kl only: the return after a token divided by the number of tokens after it
    (MiniLLM)."""
    estimator: Literal["paper", "released"] = "paper"
    """sequence_reverse_kl only: `paper` sums the log-ratios of the later tokens; `released`, as
    MiniLLM's code does, counts the token's own ratio, which reverse_kl has counted already."""
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """sequence_reverse_kl only: how much less each later token of a return counts than the one
    before it; 1, not at all, as in MiniLLM's paper (its code uses 0.95)."""
    clip: InnerShare | None = None
    """sequence_reverse_kl only: importance weights are clipped to 1 - clip ... 1 + clip, as in PPO;
    not when not given."""
    origin: Annotated[tuple[Origin, ...], Field(min_length=1)] | None = None
    """Only sequences of these writers count; the sum is divided by all. All when not given."""


NAMED_REWARDS = ("exact_answer", "rouge_l", "rouge_2", "bleu", "entailment")
"""The rewards that a recipe may name; all others are functions of the user's."""


class RewardSection(Section):
    """What the student's own sequences are worth, for the term `reward`."""

    function: str | None = None
    """exact_answer, rouge_l, rouge_2, bleu, entailment, or a Python function of yours as
    `module:name`: called with lists of prompts, completions and references, it returns a number for
    each. The prompt of a conversation is all of it up to the answer, as the chat template renders
    it."""
    classifier: UserPath | None = None
    """With `entailment`: the folder of a sequence classifier with a label of that name."""
    baseline: Literal["leave_one_out", "moving_average", "none"] = "leave_one_out"
    """Subtracted from the reward, which lessens the noise of the gradient and keeps its mean:
    `leave_one_out`, the mean reward of the prompt's other samples; `moving_average`, that of the
    updates before."""


class ObjectiveSection(Section):
    """The loss (objective): how the student is pulled to teacher and targets."""

    terms: Annotated[tuple[Term, ...], Field(min_length=1)] = (
        Term(divergence="negative_log_likelihood"),
    )
    """The weighted sum."""
    reduction: Reduction = "token"
    """`token`: sum over tokens / number of tokens. `sequence`: mean over sequences of per-token
    means (GKD). `sum`: sum over tokens / number of sequences (Kim and Rush's code)."""
    loss_temperature: PositiveFloat = 1.0
    """Divides both models' logits in soft terms (never in the likelihood of hard targets). At
    T != 1 soft terms are multiplied by T squared when hard terms are present (Hinton 2015)."""
    reward: RewardSection = RewardSection()
    """What the term `reward` rewards."""
    monitors: tuple[Literal["student_entropy", "teacher_reverse_kl"], ...] = ()
    """Measured whenever metrics are written, and part of no gradient: the student's entropy and
    KL(student || teacher), both in nats per token."""
