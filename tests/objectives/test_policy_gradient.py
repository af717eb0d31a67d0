"""Policy gradients against exact enumeration of every sequence, in fp64."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from tests.objectives.worlds import term, world
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores
from seqdistill.core.terms import Term
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Observation
from seqdistill.objectives.token_weights import sequence_reverse_kl

END, WORDS, LONGEST = 0, (1, 2), 3
VOCAB, DIM, TEACHER_DIM = 3, 5, 4
SINGLE, LONG = term("reverse_kl"), term("sequence_reverse_kl")
WEIGHTED = term("reverse_kl", token_weights=["importance"])
TEACHER_SHARE = 0.3


def sequences() -> list[tuple[int, ...]]:
    """All that can be said: words until the end symbol, or LONGEST symbols without it."""
    found = []
    for length in range(1, LONGEST + 1):
        for words in itertools.product(WORDS, repeat=length - 1):
            last = (END, *WORDS) if length == LONGEST else (END,)
            found += [(*words, symbol) for symbol in last]
    return found


CONTEXTS = [words for length in range(LONGEST) for words in itertools.product(WORDS, repeat=length)]


@dataclasses.dataclass(frozen=True)
class Tables:
    """A student and a teacher as one hidden state per prefix, and a head each."""

    student: Tensor
    head: Head
    teacher: Tensor
    teacher_head: Head

    @property
    def student_log_probs(self) -> Tensor:
        """(contexts, vocab), differentiable."""
        return self.head.logits(self.student).log_softmax(-1)

    @property
    def teacher_log_probs(self) -> Tensor:
        return self.teacher_head.logits(self.teacher).log_softmax(-1)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.student, self.head.weight

    def steps(self, table: Tensor, sequence: tuple[int, ...]) -> Tensor:
        """The entry of each symbol of the sequence after its prefix."""
        return torch.stack([table[context(sequence, t), y] for t, y in enumerate(sequence)])

    def gradients(self, loss: Tensor) -> Tensor:
        """All leaves' gradients in one vector."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.leaves)])

    def sequence_kl(self) -> Tensor:
        """KL between whole sequences, by its definition."""
        total = torch.zeros((), dtype=torch.float64)
        for sequence in sequences():
            log_q = self.steps(self.student_log_probs, sequence).sum()
            log_p = self.steps(self.teacher_log_probs, sequence).sum()
            total = total + log_q.exp() * (log_q - log_p)
        return total


def context(sequence: tuple[int, ...], time: int) -> int:
    return CONTEXTS.index(sequence[:time])


def tables() -> Tables:
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Tables(
        normal(len(CONTEXTS), DIM).requires_grad_(),
        Head(normal(VOCAB, DIM).requires_grad_()),
        normal(len(CONTEXTS), TEACHER_DIM),
        Head(normal(VOCAB, TEACHER_DIM)),
    )


def expectation(
    terms: list[Term],
    here: Tables,
    probability: dict[tuple[int, ...], Tensor],
    *,
    drawn_with: dict[tuple[int, ...], Tensor] | None = None,
    advantages: dict[tuple[int, ...], float] | None = None,
    reduction: str = "sum",
) -> Tensor:
    """The objective's expected total, each sequence a batch of its own."""
    objective = WeightedObjective(terms, reduction=reduction)  # type: ignore[arg-type]
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences():
        rows = [context(sequence, time) for time in range(len(sequence))]
        ids, mask = torch.tensor([sequence]), torch.ones(1, len(sequence), dtype=torch.bool)
        told: dict[str, Any] = {}
        if drawn_with is not None:
            told["sampled_log_probs"] = drawn_with[sequence][None]
        if advantages is not None:
            told["advantages"] = torch.tensor([advantages[sequence]], dtype=torch.float64)
        batch = SequenceBatch(("one",), ids, mask, ids, mask, **told)
        states = StudentStates(here.student[rows][None], here.head)
        scores = DenseScores(here.teacher[rows][None], here.teacher_head)
        loss, _ = objective(states, scores, batch)
        total = total + probability[sequence] * loss.total / loss.count
    return total


def of_student(here: Tables) -> dict[tuple[int, ...], Tensor]:
    table = here.student_log_probs.detach()
    return {sequence: here.steps(table, sequence).sum().exp() for sequence in sequences()}


def mixed_table(here: Tables) -> Tensor:
    """log p~, token by token a mixture of teacher and student."""
    q, p = here.student_log_probs.detach().exp(), here.teacher_log_probs.exp()
    return (TEACHER_SHARE * p + (1 - TEACHER_SHARE) * q).log()


def of_mixture(here: Tables) -> dict[tuple[int, ...], Tensor]:
    table = mixed_table(here)
    return {sequence: here.steps(table, sequence).sum().exp() for sequence in sequences()}


