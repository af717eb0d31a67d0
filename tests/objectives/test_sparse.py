"""Objectives of a teacher known at some symbols; the suite of the family has the divergences."""

from __future__ import annotations

import math

import pytest
import torch
from tests.objectives.test_fused import LargestTensor
from tests.objectives.worlds import VOCAB, World, term, world

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES, SparseForm
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, SparseScores
from seqdistill.core.terms import Term
from seqdistill.objectives.fused import fused_sum
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.sparse import sparse_part

KEPT = VOCAB - 4  # rows of the student's head beyond are padding


def known(
    here: World, top_k: int, form: SparseForm = "bucket", temperature: float = 1.0
) -> SparseScores:
    """The world's teacher at its likeliest symbols."""
    head = here.scores.head.cut(KEPT)
    teacher = (head.logits(here.scores.hidden) / temperature).log_softmax(-1)
    likeliest, ids = teacher.topk(top_k)
    tail = teacher.scatter(-1, ids, -math.inf).logsumexp(-1)
    return SparseScores(ids, likeliest, tail, KEPT, form)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_objectives_of_all_symbols_are_those_of_the_whole_distribution(temperature: float) -> None:
    """Beside a likelihood, which knows the student's whole head, and with weights and padding."""
    here = world()
    here = here.told(target_ids=here.batch.target_ids.clamp(max=KEPT - 1))
    dense = DenseScores(here.scores.hidden, here.scores.head.cut(KEPT))
    weight = here.states.head.weight
    for name in (name for name, each in DIVERGENCES.items() if "bucket" in each.sparse):
        objective = WeightedObjective(
            [term("negative_log_likelihood"), term(name, weight=0.5)],
            reduction="sequence",
            loss_temperature=temperature,
        )
        bad = here.poisoned(~here.batch.target_mask)
        (whole, parts), (sparse, other) = (
            objective(bad.states, scores, here.batch)
            for scores in (dense, known(here, KEPT, temperature=temperature))
        )
        assert sparse.detached().mean == pytest.approx(whole.detached().mean, rel=1e-9), name
        assert other[name].mean == pytest.approx(parts[name].mean, rel=1e-9), name
        gradients = [torch.autograd.grad(total.total, weight)[0] for total in (whole, sparse)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("refused", "form", "told"),
    [
        (term("adaptive_kl"), "bucket", "adaptive_kl must compare with scores that are dense"),
        (term("reverse_kl"), "renormalized", "reverse_kl must .* are bucket, got renormalized"),
        (term("jensen_shannon"), "sampled", "jensen_shannon must .* are bucket, got sampled"),
        (
            Term.of("forward_kl", token_weights=["top_tokens"]),
            "bucket",
            "forward_kl needs the teacher's whole distribution",
        ),
    ],
)
def test_what_some_symbols_do_not_say_is_refused(
    refused: Term, form: SparseForm, told: str
) -> None:
    here = world()
    with pytest.raises(RecipeError, match=told):
        WeightedObjective([refused], reduction="token")(
            here.states, known(here, 5, form), here.batch
        )


@pytest.mark.parametrize("form", ["bucket", "renormalized"])
def test_what_the_student_says_elsewhere_is_not_free(form: SparseForm) -> None:
    """A student with the teacher's ratios among the known symbols, and most of its mass elsewhere:
    the loss pulls it back, and by the mass that it has there."""
    teacher = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    student = torch.tensor([[0.05, 0.03, 0.02, 0.9]]).log().requires_grad_()
    scores = SparseScores(
        torch.tensor([[0, 1, 2]]), teacher[:, :3], torch.tensor([-math.inf]), 4, form
    )
    found = fused_sum(
        student, Head(torch.eye(4)), [sparse_part("forward_kl", scores)], weights=torch.ones(1)
    )
    assert float(found.values) == pytest.approx(math.log(10.0))
    (gradient,) = torch.autograd.grad(found.total, student)
    torch.testing.assert_close(gradient, torch.tensor([[-0.45, -0.27, -0.18, 0.9]]))


def test_no_logits_of_all_positions_are_ever_made() -> None:
    positions, vocab_size, dim = 11, 37, 3
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, dim, generator=generator).requires_grad_()
    head = Head(torch.randn(vocab_size, dim, generator=generator).requires_grad_())
    teacher = torch.randn(positions, vocab_size, generator=generator).log_softmax(-1)
    likeliest, ids = teacher.topk(5)
    tail = teacher.scatter(-1, ids, -math.inf).logsumexp(-1)
    scores = SparseScores(ids, likeliest, tail, vocab_size, "bucket")
    with LargestTensor() as seen:
        part = sparse_part("reverse_kl", scores)
        found = fused_sum(hidden, head, [part], weights=torch.ones(positions), chunk_positions=2)
        torch.autograd.backward(found.total)
    assert seen.num_elements <= vocab_size * dim


def test_a_student_that_is_nan_is_not_hidden() -> None:
    here = world()
    mask = here.batch.target_mask
    broken = here.poisoned(torch.arange(mask.shape[1]).eq(0).expand_as(mask))
    total, _ = WeightedObjective([term("forward_kl")], reduction="token")(
        broken.states, known(here, 5), here.batch
    )
    assert total.total.isnan()
