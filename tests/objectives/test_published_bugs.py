"""Wrong objectives that others have shipped, each with a test that it would fail here.

What the suites of families, fused forms and policy gradients say of every member is not repeated.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr
from tests.objectives.worlds import TERM_NAMES, World, mean, only, term, world
from torch import Tensor

from seqdistill.core.batch import StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, NoScores
from seqdistill.core.terms import Reduction
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.divergences import jensen_shannon
from seqdistill.objectives.objective import WeightedObjective

LIKELIHOODS = {"negative_log_likelihood", "teacher_mode_likelihood"}
PULLS = [name for name in DIVERGENCES if name not in LIKELIHOODS]
"""Terms that leave a student alone who equals the teacher."""


def objective(*names: str, reduction: Reduction = "sum") -> WeightedObjective:
    return WeightedObjective([term(name) for name in names], reduction=reduction)


def gradient(of: WeightedObjective, here: World) -> Tensor:
    total, _ = of(here.states, here.scores, here.batch)
    (found,) = torch.autograd.grad(total.total, here.states.hidden)
    return found


def distributions(here: World) -> tuple[Tensor, Tensor]:
    """Student's and teacher's probabilities at the positions that count."""
    mask = here.batch.target_mask
    student = here.states.head.logits(here.states.hidden)[mask].softmax(-1).detach()
    return student, here.scores.head.logits(here.scores.hidden)[mask].softmax(-1)


def of_symbols(student: Sequence[float], teacher: Sequence[float]) -> World:
    """One position whose distributions are given."""
    here = world((1,))
    states, scores = (
        (
            torch.ones(1, 1, 1, dtype=torch.float64),
            Head(
                torch.zeros(len(probs), 1, dtype=torch.float64),
                torch.tensor(probs, dtype=torch.float64).log(),
            ),
        )
        for probs in (student, teacher)
    )
    batch = dataclasses.replace(here.batch, target_ids=torch.zeros(1, 1, dtype=torch.long))
    return World(batch, StudentStates(*states), DenseScores(*scores))


def trained_with(
    name: str, student: Sequence[float], teacher: Sequence[float]
) -> tuple[float, list[float]]:
    """What a recipe's objective says of two distributions: its value, its gradient for logits."""
    here = of_symbols(student, teacher)
    logits = here.states.head.bias
    assert logits is not None
    logits.requires_grad_()
    total, _ = objective(name)(here.states, here.scores, here.batch)
    (found,) = torch.autograd.grad(total.total, logits)
    return float(total.total.detach()), found.tolist()


@pytest.mark.parametrize(("near", "end"), [(1e-8, 0.0), (1 - 1e-8, 1.0)])
def test_beta_is_a_dial_and_not_a_jump(near: float, end: float) -> None:
    """ms-swift #10078, TRL #6780: JSD falls to 0 toward both ends, where code jumps to a KL.

    The scaled form arrives at the KLs in value and gradient; the raw one, the paper's, does not.
    """
    here = world()

    def at(beta: float, scale: str) -> WeightedObjective:
        chosen = term("jensen_shannon", beta=beta, scale=scale)
        return WeightedObjective([chosen], reduction="token")

    assert mean(at(near, "gradient"), here) == pytest.approx(mean(at(end, "raw"), here), rel=0.02)
    expected = gradient(at(end, "raw"), here)
    assert (gradient(at(near, "gradient"), here) - expected).norm() < 0.02 * expected.norm()
    assert gradient(at(near, "raw"), here).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("beta", [0.1, 0.8])
def test_the_weights_of_the_mixture_are_not_swapped(beta: float) -> None:
    """TRL before #3043: M = (1 - beta) P + beta Q, so that beta = 0.1 acted like reverse KL."""
    here = world()
    q, p = (probs.numpy() for probs in distributions(here))

    def by_hand(mixture: NDArray[np.float64]) -> float:
        kls = beta * rel_entr(p, mixture) + (1 - beta) * rel_entr(q, mixture)
        return float(kls.sum(-1).mean())

    chosen = WeightedObjective([term("jensen_shannon", beta=beta)], reduction="token")
    assert mean(chosen, here) == pytest.approx(by_hand(beta * p + (1 - beta) * q))
    assert mean(chosen, here) != pytest.approx(by_hand((1 - beta) * p + beta * q), rel=0.05)


