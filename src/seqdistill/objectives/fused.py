"""Losses straight from hidden states and heads: logits exist for one chunk of positions at a time.

The plain forms are in `registry`; tests say that both agree in value and gradient. Masks and
counts are the caller's: he passes the positions that count and the weight of each. The teacher
never receives a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.objectives import manual_gradients
from seqdistill.objectives.chunked_head import Blocking, LogitsPass, arithmetic_dtype, product_dtype
from seqdistill.objectives.chunked_loss import ChunkWalk, FusedLoss, FusedSum, Part
from seqdistill.objectives.divergences import Scale
from seqdistill.objectives.registry import Parameters, closed_form


def fused_divergence(
    name: str,
    student_hidden: Float[Tensor, "positions dim"],
    student_head: Head,
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: Head,
    *,
    weights: Float[Tensor, " positions"],
    beta: float | None = None,
    alpha: float | None = None,
    scale: Scale = "raw",
    share: float | None = None,
    head_mass: float = 0.5,
    temperature: float = 1.0,
    chunk_positions: int | None = None,
) -> FusedLoss:
    """The divergence `name` in nats at every position, and its weighted sum.

    Equals the function of that name in `DIVERGENCES` on the log-softmax of both models' logits
    divided by `temperature` (no T squared). `beta` and `scale` belong to jensen_shannon, `alpha`
    to the skew divergences, `share` to interpolated_forward_kl, `head_mass` to adaptive_kl.
    Products run in the dtype of each model's hidden states, or in autocast's where it is on; the
    rest in fp32 (fp64 for an fp64 student); gradients come in the dtype of the tensor they are
    for. `chunk_positions` bounds how many positions have logits at the same time; by default a
    chunk has at most 20 million logits. Positions that do not count should be left out rather
    than weighted 0: an infinite value times 0 is not a number.

    Raises ValueError for an unknown name, a parameter missing or out of range, heads over
    different vocabularies, or a temperature that is not positive.
    """
    part = teacher_part(
        name,
        teacher_hidden,
        teacher_head,
        beta=beta,
        alpha=alpha,
        scale=scale,
        share=share,
        head_mass=head_mass,
        temperature=temperature,
    )
    return _only(
        fused_sum(
            student_hidden,
            student_head,
            [part],
            weights=weights,
            temperature=temperature,
            chunk_positions=chunk_positions,
        )
    )


def fused_negative_log_likelihood(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    target_ids: Int[Tensor, " positions"],
    *,
    weights: Float[Tensor, " positions"],
    chunk_positions: int | None = None,
) -> FusedLoss:
    """-log Q(target) in nats at every position, and its weighted sum.

    Equals `negative_log_likelihood` of the log-softmax of `head.logits(hidden)`. Hard targets know
    no temperature. Dtypes and `chunk_positions` as in `fused_divergence`.
    """
    part = target_part(target_ids)
    return _only(fused_sum(hidden, head, [part], weights=weights, chunk_positions=chunk_positions))


def fused_sum(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    parts: Sequence[Part],
    *,
    weights: Float[Tensor, " positions"],
    temperature: float = 1.0,
    chunk_positions: int | None = None,
) -> FusedSum:
    """Several losses of the same student logits, in one pass over the head.

    Parts come from `teacher_part` and `target_part`. Equals the sum of the single losses, each
    times its factor, for the price of one product with the head forward and two backward. A part
    with weights of its own is summed with those instead of `weights`. Conventions as in
    `fused_divergence`.

    Raises ValueError for no parts, a teacher's part over another vocabulary or made for another
    temperature, a target's part at a temperature other than 1, or a temperature that is not
    positive.
    """
    if not parts:
        raise ValueError("fused_sum needs at least one part, got none")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    for part in parts:
        if part.temperature != temperature:
            raise ValueError(
                "all parts must be losses of the logits at one temperature, got a part for "
                f"temperature {part.temperature} in a sum at {temperature}"
            )
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
    name: str,
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: Head,
    *,
    factor: float = 1.0,
    beta: float | None = None,
    alpha: float | None = None,
    scale: Scale = "raw",
    share: float | None = None,
    head_mass: float = 0.5,
    temperature: float = 1.0,
    weights: Float[Tensor, " positions"] | None = None,
) -> Part:
    """The divergence `name` from a teacher, as a part of `fused_sum`; see `fused_divergence`.

    Raises ValueError for an unknown name, or a parameter missing or out of range.
    """
    form = closed_form(name, Parameters(beta, alpha, share, scale, head_mass))
    teacher_dtype = product_dtype(teacher_hidden)

    def open_loss(blocking: Blocking, dtype: torch.dtype) -> _TeacherRows:
        teacher = LogitsPass(
            teacher_hidden,
            teacher_head,
            dtype=teacher_dtype,
            temperature=temperature,
            blocking=blocking,
        )
        return _TeacherRows(teacher, form, dtype, blocking)

    return Part(open_loss, factor, temperature, teacher_head.vocab_size, weights)


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
    loss = _TargetRows(target_ids.long())
    return Part(lambda _blocking, _dtype: loss, factor, 1.0, vocab_size, weights)


def _only(found: FusedSum) -> FusedLoss:
    return FusedLoss(found.total, found.values[0])


class _TeacherRows:
    """A closed form between the student's logits and a teacher's."""

    def __init__(
        self,
        teacher: LogitsPass,
        form: manual_gradients.ClosedForm,
        dtype: torch.dtype,
        blocking: Blocking,
    ) -> None:
        self._teacher = teacher
        self._form = form
        self._dtype = dtype
        rows = min(blocking.slice, blocking.chunk)
        shape = (rows, teacher.head.vocab_size)
        first, second, third = (teacher.hidden.new_empty(shape, dtype=dtype) for _ in range(3))
        self._buffers = (first, second, third)

    def enter_chunk(self, start: int, stop: int) -> None:
        self._teacher.enter_chunk(start, stop)

    def values_and_gradient(self, start: int, stop: int, logits: Tensor) -> Tensor:
        teacher_logits = self._teacher.rows(start, stop).to(self._dtype)
        return self._form(manual_gradients.SoftRows.of(logits, teacher_logits, self._buffers))


class _TargetRows:
    """The negative log-likelihood of one right answer per position; gradient q - onehot."""

    def __init__(self, target_ids: Tensor) -> None:
        self._target_ids = target_ids

    def enter_chunk(self, start: int, stop: int) -> None:
        """Nothing is shared by a chunk."""

    def values_and_gradient(self, start: int, stop: int, logits: Tensor) -> Tensor:
        targets = self._target_ids[start:stop, None]
        gap = logits.amax(dim=-1, keepdim=True) - logits.gather(-1, targets)
        probs = torch.softmax(logits, dim=-1, out=logits)
        # log sum exp(z) = max z - log max q: no second pass of exponentials.
        values = gap - probs.amax(dim=-1, keepdim=True).log_()
        probs.scatter_add_(-1, targets, torch.full_like(values, -1.0))
        return values.clamp_(min=0.0)
