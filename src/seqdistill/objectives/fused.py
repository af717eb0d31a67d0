"""Losses straight from hidden states and heads: logits exist for one chunk of positions at a time.

The plain forms are the functions of `DIVERGENCES`; tests say that both agree. Callers pass the
positions that count and the weight of each. The teacher never receives a gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES, Divergence
from seqdistill.core.head import Head, MixedHead, TeacherHead
from seqdistill.core.registry import Chosen, resolved
from seqdistill.objectives.chunked import (
    Blocking,
    ChunkWalk,
    FusedSum,
    Part,
    RowLoss,
    arithmetic_dtype,
    open_teacher,
    product_dtype,
)
from seqdistill.objectives.manual_gradients import SoftRows, entropy

RowFunction = Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor]
"""Student's and teacher's logits, and buffers, to (rows, 1) nats; the student's logits are
overwritten with the gradient of every row's value."""


def fused_divergence(
    name: str,
    student_hidden: Float[Tensor, "positions dim"],
    student_head: Head,
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: Head,
    *,
    weights: Float[Tensor, " positions"],
    temperature: float = 1.0,
    chunk_positions: int | None = None,
    **parameters: Any,
) -> FusedSum:
    """The divergence `name` in nats at every position, as the one part of a weighted sum.

    Equals the function of that name in `DIVERGENCES` on the log-softmax of both models' logits
    divided by `temperature` (no T squared); `parameters` are that divergence's own. Products run
    in the dtype of each model's hidden states, or in autocast's where it is on; the rest in fp32
    (fp64 for an fp64 student); gradients come in the dtype of the tensor they are for.
    `chunk_positions` bounds how many positions have logits at the same time; by default a chunk
    has at most 20 million logits. Positions that do not count should be left out rather than
    weighted 0: an infinite value times 0 is not a number.

    Raises RecipeError for an unknown name and parameters missing, foreign or out of range, and
    ValueError for heads over different vocabularies or a temperature that is not positive.
    """
    part = teacher_part(name, teacher_hidden, teacher_head, temperature=temperature, **parameters)
    return fused_sum(
        student_hidden, student_head, [part], weights=weights, chunk_positions=chunk_positions
    )


def nats_of(
    parts: Sequence[Part], hidden: Float[Tensor, "positions dim"], head: TeacherHead
) -> Float[Tensor, "parts positions"]:
    """What each part is at every position, without a gradient, in one pass over the head."""
    if isinstance(head, MixedHead):
        return _mixed_nats(parts, hidden, head)
    bias = None if head.bias is None else head.bias.detach()
    held = dataclasses.replace(head, weight=head.weight.detach(), bias=bias)
    ones = hidden.new_ones(hidden.shape[0])
    return fused_sum(hidden.detach(), held, parts, weights=ones).values


def _mixed_nats(parts: Sequence[Part], hidden: Tensor, head: MixedHead) -> Tensor:
    """The same of a mixture, whose logits no part may get a gradient of."""
    blocking, dtype = Blocking.of(hidden, head.vocab_size, None), product_dtype(hidden)
    exact, count = arithmetic_dtype(hidden.dtype), hidden.shape[0]
    with torch.autocast(hidden.device.type, enabled=False):
        mixed = open_teacher(
            hidden, head, dtype=dtype, temperature=parts[0].temperature, blocking=blocking
        )
        losses = [part.open_loss(blocking, exact) for part in parts]
        values = hidden.new_zeros((len(parts), count), dtype=exact)
        for chunk in range(0, count, blocking.chunk):
            end = min(chunk + blocking.chunk, count)
            for first in range(chunk, end, blocking.slice):
                last = min(first + blocking.slice, end)
                logits = mixed.rows(first, last)
                for row, loss in zip(values, losses, strict=True):
                    row[first:last] = loss(first, last, logits.clone()).squeeze(-1)
    return values


