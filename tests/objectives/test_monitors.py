"""Monitors: what they measure, when they do, and that they leave the loss alone."""

from __future__ import annotations

import pytest
import torch
from scipy.special import entr, rel_entr
from tests.objectives.worlds import VOCAB, World, term, world

from seqdistill.core.batch import StudentStates
from seqdistill.core.scores import DenseScores, NoScores
from seqdistill.core.terms import Monitor, Reduction, Term
from seqdistill.objectives.objective import WeightedObjective

BOTH: tuple[Monitor, ...] = ("student_entropy", "teacher_reverse_kl")
NLL = term("negative_log_likelihood")


def logged(
    terms: list[Term], reduction: Reduction = "token", temperature: float = 1.0
) -> WeightedObjective:
    objective = WeightedObjective(
        terms, reduction=reduction, loss_temperature=temperature, monitors=BOTH
    )
    objective.begin_update(10, 100, logged=True)
    return objective


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_monitors_equal_their_oracles_per_token_in_every_reduction(reduction: Reduction) -> None:
    here = world()
    terms = [NLL, term("forward_kl")]
    _, parts = logged(terms, reduction, 2.0)(here.states, here.scores, here.batch)
    mask = here.batch.target_mask
    q, p = (
        x.head.logits(x.hidden)[mask].softmax(-1).detach().numpy()
        for x in (here.states, here.scores)
    )
    expected = {
        "student_entropy": entr(q).sum(-1).mean(),
        "teacher_reverse_kl": rel_entr(q, p).sum(-1).mean(),
    }
    assert list(parts) == ["negative_log_likelihood", "forward_kl", *BOTH]
    for name, value in expected.items():
        assert parts[name].mean == pytest.approx(value), f"{name} at temperature 1, in nats"
        assert parts[name].count == here.batch.num_targets
        assert not parts[name].total.requires_grad


def test_monitors_are_silent_unless_the_update_is_logged() -> None:
    here, objective = world(), logged([NLL])
    objective.begin_update(11, 100, logged=False)
    _, parts = objective(here.states, here.scores, here.batch)
    assert list(parts) == ["negative_log_likelihood"]
    unmonitored = WeightedObjective([NLL], reduction="token")
    unmonitored.begin_update(10, 100, logged=True)
    assert list(unmonitored(here.states, here.scores, here.batch)[1]) == ["negative_log_likelihood"]


def test_monitors_change_neither_loss_nor_gradient() -> None:
    here = world()
    terms = [NLL, term("jensen_shannon", beta=0.3)]
    results = []
    for monitors in ((), BOTH):
        objective = WeightedObjective(terms, reduction="token", monitors=monitors)
        objective.begin_update(1, 1, logged=True)
        loss, _ = objective(here.states, here.scores, here.batch)
        weight = here.states.head.weight
        results.append((loss.total.detach(), torch.autograd.grad(loss.total, weight)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_silent_teacher_is_not_compared_with() -> None:
    here = world()
    _, parts = logged([NLL])(here.states, NoScores(), here.batch)
    assert list(parts) == ["negative_log_likelihood", "student_entropy"]


def test_padded_rows_of_the_student_head_are_entropy_but_no_divergence() -> None:
    here = world()
    smaller = DenseScores(here.scores.hidden, here.scores.head.cut(VOCAB - 4))
    _, parts = logged([NLL])(here.states, smaller, here.batch)
    mask = here.batch.target_mask
    q = here.states.head.logits(here.states.hidden)[mask].detach()
    p = smaller.head.logits(smaller.hidden)[mask].softmax(-1).numpy()
    cut = q[:, : VOCAB - 4].softmax(-1).numpy()
    assert parts["student_entropy"].mean == pytest.approx(
        entr(q.softmax(-1).numpy()).sum(-1).mean()
    )
    assert parts["teacher_reverse_kl"].mean == pytest.approx(rel_entr(cut, p).sum(-1).mean())


def as_writer_of(here: World) -> StudentStates:
    """Other states of the same student, as with its dropout off."""
    return StudentStates(here.states.hidden.detach() * 0.5 + 0.2, here.states.head)


def test_monitors_tell_of_the_student_as_it_writes() -> None:
    here = world()
    quiet = as_writer_of(here)
    objective = logged([NLL])
    assert objective.needs_eval_states
    loss, parts = objective(here.states, here.scores, here.batch, quiet)
    _, expected = logged([NLL])(quiet, here.scores, here.batch)
    for name in BOTH:
        assert parts[name].mean == expected[name].mean
    assert loss.total == logged([NLL])(here.states, here.scores, here.batch)[0].total
    objective.begin_update(11, 100, logged=False)
    assert not objective.needs_eval_states, "nobody looks at this update"


@pytest.mark.parametrize("mine", ["student", "teacher_mixed"])
def test_monitors_count_only_what_the_student_had_a_hand_in(mine: str) -> None:
    """Beside a teacher too: all that MiniLLM's student writes is teacher-mixed."""
    here = world()
    mixed = here.told(origins=("reference", "student", "teacher", mine))
    own = here.rows(slice(1, 2)), here.rows(slice(3, 4))
    _, parts = logged([NLL])(mixed.states, mixed.scores, mixed.batch)
    alone = [logged([NLL])(part.states, part.scores, part.batch)[1] for part in own]
    for name in BOTH:
        assert parts[name].count == sum(part.batch.num_targets for part in own)
        assert parts[name].total == pytest.approx(sum(float(p[name].total) for p in alone))
    nobody = here.told(origins=("reference",) * 4)
    _, parts = logged([NLL])(nobody.states, nobody.scores, nobody.batch)
    assert [float(parts[name].count) for name in BOTH] == [0.0, 0.0]
