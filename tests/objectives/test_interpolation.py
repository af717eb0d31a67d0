"""TAID's moving target: its arithmetic, its state, and the objective that carries it."""

from __future__ import annotations

import json
import math

import pytest
from tests.objectives.worlds import World, term, world

from seqdistill.core.families import DIVERGENCES, InterpolatedForwardKL
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.adaptive_divergences import InterpolationShare
from seqdistill.objectives.objective import WeightedObjective

TAID = term("interpolated_forward_kl")
UPDATES = 100_000


def fresh() -> InterpolationShare:
    return InterpolationShare(InterpolatedForwardKL())


def test_strange_losses_move_nothing_strangely() -> None:
    share = fresh()
    for update, loss in enumerate((1.0, math.nan, 1e-300, 1e300, 0.0, 0.0, 1.0), start=1):
        share.learn(loss, update, UPDATES)
        assert 0.4 <= share.share <= 1.0
    single = fresh()
    single.learn(1.0, 1, 1)
    assert single.share == 1.0


def train(objective: WeightedObjective, here: World, first: int, last: int) -> list[float]:
    """Updates with micro-batches of one sequence; the losses of the term."""
    losses = []
    for update in range(first, last + 1):
        objective.begin_update(update, UPDATES, logged=False)
        sums: dict[str, TokenSum] = {}
        for row in range(here.batch.num_sequences):
            piece = here.rows(slice(row, row + 1))
            _, parts = objective(piece.states, piece.scores, piece.batch)
            for name, part in parts.items():
                sums[name] = sums.get(name, TokenSum.zero()) + part.detached()
        objective.end_update(sums)
        here.states.hidden.data.mul_(0.9)
        losses.append(sums["interpolated_forward_kl"].mean)
    return losses


def test_the_share_learns_from_the_mean_of_the_whole_update() -> None:
    objective, share = WeightedObjective([TAID], reduction="sequence"), fresh()
    for update, loss in enumerate(train(objective, world(), 1, 6), start=1):
        share.learn(loss, update, UPDATES)
    state = objective.state_dict()
    assert state["interpolated_forward_kl.share"] == pytest.approx(share.share, rel=1e-9)
    assert share.share > 0.4 + 0.6 * 6 / (UPDATES - 1), "the adaptive step must have been taken"


def test_resumed_equals_uninterrupted() -> None:
    whole = WeightedObjective([TAID], reduction="token")
    expected = train(whole, world(), 1, 8)
    first, here = WeightedObjective([TAID], reduction="token"), world()
    train(first, here, 1, 4)
    second = WeightedObjective([TAID], reduction="token")
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert train(second, here, 5, 8) == expected[4:]
    assert second.state_dict() == whole.state_dict()


def test_the_share_is_logged_and_is_that_of_the_loss() -> None:
    here = world()
    objective = WeightedObjective(
        [term("interpolated_forward_kl", start_fraction=0.7)], reduction="sum"
    )
    _, parts = objective(here.states, here.scores, here.batch)
    assert parts["interpolation_share"].mean == 0.7
    student, teacher = (
        x.head.logits(x.hidden).log_softmax(-1).detach() for x in (here.states, here.scores)
    )
    values = DIVERGENCES["interpolated_forward_kl"].function(student, teacher, share=0.7)
    expected = float(values[here.batch.target_mask].sum()) / here.batch.num_sequences
    assert parts["interpolated_forward_kl"].mean == pytest.approx(expected)


def test_two_moving_targets_have_two_states() -> None:
    terms = [TAID, term("interpolated_forward_kl", start_fraction=0.8)]
    objective, here = WeightedObjective(terms, reduction="token"), world()
    _, parts = objective(here.states, here.scores, here.batch)
    assert parts["interpolation_share"].mean == 0.4
    assert parts["interpolation_share_2"].mean == pytest.approx(0.8)
    state = objective.state_dict()
    assert state["interpolated_forward_kl.share"] == 0.4
    assert state["interpolated_forward_kl_2.share"] == 0.8
    other = WeightedObjective(terms, reduction="token")
    other.load_state_dict(state | {"interpolated_forward_kl_2.share": 0.9})
    assert other.state_dict()["interpolated_forward_kl.share"] == 0.4
    assert other.state_dict()["interpolated_forward_kl_2.share"] == 0.9