def test_the_mixture_is_not_taken_in_log_space() -> None:
    """TRL #2202: beta log P + (1 - beta) log Q is no distribution, and has no mass where P and Q
    exclude each other; there the true value is the entropy of (beta, 1 - beta)."""
    value = mean(objective("jensen_shannon"), of_symbols((1.0, 0.0), (0.0, 1.0)))
    assert value == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7))


def test_forward_and_reverse_are_not_swapped() -> None:
    """twinkle #112. A sure teacher and an undecided student: KL(P || Q) = log 2, KL(Q || P) = inf;
    and the other way round."""
    sure, undecided = (1.0, 0.0), (0.5, 0.5)
    ends = {
        "forward_kl": term("jensen_shannon", beta=0.0),
        "reverse_kl": term("jensen_shannon", beta=1.0),
    }
    for name, end in ends.items():
        student, teacher = (undecided, sure) if name == "forward_kl" else (sure, undecided)
        for same in (term(name), end):
            chosen = WeightedObjective([same], reduction="token")
            assert mean(chosen, of_symbols(student, teacher)) == pytest.approx(math.log(2.0))
            assert mean(chosen, of_symbols(teacher, student)) == math.inf


@pytest.mark.parametrize("name", PULLS)
def test_no_likelihood_of_targets_is_mixed_in_secretly(name: str) -> None:
    """TRL #5731: a kernel's default added half a cross-entropy. Where P = Q nothing may pull,
    whatever the targets are."""
    here = world()
    scores = DenseScores(here.states.hidden.detach(), here.states.head)
    same = dataclasses.replace(here, scores=scores)
    assert gradient(objective(name), same).abs().max() < 1e-12
    alien = same.told(target_ids=(here.batch.target_ids + 1) % here.states.head.vocab_size)
    assert mean(objective(name), alien) == mean(objective(name), same)


@pytest.mark.parametrize("name", ["advantages", "sequence_reverse_kl"])
def test_advantages_and_returns_are_constants(name: str) -> None:
    """TRL's MiniLLM trainer: the advantage, itself a function of the student, was not detached."""
    here = world().told(advantages=torch.randn(4, dtype=torch.float64).requires_grad_())
    advantages = here.batch.advantages
    assert advantages is not None
    log_q = here.states.head.logits(here.states.hidden).log_softmax(-1)
    log_p = here.scores.head.logits(here.scores.hidden).log_softmax(-1)
    own, teacher = (
        log_probs.gather(-1, here.batch.target_ids[..., None])[..., 0]
        for log_probs in (log_q, log_p)
    )
    constants = torch.zeros_like(own).detach()
    for row, time in here.batch.target_mask.nonzero().tolist():
        later = here.batch.target_mask[row, time + 1 :]
        ahead = (teacher - own)[row, time + 1 :][later].sum()
        constants[row, time] = (ahead if name != "advantages" else advantages[row]).detach()
    (expected,) = torch.autograd.grad(-(constants * own).sum(), here.states.hidden)
    torch.testing.assert_close(gradient(objective(name), here), expected)
    total, _ = objective(name)(here.states, here.scores, here.batch)
    torch.autograd.backward(total.total)
    assert advantages.grad is None


@pytest.mark.parametrize("name", [name for name in TERM_NAMES if name != "sequence_reverse_kl"])
def test_the_first_token_of_the_response_and_the_end_symbol_are_scored(name: str) -> None:
    """distillm's rollouts lost the first response token; TRL until #6357 masked the end symbol
    where pad == eos. Whatever `target_mask` says counts, and nothing else, whatever the ids are."""
    here = world((6, 4)).told(advantages=torch.ones(2))
    mask = here.batch.target_mask.clone()
    mask[0, :3] = False  # a prompt of three tokens
    pad_and_end = 0
    here = here.told(
        target_mask=mask, target_ids=torch.full_like(here.batch.target_ids, pad_and_end)
    )
    reached = gradient(objective(name), here).abs().sum(-1) > 0.0
    assert torch.equal(reached, mask)