def test_the_enumeration_is_complete() -> None:
    for probability in (of_student(tables()), of_mixture(tables())):
        assert float(sum(probability.values())) == pytest.approx(1.0, abs=1e-12)


def test_both_parts_of_minillm_make_the_gradient_of_the_sequence_level_kl() -> None:
    """Single-step term (exact over the vocabulary) plus long-range part, expected over y ~ Q."""
    here = tables()
    got = here.gradients(expectation([SINGLE, LONG], here, of_student(here)))
    torch.testing.assert_close(got, here.gradients(here.sequence_kl()), rtol=1e-9, atol=1e-12)
    alone = here.gradients(expectation([SINGLE], here, of_student(here)))
    assert (alone - got).norm() > 0.05 * got.norm(), "the long-range part must matter here"


def test_the_sampled_log_ratio_as_a_plain_loss_would_not_know_the_teacher() -> None:
    """areno-opd, verl's k1: its expected gradient is zero, where the KL's is not."""
    here = tables()
    log_q, log_p = here.student_log_probs, here.teacher_log_probs
    plain = torch.zeros((), dtype=torch.float64)
    for sequence, probability in of_student(here).items():
        ratio = here.steps(log_q, sequence) - here.steps(log_p, sequence)
        plain = plain + probability * ratio.sum()
    exact = here.gradients(here.sequence_kl())
    assert here.gradients(plain).norm() < 1e-9 * exact.norm()


def test_the_released_estimator_counts_the_single_step_term_twice() -> None:
    """LMOps #255: returns that start at t hold one more sample of grad KL(Q_t || P_t)."""
    here = tables()
    released = term("sequence_reverse_kl", estimator="released", length_normalized=False)
    got = here.gradients(expectation([SINGLE, released], here, of_student(here)))
    exact = here.gradients(here.sequence_kl())
    once = here.gradients(expectation([SINGLE], here, of_student(here)))
    torch.testing.assert_close(got, exact + once, rtol=1e-9, atol=1e-12)
    assert (got - exact).norm() > 0.5 * exact.norm(), "so it is not the gradient of the paper"


def test_importance_weights_of_whole_sequences_make_teacher_mixed_sampling_exact() -> None:
    """With w = q(y) / p~(y) at every position the expectation over y ~ p~ is that over y ~ Q."""
    here = tables()
    drawn_with = {}
    for sequence in sequences():
        log_q = here.steps(here.student_log_probs.detach(), sequence)
        log_weight = (log_q - here.steps(mixed_table(here), sequence)).sum()
        drawn_with[sequence] = log_q - log_weight
    loss = expectation([WEIGHTED, LONG], here, of_mixture(here), drawn_with=drawn_with)
    torch.testing.assert_close(
        here.gradients(loss), here.gradients(here.sequence_kl()), rtol=1e-9, atol=1e-12
    )


def test_importance_weights_of_single_tokens_are_the_papers_approximation() -> None:
    """Exactly the sums that the paper writes, and not the exact gradient."""
    here = tables()
    log_q, log_p = here.student_log_probs, here.teacher_log_probs
    single_step = (log_q.exp() * (log_q - log_p)).sum(-1)
    expected = torch.zeros((), dtype=torch.float64)
    drawn_with = {y: here.steps(mixed_table(here), y) for y in sequences()}
    for sequence, probability in of_mixture(here).items():
        own, teacher = here.steps(log_q, sequence), here.steps(log_p, sequence)
        for time in range(len(sequence)):
            weight = (own[time] - drawn_with[sequence][time]).exp().detach()
            later = (teacher - own)[time + 1 :].sum().detach()
            step = single_step[context(sequence, time)] - later * own[time]
            expected = expected + probability * weight * step
    loss = expectation([WEIGHTED, LONG], here, of_mixture(here), drawn_with=drawn_with)
    got, exact = here.gradients(loss), here.gradients(here.sequence_kl())
    torch.testing.assert_close(got, here.gradients(expected), rtol=1e-9, atol=1e-12)
    assert (got - exact).norm() > 1e-3 * exact.norm()
    assert got @ exact > 0.0, "but it descends"


@pytest.mark.parametrize("reduction", ["sum", "sequence"])
@pytest.mark.parametrize("baseline", [0.0, 5.0])
def test_reward_is_the_gradient_of_the_expected_reward(baseline: float, reduction: str) -> None:
    """REINFORCE, whatever the constant baseline; every token weighs 1 in both reductions."""
    here = tables()
    rewards = {y: float(len(y)) + (2.0 if END in y else 0.0) + y[0] for y in sequences()}
    log_q = here.student_log_probs
    expected = sum(
        (here.steps(log_q, y).sum().exp() * r for y, r in rewards.items()), log_q.new_zeros(())
    )
    loss = expectation(
        [term("advantages")],
        here,
        of_student(here),
        advantages={y: r - baseline for y, r in rewards.items()},
        reduction=reduction,
    )
    torch.testing.assert_close(
        here.gradients(loss), -here.gradients(expected), rtol=1e-9, atol=1e-12
    )


