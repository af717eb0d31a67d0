"""Which small students are worth naming."""

from __future__ import annotations

from experiments.followers.page import SMALLEST_SHOWN, Form, frontier, knee


def form(method: str, size: int, error: float) -> Form:
    measure = SMALLEST_SHOWN.measure
    return Form({"method": method, measure.greedy: error}, measure, "int8", size, 1000 / size)


def test_the_knee_lies_on_the_frontier_where_further_halvings_begin_to_cost_more() -> None:
    """Errors by bytes: 20 at 1,000; 22 at 250; 24 at 62; then 40 and 60. One form is worse than a
    smaller one."""
    sizes = {"a": (1000, 20.0), "b": (250, 22.0), "c": (62, 24.0), "d": (31, 40.0), "e": (16, 60.0)}
    forms = [form(name, *found) for name, found in sizes.items()]
    best = frontier([*forms, form("beaten", 500, 23.0)])
    assert [one.system for one in best] == [*sizes]
    assert knee(best).system == "c"
