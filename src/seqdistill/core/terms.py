"""One part of an objective: a divergence x token weights x a factor, and which parts go together.

The rules stand here alone, without torch: recipes are checked by them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from seqdistill.core.families import (
    DIVERGENCES,
    FEATURES,
    OF_ROLLOUTS,
    TOKEN_WEIGHTS,
    Divergence,
    FeatureMatch,
    Stack,
    TokenWeight,
)
from seqdistill.core.registry import Chosen
from seqdistill.core.schedules import Schedule

Reduction = Literal["token", "sequence", "sum"]
Monitor = Literal[
    "student_entropy",
    "teacher_entropy",
    "teacher_reverse_kl",
    "student_topk_overlap",
    "teacher_topk_overlap",
]
"""What is measured only to be looked at: no loss depends on it."""
OF_STUDENT_ALONE: Monitor = "student_entropy"
"""All others compare with the teacher."""
Weighing = str | Chosen[TokenWeight]
OWN_DIVERGENCE, OTHERS_DIVERGENCE = "divergence_own", "divergence_others"
"""What metrics call the mean of a term over the student's own sequences, and over all others."""
LayerMap = Literal["uniform", "last"] | tuple[tuple[int, int], ...]
"""Which layers are compared: evenly spaced ones, the last ones, or (student's, teacher's) pairs."""


@dataclasses.dataclass(frozen=True)
class Term:
    """factor x divergence x the product of its token weights."""

    divergence: Chosen[Divergence]
    weight: float | Schedule = 1.0
    """The factor."""
    token_weights: tuple[Chosen[TokenWeight], ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        *,
        weight: float | Schedule = 1.0,
        token_weights: Sequence[Weighing] = (),
        **parameters: Any,
    ) -> Term:
        """The divergence of that name with its parameters; weights by name or as chosen.

        Raises RecipeError for an unknown name and parameters missing, foreign or out of range.
        """
        chosen = tuple(
            TOKEN_WEIGHTS.choose(given) if isinstance(given, str) else given
            for given in token_weights
        )
        return cls(DIVERGENCES.choose(name, **parameters), weight, chosen)

    @property
    def policy(self) -> Chosen[TokenWeight] | None:
        """The weight that makes the term a policy gradient, if one does."""
        return next((w for w in self.token_weights if w.member.on_policy), None)

    @property
    def name(self) -> str:
        """What logs call it: a policy gradient is no distance, and is called as its weight."""
        return (self.divergence if self.policy is None else self.policy).member.name

    @property
    def asks_teacher(self) -> bool:
        """Whether the divergence or a weight reads the teacher's distribution."""
        takes_targets = self.divergence.member.takes_targets
        return not takes_targets or any(w.member.needs_teacher for w in self.token_weights)

    @property
    def compares_all(self) -> bool:
        """Whether it compares student and teacher at every token, each counting alike."""
        return not self.divergence.member.one_right_symbol and not self.token_weights

    @property
    def rates_rollouts(self) -> bool:
        """Whether a weight reads how many of the update's own rollouts pass."""
        return any(OF_ROLLOUTS in w.member.columns(w.parameters) for w in self.token_weights)

    @property
    def reads_reward(self) -> bool:
        """Whether a weight reads what rollouts are worth."""
        return self.rates_rollouts or any(
            "advantages" in w.member.reads for w in self.token_weights
        )

    @property
    def is_likelihood(self) -> bool:
        """Whether it pulls to one right symbol at every position, whoever names it."""
        return self.divergence.member.one_right_symbol and self.policy is None

    @property
    def takes_temperature(self) -> bool:
        """Whether the loss temperature divides its logits."""
        return not self.divergence.member.one_right_symbol

    @property
    def selecting(self) -> tuple[Chosen[TokenWeight], ...]:
        """The weights whose zeros leave positions out."""
        return tuple(w for w in self.token_weights if w.member.selects or w.member.leaves_count)

    @property
    def counting(self) -> frozenset[Chosen[TokenWeight]]:
        """The weights whose zeros are not counted by the objective either."""
        return frozenset(w for w in self.token_weights if w.member.leaves_count)

    def weight_at(self, update: int, updates: int) -> float:
        """The factor at `update`, counted from 1, of a run of `updates`."""
        return _value_at(self.weight, update, updates)


@dataclasses.dataclass(frozen=True)
class FeatureTerm:
    """factor x the mean distance of pairs of layers, of the student and of the teacher."""

    match: Chosen[FeatureMatch]
    weight: float | Schedule = 1.0
    """The factor."""
    stack: Literal["all"] | Stack = "all"
    layers: LayerMap = "uniform"
    project: bool = False
    """Whether a matrix is trained also where the widths are equal."""

    @classmethod
    def of(
        cls,
        name: str,
        *,
        weight: float | Schedule = 1.0,
        stack: Literal["all"] | Stack = "all",
        layers: LayerMap = "uniform",
        project: bool = False,
        **parameters: Any,
    ) -> FeatureTerm:
        """The match of that name with its parameters.

        Raises RecipeError for an unknown name and parameters missing, foreign or out of range.
        """
        return cls(FEATURES.choose(name, **parameters), weight, stack, layers, project)

    @property
    def name(self) -> str:
        """What logs call it."""
        return self.match.member.name

    def weight_at(self, update: int, updates: int) -> float:
        """The factor at `update`, counted from 1, of a run of `updates`."""
        return _value_at(self.weight, update, updates)


