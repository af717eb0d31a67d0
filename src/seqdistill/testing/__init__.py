"""What every member of a family must satisfy, as functions for your own tests.

    from seqdistill.testing import check_divergence

    def test_my_divergence() -> None:
        check_divergence("renyi", order=0.5)

Each runs the whole suite of its family on small random data and raises AssertionError, saying which
property failed. The package's own members pass the same suites.
"""

from seqdistill.testing.features import check_feature_match
from seqdistill.testing.objectives import check_divergence, check_token_weight
from seqdistill.testing.texts import check_metric, check_reward
from seqdistill.testing.world import World, world

__all__ = [
    "World",
    "check_divergence",
    "check_feature_match",
    "check_metric",
    "check_reward",
    "check_token_weight",
    "world",
]
