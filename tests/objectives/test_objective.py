"""The objective against a naive loop over positions, and its rules on temperature and ends."""

from __future__ import annotations

import pytest
import torch
from tests.objectives.worlds import VOCAB, mean, naive, term, world

from seqdistill.core.batch import StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES
from seqdistill.core.scores import DenseScores, NoScores
from seqdistill.core.terms import Reduction
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.objective import WeightedObjective

NLL = term("negative_log_likelihood")
FKL = term("forward_kl")


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_term_equals_a_naive_loop(name: str, reduction: Reduction) -> None:
    one, here = term(name, weight=0.7), world()
    temperature = 1.0 if one.divergence.member.one_right_symbol else 2.0
    objective = WeightedObjective([one], reduction=reduction, loss_temperature=temperature)
    total, parts = objective(here.states, here.scores, here.batch)
    expected = naive(one, here, reduction, temperature)
    assert total.detached().mean == pytest.approx(0.7 * expected, rel=1e-6)
    moving = ["interpolation_share"] if name == "interpolated_forward_kl" else []
    assert list(parts) == [name, *moving]
    assert parts[name].mean == pytest.approx(expected, rel=1e-6)
    assert not parts[name].total.requires_grad
    assert objective.needs_teacher == (name != "negative_log_likelihood")


def test_soft_terms_get_t_squared_only_beside_hard_ones() -> None:
    here = world()
    hard, soft = naive(NLL, here, "token", 3.0), naive(FKL, here, "token", 3.0)
    mixed = WeightedObjective([NLL, FKL], reduction="token", loss_temperature=3.0)
    assert mean(mixed, here) == pytest.approx(hard + 9.0 * soft, rel=1e-6)
    _, parts = mixed(here.states, here.scores, here.batch)
    assert parts["forward_kl"].mean == pytest.approx(soft, rel=1e-6), "logs show plain nats"
    alone = WeightedObjective([FKL], reduction="token", loss_temperature=3.0)
    assert mean(alone, here) == pytest.approx(soft, rel=1e-6)


def test_the_teachers_mode_is_a_hard_target_beside_which_soft_terms_get_t_squared() -> None:
    """It knows no temperature itself, and is not multiplied by T squared."""
    here, mode = world(), term("teacher_mode_likelihood")
    hard, soft = naive(mode, here, "token", 1.0), naive(FKL, here, "token", 3.0)
    mixed = WeightedObjective([mode, FKL], reduction="token", loss_temperature=3.0)
    assert mean(mixed, here) == pytest.approx(hard + 9.0 * soft, rel=1e-6)
    rewarded = here.told(advantages=torch.zeros(4))
    beside = WeightedObjective([term("advantages"), FKL], reduction="sum", loss_temperature=3.0)
    assert mean(beside, rewarded) == pytest.approx(naive(FKL, here, "sum", 3.0), rel=1e-6)


def test_word_level_kd_is_the_weighted_sum_of_its_terms() -> None:
    here = world()
    terms = [term(name, weight=0.5) for name in ("negative_log_likelihood", "cross_entropy")]
    expected = sum(0.5 * naive(term, here, "sum", 1.0) for term in terms)
    assert mean(WeightedObjective(terms, reduction="sum"), here) == pytest.approx(expected)


@pytest.mark.parametrize(("beta", "end"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_ends_of_beta_are_the_two_kls(beta: float, end: str) -> None:
    here = world()
    at_end = WeightedObjective([term("jensen_shannon", beta=beta)], reduction="token")
    named = WeightedObjective([term(end)], reduction="token")
    assert mean(at_end, here) == mean(named, here)
    _, parts = at_end(here.states, here.scores, here.batch)
    assert list(parts) == ["jensen_shannon"], "logs keep the name that the user typed"


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_micro_batches_sum_to_the_whole_in_value_and_gradient(reduction: Reduction) -> None:
    here = world()
    objective = WeightedObjective(
        [NLL, term("jensen_shannon", beta=0.5)], reduction=reduction, loss_temperature=2.0
    )
    weight = here.states.head.weight
    whole, _ = objective(here.states, here.scores, here.batch)
    (expected,) = torch.autograd.grad(whole.total / whole.count, weight)
    parts = TokenSum.zero()
    for rows in (slice(0, 1), slice(1, 4)):
        piece = here.rows(rows)
        parts = parts + objective(piece.states, piece.scores, piece.batch)[0]
    (gradient,) = torch.autograd.grad(parts.total / parts.count, weight)
    assert parts.detached().mean == pytest.approx(whole.detached().mean, rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_padding_is_never_read_and_receives_no_gradient() -> None:
    here = world()
    hole = ~here.batch.target_mask
    here.states.hidden.data[hole] = torch.nan
    here.scores.hidden[hole] = torch.nan
    objective = WeightedObjective([NLL, FKL], reduction="token")
    total, _ = objective(here.states, here.scores, here.batch)
    (gradient,) = torch.autograd.grad(total.total, here.states.hidden)
    assert (gradient[hole] == 0.0).all()
    assert gradient.isfinite().all()


def test_hard_terms_need_no_teacher() -> None:
    here = world()
    objective = WeightedObjective([NLL], reduction="token")
    total, _ = objective(here.states, NoScores(), here.batch)
    assert not objective.needs_teacher
    assert total.detached().mean == pytest.approx(naive(NLL, here, "token", 1.0), rel=1e-6)


def test_a_batch_without_targets_counts_nothing() -> None:
    here = world((0, 0, 3)).rows(slice(0, 2))
    total, parts = WeightedObjective([NLL, FKL], reduction="token")(
        here.states, here.scores, here.batch
    )
    assert total.total == 0.0
    assert total.count == 0.0
    assert parts["forward_kl"].count == 0.0


def test_soft_terms_refuse_scores_that_are_not_dense() -> None:
    here = world()
    objective = WeightedObjective([FKL], reduction="token")
    with pytest.raises(RecipeError, match=r"forward_kl needs .* teacher.scores to dense"):
        objective(here.states, NoScores(), here.batch)


def test_terms_of_one_name_are_added_and_numbered() -> None:
    here = world()
    terms = [term("jensen_shannon", beta=0.2), term("jensen_shannon", beta=0.8)]
    total, parts = WeightedObjective(terms, reduction="token")(here.states, here.scores, here.batch)
    values = [naive(term, here, "token", 1.0) for term in terms]
    assert [part.mean for part in parts.values()] == pytest.approx(values, rel=1e-6)
    assert list(parts) == ["jensen_shannon", "jensen_shannon_2"]
    assert total.detached().mean == pytest.approx(sum(values), rel=1e-6)


def test_padded_rows_of_the_student_head_are_known_to_hard_targets_only() -> None:
    here = world()
    smaller = DenseScores(here.scores.hidden, here.scores.head.cut(VOCAB - 4))
    cut = StudentStates(here.states.hidden, here.states.head.cut(VOCAB - 4))
    soft = WeightedObjective([FKL], reduction="token")
    whole, narrow = (soft(states, smaller, here.batch)[0] for states in (here.states, cut))
    assert whole.total == narrow.total
    weight = here.states.head.weight
    gradients = [torch.autograd.grad(total.total, weight)[0] for total in (whole, narrow)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0][VOCAB - 4 :] == 0.0).all()
    both = WeightedObjective([NLL, FKL], reduction="token")
    _, parts = both(here.states, smaller, here.batch)
    hard = naive(NLL, here, "token", 1.0)
    assert parts["negative_log_likelihood"].mean == pytest.approx(hard, rel=1e-6)
