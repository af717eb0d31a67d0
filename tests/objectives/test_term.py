"""Terms: schedules, whom they count, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from tests.objectives.worlds import mean, naive, world

from seqdistill.core.errors import RecipeError
from seqdistill.core.origins import Origin
from seqdistill.core.schedules import Schedule
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.reduction import Reduction, reduce
from seqdistill.objectives.registry import DIVERGENCES
from seqdistill.objectives.term import TERM_NAMES, Term

WRITERS: tuple[Origin, ...] = ("teacher", "student", "reference", "student")


def test_a_scheduled_weight_is_that_of_the_update() -> None:
    here = world()
    objective = WeightedObjective(
        [Term("forward_kl", weight=Schedule(2.0, 0.5))], reduction="token"
    )
    value = naive(Term("forward_kl"), here, "token", 1.0)
    assert mean(objective, here) == pytest.approx(2.0 * value), "the start before any update"
    for update, weight in ((1, 2.0), (2, 1.25), (3, 0.5)):
        objective.begin_update(update, 3, logged=False)
        assert mean(objective, here) == pytest.approx(weight * value)
        _, parts = objective(here.states, here.scores, here.batch)
        assert parts["forward_kl"].mean == pytest.approx(value), "logs are unweighted"


def test_a_scheduled_skew_is_that_of_the_update() -> None:
    here = world()
    schedule = Schedule(0.1, 0.4, "exponential")
    objective = WeightedObjective([Term("skew_reverse_kl", alpha=schedule)], reduction="sum")
    for update, alpha in ((1, 0.1), (2, 0.2), (3, 0.4)):
        objective.begin_update(update, 3, logged=False)
        expected = naive(Term("skew_reverse_kl", alpha=alpha), here, "sum", 1.0)
        assert mean(objective, here) == pytest.approx(expected)


def test_a_constant_schedule_is_the_number() -> None:
    here = world()
    number = Term("skew_forward_kl", weight=0.5, alpha=0.1)
    schedule = Term("skew_forward_kl", weight=Schedule.constant(0.5), alpha=Schedule.constant(0.1))
    values = [
        mean(WeightedObjective([term], reduction="token"), here) for term in (number, schedule)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_terms_by_writer_are_as_if_the_others_were_zero(reduction: Reduction) -> None:
    """DistiLLM-2: skew KL on the teacher's sequences, skew reverse KL on the student's."""
    here = world().told(origins=WRITERS)
    terms = [
        Term("skew_forward_kl", alpha=0.1, origin=("teacher",)),
        Term("skew_reverse_kl", alpha=0.1, origin=("student",)),
    ]
    whole, parts = WeightedObjective(terms, reduction=reduction)(
        here.states, here.scores, here.batch
    )
    total = TokenSum.zero()
    for name, rows in (("skew_forward_kl", (0,)), ("skew_reverse_kl", (1, 3))):
        alone = WeightedObjective([Term(name, alpha=0.1)], reduction=reduction)
        own = TokenSum.zero()
        for row in rows:
            piece = here.rows(slice(row, row + 1))
            own = own + alone(piece.states, piece.scores, piece.batch)[0]
        assert parts[name].mean == pytest.approx(own.mean), "the divergence on those it counts"
        assert parts[name].count == own.count
        total = total + own
    torch.testing.assert_close(whole.total, total.total)
    everything, _ = WeightedObjective([Term("forward_kl")], reduction=reduction)(
        here.states, here.scores, here.batch
    )
    assert whole.count == everything.count, "one count, that of the whole batch"
    weight = here.states.head.weight
    pair = [torch.autograd.grad(loss.total, weight)[0] for loss in (whole, total)]
    torch.testing.assert_close(pair[0], pair[1])


def test_a_writer_who_wrote_nothing_counts_nothing() -> None:
    here = world().told(origins=WRITERS)
    objective = WeightedObjective(
        [Term("forward_kl", origin=("teacher_mixed",))], reduction="token"
    )
    total, parts = objective(here.states, here.scores, here.batch)
    assert total.total == 0.0
    assert total.count == here.batch.num_targets
    assert parts["forward_kl"].count == 0.0
    (gradient,) = torch.autograd.grad(total.total, here.states.hidden)
    assert (gradient == 0.0).all()


def test_a_batch_that_does_not_say_who_wrote_it_is_refused() -> None:
    here = world()
    objective = WeightedObjective([Term("forward_kl", origin=("student",))], reduction="token")
    with pytest.raises(RecipeError, match=r"written by student, .* got a batch that does not"):
        objective(here.states, here.scores, here.batch)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_importance_weights_multiply_every_position_of_reverse_kl(reduction: Reduction) -> None:
    here = world()
    mask, targets = here.batch.target_mask, here.batch.target_ids
    log_q = here.states.head.logits(here.states.hidden).log_softmax(-1).detach()
    sampled = log_q.gather(-1, targets[..., None])[..., 0] - torch.randn(
        mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    log_p = here.scores.head.logits(here.scores.hidden).log_softmax(-1)
    values = DIVERGENCES["reverse_kl"].function(log_q, log_p)
    weights = (log_q.gather(-1, targets[..., None])[..., 0] - sampled).exp()
    objective = WeightedObjective(
        [Term("reverse_kl", importance_weighted=True)], reduction=reduction
    )
    expected = reduce(weights * values, mask, reduction).mean
    assert mean(objective, here.told(sampled_log_probs=sampled)) == pytest.approx(expected)
    plain = WeightedObjective([Term("reverse_kl")], reduction=reduction)
    assert mean(objective, here) == pytest.approx(mean(plain, here)), "1 where nobody says"


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term("rewards"), "Did you mean 'reward'"),
        (Term("forward_kl", weight=-1.0), "weight of forward_kl must not be negative"),
        (Term("forward_kl", weight=Schedule(1.0, -1.0)), "must not be negative"),
        (Term("skew_forward_kl", alpha=Schedule(0.0, 0.5)), "ends excluded, got 0"),
        (Term("adaptive_kl", head_mass=1.0), "head_mass of adaptive_kl must lie strictly"),
        (Term("forward_kl", head_mass=0.4), "head_mass must belong to a adaptive_kl term"),
        (Term("forward_kl", importance_weighted=True), "must belong to a reverse_kl term"),
        (Term("reward", clip=0.2), "clip must belong to a sequence_reverse_kl term"),
        (Term("reverse_kl", estimator="released"), "estimator must belong to"),
        (Term("sequence_reverse_kl", discount=0.0), "discount of .* above 0 and not above 1"),
        (Term("reverse_kl", discount=0.9), "discount must belong to"),
        (Term("sequence_reverse_kl", clip=1.0), "clip of sequence_reverse_kl must lie strictly"),
        (
            Term("interpolated_forward_kl", start_fraction=1.1),
            "start_fraction of .* between 0 and 1",
        ),
        (Term("interpolated_forward_kl", momentum=1.0), "momentum of .* below 1"),
        (Term("forward_kl", origin=()), "origin of forward_kl must name"),
    ],
)
def test_impossible_terms_are_refused(term: Term, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        WeightedObjective([term], reduction="sum")


def test_importance_weights_belong_to_what_is_computed() -> None:
    """jensen_shannon with beta = 1 is reverse_kl."""
    term = Term("jensen_shannon", beta=1.0, importance_weighted=True)
    assert math.isfinite(mean(WeightedObjective([term], reduction="sum"), world()))


@pytest.mark.parametrize("name", TERM_NAMES)
def test_who_needs_a_teacher(name: str) -> None:
    term = Term(name, beta=0.5, alpha=0.5)
    objective = WeightedObjective([term], reduction="sum")
    assert objective.needs_teacher == (name not in ("negative_log_likelihood", "reward"))
