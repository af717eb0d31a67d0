"""One weighted part of an objective: what it is called, what it is told, whom it counts.

A term computes nothing. It refuses what cannot be meant before the first batch.
"""

from __future__ import annotations

import dataclasses

from seqdistill.core.errors import RecipeError, did_you_mean
from seqdistill.core.origins import Origin
from seqdistill.core.schedules import Schedule
from seqdistill.objectives.divergences import Scale
from seqdistill.objectives.policy_gradient import POLICY_GRADIENTS, Estimator
from seqdistill.objectives.registry import DIVERGENCES

TERM_NAMES = (*DIVERGENCES, *POLICY_GRADIENTS)
"""Everything that a term may be called."""


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted part: a name of `TERM_NAMES` with its parameters.

    `weight` and `alpha` may be schedules; a number is constant. jensen_shannon takes any beta from
    0 to 1: the ends mean forward_kl and reverse_kl.

    `origin` makes the term count only sequences of these writers (DistiLLM-2 pulls the
    teacher's by one skew KL and the student's by the other). All terms still share one count, that
    of the whole batch, so it is as if the values of the other sequences were zero; the part that is
    logged has the count of its own sequences and reads as the divergence on those.
    """

    divergence: str
    weight: float | Schedule = 1.0
    beta: float | None = None
    alpha: float | Schedule | None = None
    scale: Scale = "raw"
    head_mass: float = 0.5
    """adaptive_kl: how much of the teacher's probability its head must have."""
    origin: tuple[Origin, ...] | None = None
    importance_weighted: bool = False
    """reverse_kl: multiply every position by q_t / p~_t, the student's probability of the token
    over the one it was drawn with: MiniLLM's single-step term (their code leaves it out)."""
    estimator: Estimator = "paper"
    """sequence_reverse_kl: where returns start, as `sequence_reverse_kl_weights` explains."""
    discount: float = 1.0
    """sequence_reverse_kl: how much less every later position of a return counts than the one
    before it. MiniLLM's paper has none; its code uses 0.95."""
    length_normalized: bool = False
    """sequence_reverse_kl: divide every return by the number of positions that it sums."""
    clip: float | None = None
    """sequence_reverse_kl: a position whose importance weight has left [1 - clip, 1 + clip] in the
    direction of its return has no pull, as in PPO. MiniLLM uses 0.2."""
    start_fraction: float = 0.4
    """interpolated_forward_kl: the teacher's share of the target at the first update."""
    step: float = 5e-4
    """interpolated_forward_kl: the largest adaptive step of that share."""
    momentum: float = 0.99
    """interpolated_forward_kl: of the average of the loss's relative falls."""

    @property
    def resolved(self) -> str:
        """The divergence that is computed: jensen_shannon's two ends are other functions."""
        if self.divergence == "jensen_shannon" and self.beta in (0.0, 1.0):
            return "reverse_kl" if self.beta else "forward_kl"
        return self.divergence

    @property
    def is_policy_gradient(self) -> bool:
        """Whether the term weighs the likelihood of sampled tokens by what came of them."""
        return self.divergence in POLICY_GRADIENTS

    @property
    def is_hard(self) -> bool:
        """Whether the term pulls toward target ids instead of a teacher's distribution."""
        return not self.is_policy_gradient and DIVERGENCES[self.divergence].needs == "target_ids"

    @property
    def is_likelihood(self) -> bool:
        """Whether there is one right symbol at every position, whoever names it."""
        return not self.is_policy_gradient and DIVERGENCES[self.divergence].one_right_symbol

    @property
    def needs_teacher(self) -> bool:
        """Whether the term reads the teacher's distribution."""
        return not self.is_hard and self.divergence != "reward"

    @property
    def knows_temperature(self) -> bool:
        """Whether the loss temperature divides its logits."""
        return not self.is_policy_gradient and not self.is_likelihood

    def weight_at(self, update: int, updates: int) -> float:
        """The weight at `update`, counted from 1, of a run of `updates`."""
        return _at(self.weight, update, updates)

    def alpha_at(self, update: int, updates: int) -> float | None:
        """The skew at `update`, counted from 1, of a run of `updates`."""
        return None if self.alpha is None else _at(self.alpha, update, updates)


