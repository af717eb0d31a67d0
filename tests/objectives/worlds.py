"""What tests of the objective share: terms by name, and a mean from the plain functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS, TokenWeight
from seqdistill.core.origins import Origin
from seqdistill.core.registry import Chosen
from seqdistill.core.terms import Reduction, Term
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.reduction import reduce
from seqdistill.testing.world import VOCAB, World, world

__all__ = [
    "OF_POSITIONS",
    "VOCAB",
    "World",
    "mean",
    "of_targets",
    "only",
    "plain_mean",
    "term",
    "world",
]

PARAMETERS: dict[str, dict[str, Any]] = {
    "jensen_shannon": {"beta": 0.3},
    "skew_forward_kl": {"alpha": 0.1},
    "skew_reverse_kl": {"alpha": 0.1},
    "sequence_reverse_kl": {"length_normalized": False},
}
OF_POSITIONS = [name for name, member in DIVERGENCES.items() if not member.of_chunks]
"""Those that are a function of whole distributions, or of targets, at one position."""
TERM_NAMES = (*DIVERGENCES, "advantages", "sequence_reverse_kl")
"""Divergences, and the policy gradients that weights make of a likelihood."""


def term(name: str, **settings: Any) -> Term:
    """The divergence of that name, or the likelihood with the token weight of that name."""
    settings = PARAMETERS.get(name, {}) | settings
    if name in DIVERGENCES:
        return Term.of(name, **settings)
    weight = TOKEN_WEIGHTS.choose(name, **settings)
    return Term.of("negative_log_likelihood", token_weights=[weight])


def only(*origins: Origin) -> Chosen[TokenWeight]:
    """The token weight that keeps sequences of these origins."""
    return TOKEN_WEIGHTS.choose("origin", origins=origins)


def plain_mean(one: Term, here: World, reduction: Reduction, temperature: float = 1.0) -> float:
    """The term's mean by the plain function, of logits built whole."""
    chosen, member = one.divergence, one.divergence.member
    state = member.new_state(chosen.parameters)
    arguments = chosen.arguments() if state is None else state.arguments()
    student, teacher = here.log_probs(1.0 if member.one_right_symbol else temperature)
    other = here.batch.target_ids if member.takes_targets else teacher
    if member.of_chunks:  # of one vocabulary every token is one
        student, other = (of_targets(each, here) for each in (student, teacher))
    values = member.function(student.detach(), other, **arguments)
    return reduce(values, here.batch.target_mask, reduction).mean


def of_targets(log_probs: Tensor, here: World) -> Tensor:
    """(batch, time): those of the batch's tokens."""
    return log_probs.gather(-1, here.batch.target_ids[..., None])[..., 0]


def mean(objective: WeightedObjective, here: World) -> float:
    total, _ = objective(here.states, here.scores, here.batch)
    return total.detached().mean