def _value_at(given: float | Schedule, update: int, updates: int) -> float:
    return given.value(update, updates) if isinstance(given, Schedule) else given


def layer_pairs(
    layers: LayerMap, student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    """Which layers of a stack are compared, (student's, teacher's), counted from 1.

    `uniform` pairs the student's layer i with the teacher's i T / S, rounded, halves up, and at
    least 1: the last one with the last.

    Source: Jiao et al. 2020 (TinyBERT), sec. 3.1, where S divides T.
    """
    if layers == "last":
        return ((student_layers, teacher_layers),)
    if layers == "uniform":
        size, other = student_layers, teacher_layers
        return tuple((i, max(1, (2 * i * other + size) // (2 * size))) for i in range(1, size + 1))
    return layers


def term_findings(
    terms: Sequence[Term], reduction: Reduction, loss_temperature: float
) -> Iterator[tuple[str, str]]:
    """What does not go together: a key below `objective`, and a sentence that goes on from it."""
    for position, term in enumerate(terms):
        yield from _findings_of(f"terms.{position}", term)
        if term.counting != terms[0].counting:
            yield (
                f"terms.{position}.token_weights",
                "must leave the same positions out of the count as those of the first term, since "
                "all terms are divided by one count, got others; give both terms the same ones",
            )
    policies = [term.policy.member.name for term in terms if term.policy is not None]
    whole = "sequence_reverse_kl" in policies
    if policies and reduction == "token":
        remedy = "sum" if whole else "sequence or sum"
        yield (
            "reduction",
            f"must be {remedy} with the token weight {policies[0]}, which makes a sum over whole "
            f"sequences, got token; set objective.reduction={remedy.split()[0]}",
        )
    if whole and reduction == "sequence":
        yield (
            "reduction",
            "must be sum with sequence_reverse_kl, which is a sum over each whole sequence beside "
            "which a mean over tokens would count for less, got sequence; set "
            "objective.reduction=sum",
        )
    learning = [t.name for t in terms if t.divergence.member.state is not None]
    if learning and reduction == "sum":
        yield (
            "reduction",
            f"must be token or sequence with {learning[0]}, which follows a mean over tokens, got "
            "sum; set objective.reduction=token",
        )
    if loss_temperature == 1.0:
        return
    if whole:
        yield (
            "loss_temperature",
            "must be 1 with sequence_reverse_kl, which compares what the models themselves say of "
            f"whole sequences, got {loss_temperature:g}; remove it",
        )
    if not any(term.takes_temperature for term in terms):
        yield (
            "loss_temperature",
            "must be 1 when no term compares with the teacher, got "
            f"{loss_temperature:g}; remove it, or add a term such as forward_kl",
        )


def _findings_of(key: str, term: Term) -> Iterator[tuple[str, str]]:
    names = [chosen.member.name for chosen in term.token_weights]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield (
            f"{key}.token_weights",
            f"must name each weight once, got {name} {names.count(name)} times; remove the others",
        )
    policies = [chosen.member.name for chosen in term.token_weights if chosen.member.on_policy]
    if len(policies) > 1:
        yield (
            f"{key}.token_weights",
            f"must name one policy gradient at most, got {' and '.join(policies)}; make two terms",
        )
    if policies and not term.divergence.member.takes_targets:
        yield (
            f"{key}.divergence",
            f"must be negative_log_likelihood with the token weight {policies[0]}, which weighs "
            f"the likelihood of sampled tokens, got {term.divergence.member.name}; set it",
        )
    yield from _of_weight(key, term.weight)


def feature_findings(features: Sequence[FeatureTerm]) -> Iterator[tuple[str, str]]:
    """What does not go together in features, as `term_findings` tells it."""
    for position, feature in enumerate(features):
        key = f"features.{position}"
        yield from _of_weight(key, feature.weight)
        if feature.project and not feature.match.member.projects:
            yield (
                f"{key}.project",
                f"must be left out with {feature.name}, which compares no states that a matrix "
                "could map, got true; remove it",
            )


def _of_weight(key: str, weight: float | Schedule) -> Iterator[tuple[str, str]]:
    ends = weight.ends if isinstance(weight, Schedule) else (weight,)
    if min(ends) < 0.0:
        yield f"{key}.weight", f"must be at least 0, got {weight}; give a number in that range"
    elif max(ends) == 0.0:
        yield f"{key}.weight", f"must be greater than 0, got {weight}; leave the term out instead"