def test_the_return_of_a_token_counts_the_end_symbol() -> None:
    """The position before the last is pulled by the last, the end symbol; the last by none."""
    here = world((6, 4))
    reached = gradient(objective("sequence_reverse_kl"), here).abs().sum(-1) > 0.0
    last = torch.tensor([[5], [3]])
    assert torch.equal(reached, here.batch.target_mask.clone().scatter_(1, last, False))


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_the_denominator_is_counted_from_the_batch_that_is_scored(reduction: Reduction) -> None:
    """TRL #6478: the count was of the data set's labels, before rollouts took their place."""
    chosen = objective("jensen_shannon", reduction=reduction)
    for lengths in ((5, 2, 7, 1), (1, 1), (9,)):
        here = world(lengths)
        total, parts = chosen(here.states, here.scores, here.batch)
        expected = sum(lengths) if reduction == "token" else len(lengths)
        assert total.count == expected
        assert parts["jensen_shannon"].count == expected


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_divergence_is_negative_in_bf16(name: str) -> None:
    """ms-swift #10156: JSD below zero in bf16, where P and Q are close."""
    here = world((40,) * 8)
    hidden, weight = here.states.hidden.detach().bfloat16(), here.states.head.weight.detach()
    for noise in (0.0, 1e-3, 1e-1):
        generator = torch.Generator().manual_seed(2)
        near = hidden + noise * torch.randn(hidden.shape, generator=generator).bfloat16()
        states = StudentStates(near.requires_grad_(), Head(weight.bfloat16()))
        scores = DenseScores(hidden, Head(weight.bfloat16()))
        _, parts = objective(name)(states, scores, here.batch)
        assert parts[name].mean >= 0.0
        values = DIVERGENCES[name]
        if name in ("forward_kl", "reverse_kl", "total_variation", "adaptive_kl"):
            q, p = (x.head.logits(x.hidden).log_softmax(-1) for x in (states, scores))
            assert (values.function(q, p) >= 0.0).all()
    q = near.float() @ weight.float().T
    assert (jensen_shannon(q.log_softmax(-1), q.bfloat16().log_softmax(-1), 0.5) >= 0.0).all()


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
def test_padding_does_not_leak(name: str) -> None:
    """TRL #7024: MiniLLM's mask was true everywhere, so padding was scored."""
    here = world().told(advantages=torch.tensor([1.0, -2.0, 0.5, 1.0]))
    clean = mean(objective(name), here)
    hole = ~here.batch.target_mask
    here.states.hidden.data[hole] = torch.nan
    here.scores.hidden[hole] = torch.nan
    here.batch.target_ids[hole] = here.states.head.vocab_size + 5
    assert mean(objective(name), here) == clean
    assert (gradient(objective(name), here)[hole] == 0.0).all()


@pytest.mark.parametrize("name", [n for n in TERM_NAMES if term(n).asks_teacher])
def test_the_top_of_a_distribution_is_not_taken_for_the_whole(name: str) -> None:
    """verl #5041: reverse KL over the teacher's top k collapses; the student leaves the support."""
    here = world()
    with pytest.raises(RecipeError, match=rf"{name} needs the teacher's whole distribution"):
        objective(name)(here.states, NoScores(), here.batch)


def weighted_kls(
    student: Sequence[float], teacher: Sequence[float], share: float
) -> tuple[float, list[float]]:
    """share KL(P || Q) + (1 - share) KL(Q || P) by hand; its gradient for the student's logits."""
    q, p = np.array(student), np.array(teacher)
    forward, reverse = rel_entr(p, q).sum(), rel_entr(q, p).sum()
    gradient = share * (q - p) + (1 - share) * q * (np.log(q / p) - reverse)
    return float(share * forward + (1 - share) * reverse), gradient.tolist()


def assert_adaptive_kl_weighs(
    student: list[float], teacher: list[float], *, rightly: float, wrongly: float
) -> None:
    """That the forward KL has the one share and not the other, in the plain form as well as in what
    recipes train with, and in its gradient."""
    q, p = (torch.tensor(x, dtype=torch.float64).log() for x in (student, teacher))
    value, gradient = weighted_kls(student, teacher, rightly)
    assert float(DIVERGENCES["adaptive_kl"].function(q, p, 0.5)) == pytest.approx(value)
    trained_value, trained_gradient = trained_with("adaptive_kl", student, teacher)
    assert trained_value == pytest.approx(value)
    assert trained_gradient == pytest.approx(gradient)
    buggy_value, buggy_gradient = weighted_kls(student, teacher, wrongly)
    assert buggy_value != pytest.approx(value, rel=0.01), "the bug must show"
    assert buggy_gradient != pytest.approx(gradient, rel=0.01), "and in the gradient"