def random_rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    student, teacher, sampled = (
        -torch.rand(4, 6, generator=generator, dtype=torch.float64) * 3 for _ in range(3)
    )
    mask = torch.arange(6) < torch.tensor([6, 1, 4, 0])[:, None]
    mask[0, :2] = False  # a prompt
    return student, teacher, sampled, mask


def sequence_weights(
    student: Tensor, teacher: Tensor, mask: Tensor, sampled: Tensor | None = None, **settings: Any
) -> Tensor:
    """The token weight of tokens with these log-probabilities."""
    here = world((mask.shape[1],) * 4).told(target_mask=mask, sampled_log_probs=sampled)
    seen = Observation(here.states, here.scores, here.batch)
    seen.__dict__.update(student_log_probs=student, teacher_log_probs=teacher)
    return sequence_reverse_kl(seen, **({"length_normalized": False} | settings))


@pytest.mark.parametrize("discount", [1.0, 0.95])
@pytest.mark.parametrize("length_normalized", [False, True])
@pytest.mark.parametrize("estimator", ["paper", "released"])
def test_weights_equal_a_naive_loop(
    estimator: str, length_normalized: bool, discount: float
) -> None:
    student, teacher, sampled, mask = random_rows()
    importance = (student - sampled).exp()
    settings = {"estimator": estimator, "discount": discount}
    settings |= {"length_normalized": length_normalized}
    unread = torch.where(mask, teacher, torch.nan)
    got = sequence_weights(student, unread, mask, sampled, **settings)
    expected = torch.zeros_like(got)
    for row, time in mask.nonzero().tolist():
        first = time if estimator == "released" else time + 1
        later = [t for t in range(first, 6) if mask[row, t]]
        total = sum(
            discount ** (t - first) * float(teacher[row, t] - student[row, t]) for t in later
        )
        if length_normalized and later:
            total /= len(later)
        expected[row, time] = importance[row, time] * total
    torch.testing.assert_close(got, expected)
    assert got[1, 0] == 0.0 or estimator == "released", "the last position has an empty sum"


def test_clipping_is_that_of_ppo() -> None:
    """The gradient of max(-R w, -R clip(w)), taken by autograd through w."""
    student, teacher, sampled, few = random_rows()
    teacher, sampled = student.lerp(teacher, 0.2), student.lerp(sampled, 0.2)  # near the limits
    mask = torch.ones_like(few)
    live = student.clone().requires_grad_()
    ratio = (live - sampled).exp()
    ahead = sequence_weights(student, teacher, mask)
    surrogate = torch.maximum(-ahead * ratio, -ahead * ratio.clamp(0.8, 1.2))
    (expected,) = torch.autograd.grad((surrogate * mask).sum(), live)
    weights = sequence_weights(student, teacher, mask, sampled, clip=0.2)
    torch.testing.assert_close(-weights, expected)
    assert ((weights == 0.0) & (ahead != 0.0)).any(), "something must have been clipped"


@pytest.mark.parametrize("weighed", [WEIGHTED, LONG])
def test_weights_are_of_the_student_that_wrote_and_not_of_what_dropout_left(weighed: Term) -> None:
    """With w = q(y) / p~(y) of the quiet student, on-policy weights are exactly 1."""
    here = world()
    quiet = StudentStates(here.states.hidden.detach() * 0.5 + 0.2, here.states.head)
    log_q = here.states.head.logits(quiet.hidden).log_softmax(-1).detach()
    sampled = log_q.gather(-1, here.batch.target_ids[..., None]).squeeze(-1)
    here = here.told(sampled_log_probs=sampled)
    objective = WeightedObjective([weighed], reduction="sum")
    assert objective.needs_eval_states
    loss, _ = objective(here.states, here.scores, here.batch, quiet)
    mask = here.batch.target_mask
    if weighed is WEIGHTED:
        ones = dataclasses.replace(here.batch, sampled_log_probs=None)
        unweighted = WeightedObjective([SINGLE], reduction="sum")
        expected = unweighted(here.states, here.scores, ones)[0].total
    else:
        teacher = here.scores.head.logits(here.scores.hidden).log_softmax(-1)
        of_targets = teacher.gather(-1, here.batch.target_ids[..., None]).squeeze(-1)
        weights = sequence_weights(sampled, of_targets, mask)
        own = here.states.head.logits(here.states.hidden).log_softmax(-1)
        own = own.gather(-1, here.batch.target_ids[..., None]).squeeze(-1)
        expected = -(weights * own)[mask].sum()
    torch.testing.assert_close(loss.total, expected, rtol=1e-9, atol=1e-12)
    noisy, _ = objective(here.states, here.scores, here.batch)
    assert abs(float((noisy.total - loss.total).detach())) > 1e-3, "the states must differ"