def fused_sum(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    parts: Sequence[Part],
    *,
    weights: Float[Tensor, " positions"],
    chunk_positions: int | None = None,
) -> FusedSum:
    """Several losses of the same student logits, in one pass over the head.

    Parts come from `teacher_part` and `target_part`. Equals the sum of the single losses, each
    times its factor, for the price of one product with the head forward and two backward. A part
    with weights of its own is summed with those instead of `weights`. Conventions as in
    `fused_divergence`.

    Raises ValueError for no parts, parts at several temperatures or at one that is not positive,
    and a teacher's part over another vocabulary.
    """
    temperatures = {part.temperature for part in parts}
    if len(temperatures) != 1:
        raise ValueError(
            "fused_sum needs at least one part, all of them at one temperature, got "
            f"{', '.join(map(str, sorted(temperatures))) or 'none'}"
        )
    (temperature,) = temperatures
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    for part in parts:
        if part.vocab_size is not None and part.vocab_size != head.vocab_size:
            raise ValueError(
                "both heads must score the same symbols, got vocabularies of "
                f"{head.vocab_size} (student) and {part.vocab_size} (teacher); cut the padded "
                "tail off with Head.cut"
            )
    blocking = Blocking.of(hidden, head.vocab_size, chunk_positions)
    exact = arithmetic_dtype(hidden.dtype)
    own_weights = [weights if part.weights is None else part.weights for part in parts]
    scales = torch.stack(
        [part.factor * own.to(exact) for part, own in zip(parts, own_weights, strict=True)]
    )
    walk = ChunkWalk(head, tuple(parts), scales, temperature, blocking, product_dtype(hidden))
    return walk.run(hidden)


def teacher_part(
    divergence: str | Chosen[Divergence],
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: TeacherHead,
    *,
    factor: float = 1.0,
    temperature: float = 1.0,
    weights: Float[Tensor, " positions"] | None = None,
    manual: bool = True,
    **parameters: Any,
) -> Part:
    """A divergence from a teacher, or a mixture of several, by name or as chosen, as a part of
    `fused_sum`.

    `parameters` are those of a divergence by name; of a chosen one, what its function is called
    with. Without `manual` autograd finds the gradient even where it is written out.

    Raises RecipeError for an unknown name and parameters missing, foreign or out of range.
    """
    member, arguments = called_with(divergence, parameters)
    form = _row_function(member, arguments, manual=manual)
    part = _beside_teacher(form, teacher_hidden, teacher_head, temperature)
    return dataclasses.replace(part, factor=factor, weights=weights)


def observed_part(
    function: Callable[[Tensor, Tensor], Tensor],
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: TeacherHead,
) -> Part:
    """A function of both models' log-probabilities, to be looked at: it leaves no gradient."""

    def form(student: Tensor, teacher: Tensor, _buffers: tuple[Tensor, ...]) -> Tensor:
        return function(student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)).unsqueeze(-1)

    return _beside_teacher(form, teacher_hidden, teacher_head)


def _beside_teacher(
    form: RowFunction, teacher_hidden: Tensor, teacher_head: TeacherHead, temperature: float = 1.0
) -> Part:
    """What `form` makes of both models' logits."""
    teacher_dtype = product_dtype(teacher_hidden)

    def open_loss(blocking: Blocking, dtype: torch.dtype) -> RowLoss:
        teacher = open_teacher(
            teacher_hidden,
            teacher_head,
            dtype=teacher_dtype,
            temperature=temperature,
            blocking=blocking,
        )
        shape = (blocking.slice, teacher_head.vocab_size)
        buffers = tuple(teacher_hidden.new_empty(shape, dtype=dtype) for _ in range(3))
        return lambda start, stop, logits: form(
            logits, teacher.rows(start, stop).to(dtype), buffers
        )

    return Part(open_loss, 1.0, temperature, teacher_head.vocab_size)