def test_the_symbol_that_crosses_the_mass_belongs_to_the_head() -> None:
    """AKL's author code leaves it out, so that a head of one likely symbol is empty.

    Here P - Q is (0.3, -0.2, -0.1) and the head the first symbol: g_h = g_t, so both weigh half. An
    empty head leaves reverse KL.
    """
    assert_adaptive_kl_weighs([0.4, 0.35, 0.25], [0.7, 0.15, 0.15], rightly=0.5, wrongly=0.0)


def test_adaptive_kl_of_equal_distributions_is_zero_and_not_nan() -> None:
    """AKL's author code divides 0 by 0."""
    here = world()
    same = dataclasses.replace(
        here, scores=DenseScores(here.states.hidden.detach(), here.states.head)
    )
    assert mean(objective("adaptive_kl"), same) == pytest.approx(0.0, abs=1e-12)
    assert gradient(objective("adaptive_kl"), same).isfinite().all()


def test_the_head_is_marked_in_the_order_of_the_vocabulary() -> None:
    """TAID's repository left the mask in sorted order, where the likeliest symbols come first."""
    q, p = [0.1, 0.3, 0.35, 0.25], [0.1, 0.12, 0.08, 0.7]
    gaps = np.abs(np.subtract(p, q))
    in_order, unscattered = gaps[3] / gaps.sum(), gaps[0] / gaps.sum()
    assert_adaptive_kl_weighs(q, p, rightly=float(in_order), wrongly=float(unscattered))


def test_the_mixture_of_the_skew_reverse_kl_is_not_detached() -> None:
    """DistiLLM-2's code detaches it; the formula has the student on both sides."""
    generator = torch.Generator().manual_seed(4)
    logits, teacher = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    q, p = logits.softmax(-1), teacher.softmax(-1)
    found = {}
    for name, student in (("live", q), ("detached", q.detach())):
        mixture = 0.9 * p + 0.1 * student
        (found[name],) = torch.autograd.grad(
            (q * (q / mixture).log()).sum(), logits, retain_graph=True
        )
    function = DIVERGENCES["skew_reverse_kl"].function
    value = function(logits.log_softmax(-1), teacher.log_softmax(-1), 0.1)
    (got,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(got, found["live"])
    assert (got - found["detached"]).norm() > 0.01 * got.norm()
    trained_value, trained_gradient = trained_with("skew_reverse_kl", q.tolist(), p.tolist())
    assert trained_value == pytest.approx(float(value.detach()))
    assert trained_gradient == pytest.approx(found["live"].tolist())


def test_a_sampled_reverse_kl_has_the_gradient_that_the_exact_one_has() -> None:
    """verl's k1: log q(y) - log p(y) as a loss has no teacher in its gradient, whose expectation
    over y ~ Q is zero. The sampled term is a policy gradient: its expectation is the exact one."""
    here = world((1,))
    students, _ = distributions(here)
    exact = gradient(objective("reverse_kl"), here)
    sampled, k1 = torch.zeros_like(exact), torch.zeros_like(exact)
    chosen = WeightedObjective([term("sequence_reverse_kl", estimator="released")], reduction="sum")
    for symbol, probability in enumerate(students[0]):
        drawn = here.told(target_ids=torch.tensor([[symbol]]))
        sampled += probability * gradient(chosen, drawn)
        k1 -= probability * gradient(objective("negative_log_likelihood"), drawn)
    torch.testing.assert_close(sampled, exact)
    assert k1.abs().max() < 1e-12 < 0.01 < exact.norm()
    same = dataclasses.replace(
        here, scores=DenseScores(here.states.hidden.detach(), here.states.head)
    )
    assert gradient(chosen, same).abs().max() < 1e-12, "not even a sample pulls at P = Q"
