"""Terms: schedules, whom they count, and what they refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.objectives.worlds import mean, naive, only, term, world
from torch import Tensor

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS, TokenWeight
from seqdistill.core.origins import Origin
from seqdistill.core.registry import Chosen
from seqdistill.core.schedules import Schedule
from seqdistill.core.terms import Reduction, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Observation

FKL = term("forward_kl")
WRITERS: tuple[Origin, ...] = ("teacher", "student", "reference", "student")


def test_a_scheduled_weight_is_that_of_the_update() -> None:
    here = world()
    objective = WeightedObjective(
        [term("forward_kl", weight=Schedule(2.0, 0.5))], reduction="token"
    )
    value = naive(term("forward_kl"), here, "token", 1.0)
    assert mean(objective, here) == pytest.approx(2.0 * value), "the start before any update"
    for update, weight in ((1, 2.0), (2, 1.25), (3, 0.5)):
        objective.begin_update(update, 3, logged=False)
        assert mean(objective, here) == pytest.approx(weight * value)
        _, parts = objective(here.states, here.scores, here.batch)
        assert parts["forward_kl"].mean == pytest.approx(value), "logs are unweighted"


def test_a_scheduled_skew_is_that_of_the_update() -> None:
    here = world()
    schedule = Schedule(0.1, 0.4, "exponential")
    objective = WeightedObjective([term("skew_reverse_kl", alpha=schedule)], reduction="sum")
    for update, alpha in ((1, 0.1), (2, 0.2), (3, 0.4)):
        objective.begin_update(update, 3, logged=False)
        expected = naive(term("skew_reverse_kl", alpha=alpha), here, "sum", 1.0)
        assert mean(objective, here) == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_terms_by_writer_are_as_if_the_others_were_zero(reduction: Reduction) -> None:
    """DistiLLM-2: skew KL on the teacher's sequences, skew reverse KL on the student's."""
    here = world().told(origins=WRITERS)
    terms = [
        term("skew_forward_kl", alpha=0.1, token_weights=[only("teacher")]),
        term("skew_reverse_kl", alpha=0.1, token_weights=[only("student")]),
    ]
    whole, parts = WeightedObjective(terms, reduction=reduction)(
        here.states, here.scores, here.batch
    )
    total = TokenSum.zero()
    for name, rows in (("skew_forward_kl", (0,)), ("skew_reverse_kl", (1, 3))):
        alone = WeightedObjective([term(name)], reduction=reduction)
        own = TokenSum.zero()
        for row in rows:
            piece = here.rows(slice(row, row + 1))
            own = own + alone(piece.states, piece.scores, piece.batch)[0]
        assert parts[name].mean == pytest.approx(own.mean), "the divergence on those it counts"
        assert parts[name].count == own.count
        total = total + own
    torch.testing.assert_close(whole.total, total.total)
    everything, _ = WeightedObjective([term("forward_kl")], reduction=reduction)(
        here.states, here.scores, here.batch
    )
    assert whole.count == everything.count, "one count, that of the whole batch"
    weight = here.states.head.weight
    pair = [torch.autograd.grad(loss.total, weight)[0] for loss in (whole, total)]
    torch.testing.assert_close(pair[0], pair[1])


def test_a_writer_who_wrote_nothing_counts_nothing() -> None:
    here = world().told(origins=WRITERS)
    objective = WeightedObjective(
        [term("forward_kl", token_weights=[only("teacher_mixed")])], reduction="token"
    )
    total, parts = objective(here.states, here.scores, here.batch)
    assert total.total == 0.0
    assert total.count == here.batch.num_targets
    assert parts["forward_kl"].count == 0.0
    (gradient,) = torch.autograd.grad(total.total, here.states.hidden)
    assert (gradient == 0.0).all()


def test_a_batch_that_does_not_say_who_wrote_it_is_refused() -> None:
    here = world()
    objective = WeightedObjective(
        [term("forward_kl", token_weights=[only("student")])], reduction="token"
    )
    with pytest.raises(RecipeError, match=r"student, .* got a batch without"):
        objective(here.states, here.scores, here.batch)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("skew_forward_kl", {"alpha": Schedule(0.0, 0.5)}, "alpha"),
        ("skew_forward_kl", {"alpha": "much"}, "alpha"),
        ("skew_forward_kl", {"alpha": {"start": 0.1, "stop": 0.5}}, "alpha"),
        ("jensen_shannon", {"beta": 1.5}, "beta"),
        ("adaptive_kl", {"head_mass": 1.0}, "head_mass"),
        ("forward_kl", {"head_mass": 0.4}, "head_mass"),
        ("interpolated_forward_kl", {"start_fraction": 1.1}, "start_fraction"),
        ("interpolated_forward_kl", {"step": 1.1}, "step"),
        ("interpolated_forward_kl", {"momentum": 1.0}, "momentum"),
        ("sequence_reverse_kl", {"discount": 0.0}, "discount"),
        ("sequence_reverse_kl", {"clip": 1.0}, "clip"),
        ("advantages", {"clip": 0.2}, "clip"),
        ("origin", {"origins": ()}, "origins"),
        ("origin", {"origins": ("pupil",)}, "origins"),
    ],
)
def test_impossible_parameters_are_refused(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        term(name, **settings)
    for family in (DIVERGENCES, TOKEN_WEIGHTS):
        with pytest.raises(RecipeError, match=f"Did you mean {list(family)[2]!r}"):
            family.choose(list(family)[2] + "s")


POLICY = TOKEN_WEIGHTS.choose("advantages")


def test_an_extra_is_one_number_a_sequence_and_other_shapes_are_refused() -> None:
    rates = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    here = world().told(extras={"rate": rates})
    seen = Observation(here.states, here.scores, here.batch)
    of_rate = TokenWeight("of_rate", lambda seen: seen.extra("rate"))
    found = seen.weights(Chosen(of_rate, of_rate.parameters()))
    assert torch.equal(found, rates[:, None].expand(here.batch.target_mask.shape))
    flat = TokenWeight("flat", lambda seen: seen.target_mask[0].double())
    with pytest.raises(RecipeError, match=r"flat must .* \(batch, time\)"):
        seen.weights(Chosen(flat, flat.parameters()))
    with pytest.raises(RecipeError, match=r"'other' .* data\.extra_columns"):
        seen.extra("other")


@pytest.mark.parametrize(
    ("terms", "settings", "word"),
    [
        ([], {}, "at least one"),
        ([term("forward_kl", weight=-1.0)], {}, "at least 0"),
        ([term("forward_kl", weight=Schedule(1.0, -1.0))], {}, "at least 0"),
        ([term("forward_kl", weight=0.0)], {}, "greater than 0"),
        ([term("forward_kl")], {"loss_temperature": 0.0}, "loss_temperature"),
        ([term("negative_log_likelihood")], {"loss_temperature": 2.0}, "loss_temperature"),
        ([term("sequence_reverse_kl"), FKL], {"loss_temperature": 2.0}, "loss_temperature"),
        ([term("sequence_reverse_kl")], {"reduction": "token"}, "reduction"),
        ([term("sequence_reverse_kl")], {"reduction": "sequence"}, "reduction"),
        ([term("advantages")], {"reduction": "token"}, "reduction"),
        ([term("forward_kl", token_weights=[POLICY])], {}, "divergence"),
        ([term("reverse_kl", token_weights=["importance", "importance"])], {}, "once"),
        (
            [
                Term.of(
                    "negative_log_likelihood",
                    token_weights=["advantages", "sequence_reverse_kl"],
                )
            ],
            {},
            "two terms",
        ),
    ],
)
def test_terms_that_do_not_go_together_are_refused(
    terms: list[Term], settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(RecipeError, match=word):
        WeightedObjective(terms, **({"reduction": "sum"} | settings))


@pytest.fixture
def first_tokens() -> Iterator[Chosen[TokenWeight]]:
    """A weight that keeps the first tokens of each sequence and counts those alone."""

    def weigh(seen: Observation, num: int) -> Tensor:
        return (torch.arange(seen.target_mask.shape[1]) < num) * torch.ones(seen.target_mask.shape)

    name = "first_tokens"
    TOKEN_WEIGHTS.add(name, weigh, parameters=FirstTokens, leaves_count=True)
    yield TOKEN_WEIGHTS.choose(name, num=2)
    del TOKEN_WEIGHTS._members[name]


@dataclasses.dataclass(frozen=True)
class FirstTokens:
    num: int


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_a_weight_that_leaves_the_count_is_as_if_the_rest_were_masked(
    reduction: Reduction, first_tokens: Chosen[TokenWeight]
) -> None:
    here = world()
    shorter = here.batch.target_mask & (torch.arange(7) < 2)
    objective = WeightedObjective(
        [term("forward_kl", token_weights=[first_tokens])], reduction=reduction
    )
    expected, _ = WeightedObjective([FKL], reduction=reduction)(
        here.states, here.scores, here.told(target_mask=shorter).batch
    )
    found, parts = objective(here.states, here.scores, here.batch)
    assert (found.total.item(), found.count) == (expected.total.item(), expected.count)
    assert parts["forward_kl"].mean == pytest.approx(expected.detached().mean)
    with pytest.raises(RecipeError, match="one count"):
        WeightedObjective(
            [term("forward_kl", token_weights=[first_tokens]), FKL], reduction=reduction
        )
