"""What a module of your own imports to add a method: see docs/how-to.

    from seqdistill.plugins import divergence, feature_match, metric, parameters, reward, ...

Each is a decorator that takes the member's name; `parameters` makes the frozen dataclass of what a
recipe may set. A recipe joins the module by `plugins: [my_module]` or `plugins: [path/to/file.py]`,
an installed package by an entry point of the group `seqdistill.plugins`.
"""

from seqdistill.core.families import (
    divergence,
    feature_match,
    metric,
    reward,
    token_weight,
)
from seqdistill.core.registry import parameters
from seqdistill.core.schedules import Schedulable, between

__all__ = [
    "Schedulable",
    "between",
    "divergence",
    "feature_match",
    "metric",
    "parameters",
    "reward",
    "token_weight",
]