def check_term(term: Term) -> None:
    """Raises RecipeError for an unknown name, a parameter missing, misplaced or out of range."""
    if term.divergence not in TERM_NAMES:
        raise RecipeError(
            f"divergence must be one of {', '.join(TERM_NAMES)}; got {term.divergence!r}."
            + did_you_mean(term.divergence, TERM_NAMES)
        )
    if min(_ends(term.weight)) < 0.0:
        raise RecipeError(f"weight of {term.divergence} must not be negative, got {term.weight}")
    _check_mixture(term)
    _check_owners(term)
    _check_ranges(term)
    if term.origin is not None and not term.origin:
        raise RecipeError(
            f"origin of {term.divergence} must name at least one writer, got none; leave it "
            "out to count every sequence"
        )


def _check_mixture(term: Term) -> None:
    required = () if term.is_policy_gradient else DIVERGENCES[term.divergence].required_parameters
    for parameter in required:
        if parameter not in ("beta", "alpha"):
            continue  # the share of a moving target is the objective's own business
        value = term.beta if parameter == "beta" else term.alpha
        if value is None:
            raise RecipeError(f"{term.divergence} needs {parameter}, a number between 0 and 1")
        ends_allowed = parameter == "beta"
        for end in _ends(value):
            if not (0.0 < end < 1.0 or (ends_allowed and end in (0.0, 1.0))):
                raise RecipeError(
                    f"{parameter} of {term.divergence} must lie between 0 and 1"
                    f"{'' if ends_allowed else ', ends excluded'}, got {end}"
                )


_OWNERS = {
    "head_mass": "adaptive_kl",
    "importance_weighted": "reverse_kl",
    "estimator": "sequence_reverse_kl",
    "discount": "sequence_reverse_kl",
    "length_normalized": "sequence_reverse_kl",
    "clip": "sequence_reverse_kl",
    "start_fraction": "interpolated_forward_kl",
    "step": "interpolated_forward_kl",
    "momentum": "interpolated_forward_kl",
}


def _check_owners(term: Term) -> None:
    """A setting that no one reads is a mistake, not a wish."""
    unset = Term(term.divergence)
    for parameter, owner in _OWNERS.items():
        value = getattr(term, parameter)
        if value != getattr(unset, parameter) and term.resolved != owner:
            raise RecipeError(
                f"{parameter} must belong to a {owner} term, got {value} for {term.divergence}; "
                "remove it"
            )


def _check_ranges(term: Term) -> None:
    def refuse(parameter: str, allowed: str) -> None:
        raise RecipeError(
            f"{parameter} of {term.divergence} must lie {allowed}, got {getattr(term, parameter)}"
        )

    if not 0.0 < term.head_mass < 1.0:
        refuse("head_mass", "strictly between 0 and 1")
    if term.clip is not None and not 0.0 < term.clip < 1.0:
        refuse("clip", "strictly between 0 and 1")
    if not 0.0 < term.discount <= 1.0:
        refuse("discount", "above 0 and not above 1")
    for parameter, value in (("start_fraction", term.start_fraction), ("step", term.step)):
        if not 0.0 <= value <= 1.0:
            refuse(parameter, "between 0 and 1")
    if not 0.0 <= term.momentum < 1.0:
        refuse("momentum", "from 0 to below 1")


def _at(value: float | Schedule, update: int, updates: int) -> float:
    return value.value(update, updates) if isinstance(value, Schedule) else value


def _ends(value: float | Schedule) -> tuple[float, ...]:
    """The extremes of a number that may change: schedules are monotone."""
    if isinstance(value, Schedule):
        return (value.start,) if value.shape == "constant" else (value.start, value.end)
    return (value,)
