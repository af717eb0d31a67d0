"""The page's statistics are SciPy's and NumPy's."""

import numpy as np
import pytest
from experiments.harness.statistics import (
    Estimate,
    difference_of_singles,
    exponential,
    mean,
    negated,
    over_seeds,
    paired_differences,
    t_interval,
)
from scipy import stats


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_t_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(20.0, 3.0, size=n)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(list(values)) == pytest.approx(expected, rel=1e-12)
    assert mean(list(values)) == pytest.approx(values.mean(), rel=1e-14)


def test_paired_differences_give_the_interval_of_scipys_paired_test() -> None:
    generator = np.random.default_rng(7)
    base = generator.normal(15.0, 2.0, size=5)
    system = base + generator.normal(1.0, 0.2, size=5)
    found = over_seeds(
        paired_differences(dict(enumerate(system.tolist())), dict(enumerate(base.tolist())))
    )
    expected = stats.ttest_rel(system, base).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (found.n, found.basis) == (5, "seeds")


def test_only_seeds_of_both_systems_are_paired() -> None:
    assert paired_differences({1: 5.0, 2: 7.0, 4: 1.0}, {2: 6.0, 1: 1.0, 3: 0.0}) == (4.0, 1.0)
    assert paired_differences({1: 5.0}, {2: 6.0}) == ()


def test_the_order_of_values_does_not_change_a_bit() -> None:
    values = [0.1, 0.2, 0.3, 1e9, -1e9]
    assert over_seeds(values) == over_seeds(values[::-1])


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert over_seeds([3.0]) == Estimate(3.0, None, None, 1, "none")
    with pytest.raises(ValueError, match="at least two"):
        t_interval([3.0])
    with pytest.raises(ValueError, match="at least one"):
        mean([])


def test_intervals_of_singles_add_in_squares() -> None:
    system = Estimate(20.0, 17.0, 23.0, 1, "test set")
    base = Estimate(15.0, 11.0, 19.0, 1, "test set")
    found = difference_of_singles(system, base)
    assert (found.value, found.low, found.high) == (5.0, 0.0, 10.0)  # 3, 4, 5
    bare = Estimate(15.0, None, None, 1, "none")
    assert difference_of_singles(system, bare) == Estimate(5.0, None, None, 1, "none")


def test_a_negated_estimate_is_that_of_the_negated_values() -> None:
    values = [1.0, 2.5, 4.0]
    opposite, expected = negated(over_seeds(values)), over_seeds([-value for value in values])
    assert (opposite.low, opposite.high) == pytest.approx((expected.low, expected.high))
    assert opposite.value == -over_seeds(values).value


def test_a_ratio_is_the_exponential_of_a_difference_of_logarithms() -> None:
    ratios = np.array([8.0, 12.0, 10.0])
    found = exponential(over_seeds(np.log(ratios).tolist()))
    assert found.value == pytest.approx(stats.gmean(ratios))
    assert found.low is not None and found.low < found.value
