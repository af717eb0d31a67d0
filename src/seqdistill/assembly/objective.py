"""From a recipe's objective section to the objective that the training loop calls."""

from __future__ import annotations

from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.schema import Recipe


def build_objective(recipe: Recipe) -> WeightedObjective:
    """The weighted sum of the recipe's terms."""
    section = recipe.objective
    return WeightedObjective(
        section.built_terms(),
        reduction=section.reduction,
        loss_temperature=section.loss_temperature,
        monitors=section.monitors,
    )
