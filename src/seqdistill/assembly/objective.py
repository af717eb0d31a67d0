"""From a recipe's objective section to the objective that the training loop calls."""

from __future__ import annotations

import dataclasses

from seqdistill.core.schedules import Schedule
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.term import Term
from seqdistill.recipe import objective_schema
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Number


def build_objective(recipe: Recipe) -> WeightedObjective:
    """The weighted sum of the recipe's terms."""
    section = recipe.objective
    return WeightedObjective(
        [build_term(term) for term in section.terms],
        reduction=section.reduction,
        loss_temperature=section.loss_temperature,
        monitors=section.monitors,
    )


def build_term(term: objective_schema.Term) -> Term:
    """One term; what the recipe leaves open is the objective's own default."""
    built = Term(
        divergence=term.divergence,
        weight=build_schedule(term.weight),
        beta=term.beta,
        alpha=None if term.alpha is None else build_schedule(term.alpha),
        scale=term.scale,
        origin=term.origin,
        importance_weighted=term.importance_weighted,
        discount=term.discount,
        clip=term.clip,
    )
    return dataclasses.replace(
        built,
        head_mass=built.head_mass if term.head_mass is None else term.head_mass,
        start_fraction=built.start_fraction if term.start_fraction is None else term.start_fraction,
        estimator=term.estimator,
        length_normalized=term.divergence == "sequence_reverse_kl" and term.length_normalized,
    )


def build_schedule(number: Number) -> Schedule:
    """The number as a function of the update. Raises ValueError for an adaptive one."""
    if number.shape == "adaptive":
        raise ValueError("an adaptive number follows dev scores and is no schedule")
    return Schedule(number.start, number.end, number.shape)
