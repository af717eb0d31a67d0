"""From a recipe's objective section to the objective that the training loop calls."""

from __future__ import annotations

from seqdistill.objectives.objective import Term, WeightedObjective
from seqdistill.recipe.schema import Recipe


def build_objective(recipe: Recipe) -> WeightedObjective:
    """The weighted sum of the recipe's terms."""
    section = recipe.objective
    terms = [
        Term(
            divergence=term.divergence,
            weight=term.weight,
            beta=term.beta,
            alpha=term.alpha,
            scale=term.scale,
        )
        for term in section.terms
    ]
    return WeightedObjective(
        terms, reduction=section.reduction, loss_temperature=section.loss_temperature
    )
