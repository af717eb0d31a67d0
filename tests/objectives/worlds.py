"""What tests of the objective share: terms by name, and a naive loop over a padded batch."""

from __future__ import annotations

from typing import Any

from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS, TokenWeight
from seqdistill.core.origins import Origin
from seqdistill.core.registry import Chosen
from seqdistill.core.terms import Reduction, Term
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.testing.world import VOCAB, World, world

__all__ = ["VOCAB", "World", "mean", "naive", "only", "term", "world"]

PARAMETERS: dict[str, dict[str, Any]] = {
    "jensen_shannon": {"beta": 0.3},
    "skew_forward_kl": {"alpha": 0.1},
    "skew_reverse_kl": {"alpha": 0.1},
    "sequence_reverse_kl": {"length_normalized": False},
}
TERM_NAMES = (*DIVERGENCES, "advantages", "sequence_reverse_kl")
"""Divergences, and the policy gradients that weights make of a likelihood."""


def term(name: str, **settings: Any) -> Term:
    """The divergence of that name, or the likelihood with the token weight of that name."""
    if name in DIVERGENCES:
        return Term.of(name, **(PARAMETERS.get(name, {}) | settings))
    weight = TOKEN_WEIGHTS.choose(name, **(PARAMETERS.get(name, {}) | settings))
    return Term.of("negative_log_likelihood", token_weights=[weight])


def only(*origins: Origin) -> Chosen[TokenWeight]:
    """The token weight that keeps sequences of these origins."""
    return TOKEN_WEIGHTS.choose("origin", origins=origins)


def naive(term: Term, here: World, reduction: Reduction, temperature: float) -> float:
    """The term's mean, one position after another, with the plain functions."""
    chosen, member = term.divergence, term.divergence.member
    state = member.new_state(chosen.parameters)
    parameters = chosen.arguments() if state is None else state.arguments()
    temperature = 1.0 if member.one_right_symbol else temperature
    per_sequence: list[list[float]] = []
    for row in range(here.batch.num_sequences):
        values = []
        for time in range(here.batch.target_ids.shape[1]):
            if not here.batch.target_mask[row, time]:
                continue
            student = here.states.head.logits(here.states.hidden[row, time]).detach()
            if member.takes_targets:
                other = here.batch.target_ids[row, time]
            else:
                student = student / temperature
                teacher = here.scores.head.logits(here.scores.hidden[row, time])
                other = (teacher / temperature).log_softmax(-1)
            values.append(float(member.function(student.log_softmax(-1), other, **parameters)))
        if values:
            per_sequence.append(values)
    total = sum(map(sum, per_sequence))
    if reduction == "token":
        return total / sum(map(len, per_sequence))
    if reduction == "sum":
        return total / len(per_sequence)
    return sum(sum(values) / len(values) for values in per_sequence) / len(per_sequence)


def mean(objective: WeightedObjective, here: World) -> float:
    total, _ = objective(here.states, here.scores, here.batch)
    return total.detached().mean