def called_with(
    divergence: str | Chosen[Divergence], parameters: dict[str, Any]
) -> tuple[Divergence, dict[str, Any]]:
    """The member, and what its function is called with: by name the `parameters` are its own, of a
    chosen one they are that already."""
    if not isinstance(divergence, str):
        return divergence.member, parameters
    chosen = DIVERGENCES.choose(divergence, **parameters)
    state = chosen.member.new_state(chosen.parameters)
    return chosen.member, chosen.arguments() if state is None else dict(state.arguments())


def shape_of(found: object) -> tuple[int, ...]:
    """The shape of a tensor; () of anything else."""
    return tuple(found.shape) if isinstance(found, Tensor) else ()


def _row_function(member: Divergence, arguments: dict[str, Any], *, manual: bool) -> RowFunction:
    """The divergence on rows of logits: with its gradient written out, or by autograd."""
    if manual and member.manual_gradient is not None:
        by_hand: Callable[..., Tensor] = resolved(member.manual_gradient)
        return lambda student, teacher, buffers: by_hand(
            SoftRows.of(student, teacher, buffers), **arguments
        )

    def by_autograd(student: Tensor, teacher: Tensor, _buffers: tuple[Tensor, ...]) -> Tensor:
        with torch.enable_grad():
            logits = student.detach().requires_grad_()
            log_probs = logits.log_softmax(dim=-1)
            teacher_log_probs = teacher.log_softmax(dim=-1)
            values = checked_values(member, log_probs, teacher_log_probs, arguments)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        student.copy_(gradient)
        broken = log_probs[:, :1].isnan() | teacher[:, :1].isnan()
        return values.detach().unsqueeze(-1).masked_fill(broken, torch.nan)

    return by_autograd


def checked_values(
    member: Divergence,
    log_probs: Float[Tensor, "*rows_vocab"],
    teacher_log_probs: Float[Tensor, "*rows_teacher_vocab"],
    arguments: Mapping[str, Any],
) -> Float[Tensor, " rows"]:
    """What the divergence's function gives, with a graph to the student's log-probabilities.

    They are (rows, vocab), of chunks (rows,). Raises RecipeError where that is not one value for
    every row, or cannot be learned from.
    """
    values: Tensor = member.call("divergence", log_probs, teacher_log_probs, **arguments)
    wanted = log_probs.shape if member.of_chunks else log_probs.shape[:-1]
    if (got := shape_of(values)) != wanted:
        each, sums = ("chunk", "no") if member.of_chunks else ("position", "the last")
        raise RecipeError(
            f"the divergence {member.name} must give one value for every {each}, the shape "
            f"{tuple(wanted)}, got {got or type(values).__name__}; sum over {sums} dimension"
        )
    if not values.requires_grad:
        raise RecipeError(
            f"the divergence {member.name} must depend on the student, so that it can be learned "
            f"from, got {values.dtype} without a gradient; leave out `detach` and whole numbers"
        )
    return values


def target_part(
    target_ids: Int[Tensor, " positions"],
    *,
    factor: float = 1.0,
    vocab_size: int | None = None,
    weights: Float[Tensor, " positions"] | None = None,
) -> Part:
    """The negative log-likelihood of targets, as a part of `fused_sum` at temperature 1.

    Among the head's first `vocab_size` symbols, or all of them.
    """
    ids = target_ids.long()

    def rows(start: int, stop: int, logits: Tensor) -> Tensor:
        targets = ids[start:stop, None]
        gap = logits.amax(dim=-1, keepdim=True) - logits.gather(-1, targets)
        probs = torch.softmax(logits, dim=-1, out=logits)
        # log sum exp(z) = max z - log max q: no second pass of exponentials.
        values = gap - probs.amax(dim=-1, keepdim=True).log_()
        probs.scatter_add_(-1, targets, torch.full_like(values, -1.0))  # the gradient: q - onehot
        return values.clamp_(min=0.0)

    return Part(lambda _blocking, _dtype: rows, factor, 1.0, vocab_size, weights)


def entropy_part() -> Part:
    """The student's entropy H(Q), to be looked at: it leaves no gradient."""

    return Part(lambda _blocking, _dtype: lambda _start, _stop, logits: entropy(logits))
