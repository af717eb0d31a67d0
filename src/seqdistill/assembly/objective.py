"""From a recipe's objective section to the objective that the training loop calls."""

from __future__ import annotations

from seqdistill.core.schedules import Schedule
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Number


def build_objective(recipe: Recipe) -> WeightedObjective:
    """The weighted sum of the recipe's terms."""
    section = recipe.objective
    return WeightedObjective(
        section.built_terms(),
        reduction=section.reduction,
        loss_temperature=section.loss_temperature,
        monitors=section.monitors,
    )


def build_schedule(number: Number) -> Schedule:
    """The number as a function of the update. Raises ValueError for an adaptive one."""
    if number.shape == "adaptive":
        raise ValueError("an adaptive number follows dev scores and is no schedule")
    return Schedule(number.start, number.end, number.shape)
