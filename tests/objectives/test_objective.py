"""The objective against a naive loop over positions, and its rules on temperature and ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.objectives.worlds import TERM_NAMES, VOCAB, mean, naive, only, term, world

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
    assert not objective.needs_eval_states
    if name == "negative_log_likelihood":
        alone, _ = objective(here.states, NoScores(), here.batch)
        assert alone.total == total.total, "no teacher is asked"
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


def test_a_batch_without_targets_counts_nothing() -> None:
    here = world((0, 0, 3)).rows(slice(0, 2))
    total, parts = WeightedObjective([NLL, FKL], reduction="token")(
        here.states, here.scores, here.batch
    )
    assert total.total == 0.0
    assert total.count == 0.0
    assert parts["forward_kl"].count == 0.0


@pytest.mark.parametrize("name", [name for name in TERM_NAMES if term(name).asks_teacher])
def test_soft_terms_refuse_scores_that_are_not_dense(name: str) -> None:
    here = world()
    objective = WeightedObjective([term(name)], reduction="sum")
    with pytest.raises(RecipeError, match=rf"{name} needs .* teacher.scores to dense"):
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


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_the_loss_does_not_depend_on_the_split_into_micro_batches(reduction: Reduction) -> None:
    """TRL #4719, ms-swift #10165: means of means. All terms at once, writers and importance weights
    too, and policy gradients where they may be."""
    generator = torch.Generator().manual_seed(9)
    here = world().told(
        origins=("student", "teacher", "student", "reference"),
        advantages=torch.randn(4, generator=generator),
        sampled_log_probs=-torch.rand(4, 7, generator=generator, dtype=torch.float64),
    )
    names = {"token": list(DIVERGENCES), "sequence": [*DIVERGENCES, "advantages"]}
    terms = [term(name) for name in names.get(reduction, TERM_NAMES)]
    terms += [term("reverse_kl", token_weights=["importance"])]
    terms += [term("forward_kl", token_weights=[only("student")])]
    chosen = WeightedObjective(terms, reduction=reduction)
    weight = here.states.head.weight
    whole, whole_parts = chosen(here.states, here.scores, here.batch)
    (expected,) = torch.autograd.grad(whole.total / whole.count, weight)
    for cuts in ((0, 1, 4), (0, 2, 3, 4)):
        total, parts = TokenSum.zero(), dict.fromkeys(whole_parts, TokenSum.zero())
        for first, last in itertools.pairwise(cuts):
            piece = here.rows(slice(first, last))
            loss, named = chosen(piece.states, piece.scores, piece.batch)
            total = total + loss
            parts = {name: parts[name] + part for name, part in named.items()}
        (found,) = torch.autograd.grad(total.total / total.count, weight)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        for name, part in parts.items():
            assert part.mean == pytest.approx(whole_parts[name].mean, rel=1e-6), name


@pytest.mark.parametrize("name", TERM_NAMES)
def test_padding_is_never_read_and_receives_no_gradient(name: str) -> None:
    """TRL #7024: MiniLLM's mask was true everywhere, so padding was scored."""
    here = world().told(advantages=torch.tensor([1.0, -2.0, 0.5, 1.0]))
    objective = WeightedObjective([term(name)], reduction="sum")
    clean, hole = mean(objective, here), ~here.batch.target_mask
    here.states.hidden.data[hole] = torch.nan
    here.scores.hidden[hole] = torch.nan
    here.batch.target_ids[hole] = here.states.head.vocab_size + 5
    total, _ = objective(here.states, here.scores, here.batch)
    assert total.detached().mean == clean
    (gradient,) = torch.autograd.grad(total.total, here.states.hidden)
    assert (gradient[hole] == 0.0).all() and gradient.isfinite().all()
