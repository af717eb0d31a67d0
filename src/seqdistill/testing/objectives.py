"""What every divergence and every token weight must satisfy.

Divergences both in the plain form and in the chunks that training uses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqdistill.core.families import (
    DIVERGENCES,
    OBSERVED,
    TOKEN_WEIGHTS,
    Divergence,
    SparseForm,
    TokenWeight,
)
from seqdistill.core.head import Head
from seqdistill.core.registry import Chosen
from seqdistill.core.scores import SparseScores
from seqdistill.core.terms import Reduction, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.across_tokenizers import chunk_sum
from seqdistill.objectives.fused import fused_sum, target_part, teacher_part
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Observation
from seqdistill.objectives.reduction import reduce
from seqdistill.objectives.sparse import sparse_part
from seqdistill.testing.world import World, rollouts, world

_Plain = Callable[[Tensor, Tensor], Tensor]
_VOCAB, _DIM = 23, 6


def check_divergence(
    name: str,
    *,
    non_negative: bool = True,
    zero_when_equal: bool = True,
    holds_constant: bool = False,
    **parameters: Any,
) -> None:
    """Runs the suite of the family on the registered divergence with these parameters.

    Say so where it may be negative, where it is not zero at P = Q, and where its gradient holds
    something constant on purpose, which finite differences would move.

    Raises AssertionError for the first property that does not hold.
    """
    chosen = DIVERGENCES.choose(name, **parameters)
    state = chosen.member.new_state(chosen.parameters)
    arguments = chosen.arguments() if state is None else state.arguments()
    plain: _Plain = functools.partial(chosen.member.function, **arguments)
    if chosen.member.of_chunks:
        _check_chunk_values(plain)
        _check_chunk_sums(chosen.member, plain, dict(arguments))
        return
    hard = chosen.member.takes_targets
    _check_values(plain, hard, non_negative=non_negative, zero_when_equal=zero_when_equal)
    _check_symmetries(plain, hard)
    if not holds_constant:
        _check_finite_differences(plain, hard)
    _check_zeros(plain, hard)
    for chunk in (None, 1, 4):
        for temperature in (1.0,) if chosen.member.one_right_symbol else (1.0, 2.5):
            _check_chunks(name, plain, hard, chunk, temperature, parameters)
    _check_objective(name, plain, hard, parameters)
    for form in chosen.member.sparse:
        for top_k in (_VOCAB, 5):
            for chunk in (None, 4):
                _check_sparse(chosen, plain, form, top_k, chunk, dict(arguments))
    if "sampled" in chosen.member.sparse:
        _check_linear(plain)


def _check_chunk_values(plain: _Plain) -> None:
    """Of chunks: a number for each, from two of their log-probabilities."""
    student, teacher = (-3.0 * _logits(seed, 4, 5).abs() for seed in (24, 25))
    values = plain(student, teacher)
    assert values.shape == (4, 5), f"one value for every chunk, not {tuple(values.shape)}"
    assert values.dtype == torch.float64, "fp64 in, fp64 out"
    assert (values > 0.0).all() and values.isfinite().all(), "above 0 where the models differ"
    assert plain(teacher, teacher).abs().max() < 1e-10, "zero where both models agree"
    assert torch.autograd.gradcheck(
        lambda nats: plain(nats, teacher), (student.requires_grad_(),), raise_exception=False
    ), "the gradient is that of finite differences"
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([0.0, -1e-9, -1e-3, -2000.0], dtype=dtype)
        own, others = torch.meshgrid(ends, ends, indexing="ij")
        values = plain(own.requires_grad_(), others)
        (slope,) = torch.autograd.grad(values.sum(), own)
        assert values.isfinite().all() and slope.isfinite().all(), (
            "finite where a model is sure of a chunk, or finds it impossible"
        )
        assert (values >= 0.0).all(), "never negative, not even by rounding"


def _check_chunk_sums(member: Divergence, plain: _Plain, arguments: dict[str, Any]) -> None:
    """From hidden states, a few positions at a time: the plain form of the sums over tokens."""
    leaves = hidden, weight, bias = (
        _logits(12, 11, _DIM).requires_grad_(),
        _logits(13, _VOCAB, _DIM).requires_grad_(),
        _logits(18, _VOCAB).requires_grad_(),
    )
    head, targets = Head(weight, bias, scale=0.7, soft_cap=5.0), _other(True, 17, 11)
    chunk_of = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4])
    teacher, chunks = -3.0 * _logits(26, 5).abs(), torch.linspace(0.5, 1.5, 5).double()
    for temperature in (1.0, 2.5):
        log_probs = (head.logits(hidden) / temperature).log_softmax(-1)
        of_tokens = log_probs.gather(-1, targets[:, None])[:, 0]
        values = plain(of_tokens.new_zeros(5).index_add(0, chunk_of, of_tokens), teacher)
        expected = torch.autograd.grad((chunks * values).sum(), leaves)
        found = chunk_sum(
            member,
            arguments,
            *(hidden, head, targets, chunk_of, teacher),
            weights=chunks,
            temperature=temperature,
        )
        torch.testing.assert_close(found.values[0], values.detach(), msg="same value of chunks")
        torch.testing.assert_close(found.total, (chunks * values).sum(), msg="same total")
        for got, wanted in zip(torch.autograd.grad(found.total, leaves), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12, msg="same gradient")


def _logits(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _other(hard: bool, seed: int, *shape: int) -> Tensor:
    """A random teacher, or random targets."""
    if hard:
        return torch.randint(_VOCAB, shape, generator=torch.Generator().manual_seed(seed))
    return (3.0 * _logits(seed, *shape, _VOCAB)).log_softmax(-1)


def _check_values(plain: _Plain, hard: bool, *, non_negative: bool, zero_when_equal: bool) -> None:
    student, other = (3.0 * _logits(1, 4, 5, _VOCAB)).log_softmax(-1), _other(hard, 2, 4, 5)
    values = plain(student, other)
    assert values.shape == (4, 5), f"one value for every position, not {tuple(values.shape)}"
    assert values.dtype == torch.float64, "fp64 in, fp64 out"
    assert values.isfinite().all(), "finite where both models have mass everywhere"
    if non_negative:
        for noise in (0.0, 1e-4, 1e-2, 1.0, 30.0):
            near = (student + noise * _logits(3, 4, 5, _VOCAB)).log_softmax(-1).float()
            assert (plain(student.float(), other if hard else near) >= 0.0).all(), (
                f"never negative, not even by rounding (noise {noise}): clamp it at 0, or say "
                "non_negative=False"
            )
    if zero_when_equal and not hard:
        same = plain(student, student)
        assert same.abs().max() < 1e-10, "zero where both models agree"
        assert (values > 1e-6).all(), "and only there"


def _check_symmetries(plain: _Plain, hard: bool) -> None:
    logits, other = _logits(4, 7, _VOCAB).requires_grad_(), _other(hard, 5, 7)
    values = plain(logits.log_softmax(-1), other)
    (gradient,) = torch.autograd.grad(values.sum(), logits, materialize_grads=True)
    assert gradient.isfinite().all(), "the gradient is finite"
    shifted = plain((logits + 50.0).log_softmax(-1), other)
    torch.testing.assert_close(values, shifted, msg="a shift of all logits changes nothing")
    assert gradient.sum(-1).abs().max() <= 1e-10 * gradient.abs().max() + 1e-15, (
        "a shift of all logits changes nothing: the gradient of every row sums to 0"
    )
    order = torch.randperm(_VOCAB, generator=torch.Generator().manual_seed(6))
    moved = order.argsort()[other] if hard else other[:, order]
    permuted = plain(logits.log_softmax(-1)[:, order], moved)
    torch.testing.assert_close(permuted, values, msg="the vocabulary's order changes nothing")


def _check_finite_differences(plain: _Plain, hard: bool) -> None:
    logits, other = _logits(7, 3, _VOCAB).requires_grad_(), _other(hard, 8, 3)
    assert torch.autograd.gradcheck(
        lambda z: plain(z.log_softmax(-1), other), (logits,), raise_exception=False
    ), "the gradient is that of finite differences"


def _check_zeros(plain: _Plain, hard: bool) -> None:
    """Symbols to which neither model gives any mass are as if they were not there."""
    generator = torch.Generator().manual_seed(9)
    padding = torch.full((5, 4), -math.inf, dtype=torch.float64)
    student = _logits(10, 5, _VOCAB).log_softmax(-1)
    other = _other(hard, 11, 5)
    if hard:
        other = torch.randint(_VOCAB, (5,), generator=generator)
    padded = torch.cat([student, padding], dim=-1).requires_grad_()
    values = plain(padded, other if hard else torch.cat([other, padding], dim=-1))
    torch.testing.assert_close(
        values,
        plain(student, other),
        msg="symbols of log-probability -inf under both cost nothing: mind that -inf + inf is NaN",
    )
    (gradient,) = torch.autograd.grad(values.sum(), padded, materialize_grads=True)
    assert gradient.isfinite().all(), "impossible symbols give no NaN to the gradient"
    broken = student.clone()
    broken[2] = math.nan
    assert plain(broken, other)[2].isnan(), "a NaN of the student is not hidden"


def _check_chunks(
    name: str,
    plain: _Plain,
    hard: bool,
    chunk: int | None,
    temperature: float,
    parameters: dict[str, Any],
) -> None:
    """From hidden states, a few positions at a time, by hand and by autograd: the plain form."""
    leaves = hidden, weight, bias = (
        _logits(12, 11, _DIM).requires_grad_(),
        _logits(13, _VOCAB, _DIM).requires_grad_(),
        _logits(18, _VOCAB).requires_grad_(),
    )
    of_teacher, teacher = _logits(14, 11, _DIM), Head(_logits(15, _VOCAB, _DIM), soft_cap=30.0)
    positions = torch.rand(11, generator=torch.Generator().manual_seed(16)).double() + 0.1
    targets = _other(True, 17, 11)
    head = Head(weight, bias, scale=0.7, soft_cap=5.0)
    other = targets if hard else (teacher.logits(of_teacher) / temperature).log_softmax(-1)
    values = plain((head.logits(hidden) / temperature).log_softmax(-1), other)
    expected = torch.autograd.grad((positions * values).sum(), leaves, materialize_grads=True)
    for manual in (True, False):
        part = (
            target_part(targets)
            if hard
            else teacher_part(
                name, of_teacher, teacher, temperature=temperature, manual=manual, **parameters
            )
        )
        found = fused_sum(hidden, head, [part], weights=positions, chunk_positions=chunk)
        how = (
            f"chunks of {chunk} at temperature {temperature}, {'by hand' if manual else 'autograd'}"
        )
        torch.testing.assert_close(
            found.values[0], values.detach(), rtol=1e-9, atol=1e-11, msg=f"same value: {how}"
        )
        for got, wanted in zip(torch.autograd.grad(found.total, leaves), expected, strict=True):
            torch.testing.assert_close(
                got, wanted, rtol=1e-8, atol=1e-10, msg=f"same gradient: {how}"
            )


def _check_sparse(
    chosen: Chosen[Divergence],
    plain: _Plain,
    form: SparseForm,
    top_k: int,
    chunk: int | None,
    arguments: dict[str, Any],
) -> None:
    """From a teacher of which some symbols are known: the plain form over those and one for all
    others; over the whole vocabulary the divergence itself."""
    leaves = hidden, weight = (
        _logits(19, 6, _DIM).requires_grad_(),
        _logits(20, _VOCAB, _DIM).requires_grad_(),
    )
    positions, head = torch.linspace(0.5, 1.5, 6).double(), Head(weight, soft_cap=5.0)
    teacher = (3.0 * _logits(21, 6, _VOCAB)).log_softmax(-1)
    kept, ids = teacher.topk(top_k)
    if top_k < _VOCAB:
        kept[::2, 2:] = -math.inf  # fewer
    known = torch.zeros_like(teacher, dtype=torch.bool).scatter(-1, ids, ~kept.isneginf())
    tail = teacher.masked_fill(known, -math.inf).logsumexp(-1)
    if form != "bucket":
        kept, tail = kept.log_softmax(-1), torch.full_like(tail, -math.inf)
    scores = SparseScores(ids, kept, tail, _VOCAB, form)
    student = head.logits(hidden).log_softmax(-1)
    none_left = known.all(-1)
    others = student.masked_fill(known, -math.inf).masked_fill(none_left[:, None], 0.0)
    rest = others.logsumexp(-1).masked_fill(none_left, -math.inf)
    own = student.gather(-1, ids).masked_fill(kept.isneginf(), -math.inf)
    values = plain(torch.cat([own, rest[:, None]], -1), torch.cat([kept, tail[:, None]], -1))
    how = f"of a teacher known at {top_k} of {_VOCAB} symbols, {form}, in chunks of {chunk}"
    whole = plain(student, teacher)
    if top_k == _VOCAB:
        values = whole
    elif form == "bucket":
        assert (values <= whole + 1e-9).all(), (
            "it never rises where several symbols become one: register it without sparse bucket"
        )
    expected = torch.autograd.grad((positions * values).sum(), leaves)
    part = sparse_part(chosen, scores, **arguments)
    found = fused_sum(hidden, head, [part], weights=positions, chunk_positions=chunk)
    torch.testing.assert_close(
        found.values[0], values.detach(), rtol=1e-9, atol=1e-11, msg=f"same value {how}"
    )
    for got, wanted in zip(torch.autograd.grad(found.total, leaves), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10, msg=f"same gradient {how}")


def _check_linear(plain: _Plain) -> None:
    """The gradient is the mean of those from single symbols, drawn from the teacher: enumerated."""
    logits, teacher = _logits(22, 1, _VOCAB).requires_grad_(), _other(False, 23, 1)
    drawn = torch.eye(_VOCAB, dtype=torch.float64).log()
    (expected,) = torch.autograd.grad(plain(logits.log_softmax(-1), teacher).sum(), logits)
    student = logits.log_softmax(-1).expand(_VOCAB, -1)
    mean = (teacher[0].exp() * plain(student, drawn)).sum()
    (found,) = torch.autograd.grad(mean, logits)
    torch.testing.assert_close(
        found, expected, msg="linear in the teacher: register it without sparse sampled"
    )


def _check_objective(name: str, plain: _Plain, hard: bool, parameters: dict[str, Any]) -> None:
    """In an objective: padding is not read, and the split into micro-batches does not matter."""
    here = world()
    mask = here.batch.target_mask
    student, teacher = here.log_probs()
    values = plain(student[mask], here.batch.target_ids[mask] if hard else teacher[mask]).detach()
    objective = WeightedObjective([Term.of(name, **parameters)], reduction="token")
    bad = here.poisoned(~mask)
    total, _ = objective(bad.states, bad.scores, bad.batch)
    assert abs(total.detached().mean - float(values.mean())) < 1e-9, (
        "an objective of it is the mean over the positions that count; padding is never read"
    )
    parts = TokenSum.zero()
    for rows in (slice(0, 1), slice(1, 4)):
        piece = here.rows(rows)
        parts = parts + objective(piece.states, piece.scores, piece.batch)[0]
    assert abs(parts.detached().mean - float(values.mean())) < 1e-9, (
        "micro-batches add up to the batch"
    )


def check_token_weight(
    name: str,
    *,
    by_sequence: bool = True,
    extras: dict[str, list[float]] | None = None,
    **parameters: Any,
) -> None:
    """Runs the suite of the family on the registered token weight with these parameters.

    The batch has four sequences; `extras` gives numeric columns with a number for each. Say so
    where the weight of a token depends on other sequences of the batch.

    Raises AssertionError for the first property that does not hold.
    """
    chosen = TOKEN_WEIGHTS.choose(name, **parameters)
    here = rollouts()
    if extras:
        here = here.told(extras={k: torch.tensor(v).double() for k, v in extras.items()})
    mask = here.batch.target_mask
    weights, read, columns = _weights(chosen, here)
    assert weights.shape == mask.shape, f"(batch, time) = {tuple(mask.shape)}, not {weights.shape}"
    assert not weights.requires_grad, "a weight has no gradient"
    assert weights[mask].isfinite().all(), "finite at every position that counts"
    assert read <= set(chosen.member.reads), (
        f"it must be registered with reads={tuple(sorted(read))}, so that these are there"
    )
    assert columns <= set(chosen.member.columns(chosen.parameters)), (
        f"it must be registered with extras={tuple(sorted(columns))}, so that recipes are checked"
    )
    poisoned, *_ = _weights(chosen, here.poisoned(~mask))
    assert torch.equal(poisoned[mask], weights[mask]), "padding is never read"
    if by_sequence:
        for rows in (slice(0, 1), slice(1, 4)):
            alone, *_ = _weights(chosen, here.rows(rows))
            torch.testing.assert_close(
                alone[mask[rows]],
                weights[rows][mask[rows]],
                msg="it does not depend on other sequences of the batch",
            )
    if not chosen.member.on_policy:
        _check_weighted(chosen, here, weights)


class _Recorder(Observation):
    """Notes which attributes are looked at."""

    def __init__(self, here: World) -> None:
        super().__init__(here.states, here.scores, here.batch)
        self.read: set[str] = set()
        self.columns: set[str] = set()
        self.depth = 0

    def __getattribute__(self, name: str) -> Any:
        if name not in OBSERVED or self.depth:
            return super().__getattribute__(name)
        self.read.add(name)
        self.depth += 1  # what an attribute looks at itself is its own business
        try:
            return super().__getattribute__(name)
        finally:
            self.depth -= 1

    def extra(self, name: str) -> Tensor:
        self.columns.add(name)
        return super().extra(name)


def _weights(chosen: Chosen[TokenWeight], here: World) -> tuple[Tensor, set[str], set[str]]:
    seen = _Recorder(here)
    return seen.weights(chosen), seen.read, seen.columns


def _check_weighted(chosen: Chosen[TokenWeight], here: World, weights: Tensor) -> None:
    """A term with it is the sum of weight x value over the positions, by the rule of the count."""
    mask, member = here.batch.target_mask, chosen.member
    kept = mask & (weights != 0.0)
    counted = kept if member.leaves_count else mask
    student, teacher = here.log_probs()
    values = (student.exp() * (student - teacher)).sum(-1).detach()
    term = Term.of("reverse_kl", token_weights=[chosen])
    bad = here.poisoned(~kept) if member.selects and not member.reads else here
    reductions: tuple[Reduction, ...] = ("token", "sequence", "sum")
    for reduction in reductions:
        objective = WeightedObjective([term], reduction=reduction)
        total, _ = objective(bad.states, bad.scores, bad.batch)
        expected = reduce(torch.where(kept, weights * values, 0.0), counted, reduction)
        assert total.count == expected.count, (
            f"the count of {reduction} must leave out what has no weight if and only if the weight "
            "is registered with leaves_count=True"
        )
        torch.testing.assert_close(
            total.total.detach().double(),
            expected.total,
            rtol=1e-5,
            atol=1e-7,
            msg=f"a term with it is the sum of weight x value ({reduction})",
        )
