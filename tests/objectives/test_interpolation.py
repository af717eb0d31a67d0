"""TAID's moving target: its arithmetic, its state, and the objective that carries it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.objectives.worlds import World, term, world

from seqdistill.core.families import DIVERGENCES, InterpolatedForwardKL
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.interpolation import InterpolationShare
from seqdistill.objectives.objective import WeightedObjective

TAID = term("interpolated_forward_kl")
UPDATES = 100_000
LOSSES = (2.0, 1.5, 1.6, 0.4, 0.4, 0.39, 30.0, 0.0, 0.0, 1.0)


def fresh() -> InterpolationShare:
    return InterpolationShare(InterpolatedForwardKL())


def test_the_share_follows_the_papers_arithmetic() -> None:
    """rel, m and t written out; the released code, too, has no rel after the first update."""
    share = fresh()
    t, m = 0.4, 0.0
    for update, loss in enumerate(LOSSES[:7], start=1):
        share.learn(loss, update, UPDATES)
        if update > 1:
            m = 0.99 * m + 0.01 * (LOSSES[update - 2] - loss) / LOSSES[update - 2]
            t = t + 5e-4 / (1 + math.exp(-m)) * (1 - t)
        t = min(1.0, max(t, 0.4 + 0.6 * update / (UPDATES - 1)))
        assert share.share == pytest.approx(t, rel=1e-14)


def test_the_share_goes_at_least_linearly_to_one_at_the_last_update() -> None:
    share = fresh()
    used = []
    for update in range(1, 11):
        used.append(share.share)
        share.learn(1.0, update, 10)
    assert used == pytest.approx([0.4 + 0.6 * done / 9 for done in range(10)], abs=1e-3)
    assert used[0] == 0.4
    assert used[-1] == 1.0
    assert share.share == 1.0, "never beyond the teacher"


def test_a_falling_loss_moves_the_share_sooner() -> None:
    falling, rising = fresh(), fresh()
    for update in range(1, 200):
        falling.learn(0.9**update, update, 10**6)
        rising.learn(1.1**update, update, 10**6)
    assert falling.share > rising.share > 0.4
    assert falling.trend > 0.0 > rising.trend


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


def test_a_fresh_state_reads_back() -> None:
    objective = WeightedObjective([TAID], reduction="token")
    objective.load_state_dict(json.loads(json.dumps(objective.state_dict())))
    assert objective.state_dict() == {
        "interpolated_forward_kl.share": 0.4,
        "interpolated_forward_kl.trend": 0.0,
    }


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


def test_the_target_holds_the_student_constant() -> None:
    """TAID's p_t holds sg[z_S]: the gradient is q - p_t, not that of a target that moves along."""
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (
        torch.randn(5, 9, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    logits.requires_grad_()
    value = DIVERGENCES["interpolated_forward_kl"].function(
        logits.log_softmax(-1), teacher.log_softmax(-1), share=0.3
    )
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    target = (0.7 * logits + 0.3 * teacher).softmax(-1)
    torch.testing.assert_close(gradient, (logits.softmax(-1) - target).detach())
