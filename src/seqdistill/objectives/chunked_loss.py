"""The walk over chunks of positions as one differentiable operation.

The weight of every position is known beforehand, so the forward pass computes the whole gradient
while a chunk is at hand; the backward pass only multiplies it by the gradient that arrives. Which
loss is taken is the business of `fused`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.objectives.chunked_head import (
    Blocking,
    HeadGradients,
    LogitsPass,
    Needs,
    arithmetic_dtype,
    cap_slope,
)


@dataclasses.dataclass(frozen=True)
class FusedLoss:
    """`total` = sum(weights * values), differentiable; `values`: nats per position, no gradient."""

    total: Float[Tensor, ""]
    values: Float[Tensor, " positions"]


@dataclasses.dataclass(frozen=True)
class FusedSum:
    """`total` = sum_i factor_i sum(weights_i * values[i]), differentiable; `values` in nats."""

    total: Float[Tensor, ""]
    values: Float[Tensor, "parts positions"]


RowLoss = Callable[[int, int, Tensor], Tensor]
"""Positions from start to stop and their logits, to (rows, 1) values in nats; the logits are
overwritten with the gradient of every row's value."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the losses that share a walk, and what multiplies it.

    `open_loss` makes the loss with its buffers (in that dtype) for one walk, so that they die with
    it.
    """

    open_loss: Callable[[Blocking, torch.dtype], RowLoss]
    factor: float = 1.0
    temperature: float = 1.0
    """What the loss expects the logits to be divided by."""
    vocab_size: int | None = None
    """How many symbols it compares; None where it takes any number."""
    weights: Tensor | None = None
    """What multiplies its positions instead of the weights of the sum that it is part of."""


@dataclasses.dataclass(frozen=True)
class ChunkWalk:
    """What the walk needs besides the tensors that want gradients.

    The student's logits are computed once for all parts, and their gradients go back through the
    head together. `scales` (parts, positions) multiply the values. Matrix products run in `dtype`.
    """

    head: Head
    parts: tuple[Part, ...]
    scales: Tensor
    temperature: float
    blocking: Blocking
    dtype: torch.dtype

    def run(self, hidden: Tensor) -> FusedSum:
        """The weighted total, and every part's values at all positions."""
        total, values = _WalkFunction.apply(  # type: ignore[no-untyped-call]
            hidden, self.head.weight, self.head.bias, self
        )
        return FusedSum(total, values)

    def walk(self, hidden: Tensor, needs: Needs) -> tuple[Tensor, HeadGradients]:
        """Every part's values at all positions, and the gradients of the total where needed."""
        exact = arithmetic_dtype(hidden.dtype)
        values = hidden.new_empty((len(self.parts), hidden.shape[0]), dtype=exact)
        student = LogitsPass(
            hidden,
            self.head,
            dtype=self.dtype,
            temperature=self.temperature,
            blocking=self.blocking,
        )
        losses = _SharedLogits(self, hidden, needs)
        gradients = HeadGradients.zeros(hidden, self.head, needs)
        for start in range(0, hidden.shape[0], self.blocking.chunk):
            stop = min(start + self.blocking.chunk, hidden.shape[0])
            for first in range(start, stop, self.blocking.slice):
                last = min(first + self.blocking.slice, stop)
                logits = student.rows(first, last)
                slope = cap_slope(logits, self.head.soft_cap, self.temperature)
                values[:, first:last] = losses(first, last, logits)
                if needs.any:
                    gradients.add_rows(student, logits, slope)
                    student.give_back(first, last, logits)
            gradients.add_chunk(student, start, stop)
        return values, gradients


def _differ_from_one(weights: Tensor) -> bool:
    """Whether rows have to be multiplied; on a GPU the multiplication is cheaper than to look."""
    return weights.is_cuda or not bool((weights == 1.0).all())


class _SharedLogits:
    """The parts of a walk, each of which wants to overwrite the same logits."""

    def __init__(self, walk: ChunkWalk, hidden: Tensor, needs: Needs) -> None:
        exact = arithmetic_dtype(walk.dtype)
        self._losses = [part.open_loss(walk.blocking, exact) for part in walk.parts]
        self._scales = walk.scales.to(exact).unsqueeze(-1)
        self._last_differs = _differ_from_one(walk.scales[-1])
        self._needs = needs
        rows = min(walk.blocking.slice, walk.blocking.chunk)
        shape = (len(walk.parts) - 1, rows, walk.head.vocab_size)
        self._copies = hidden.new_empty(shape, dtype=exact)

    def __call__(self, start: int, stop: int, logits: Tensor) -> Tensor:
        """(parts, rows) values; overwrites the logits with the gradient of their scaled sum."""
        copies = self._copies[:, : stop - start]
        copies.copy_(logits)
        values = [
            loss(start, stop, own)
            for loss, own in zip(self._losses, [*copies, logits], strict=True)
        ]
        if self._needs.any:
            scales = self._scales[:, start:stop]
            if self._last_differs:
                logits.mul_(scales[-1])
            for scale, own in zip(scales, copies, strict=False):
                logits.addcmul_(own, scale)
        return torch.cat(values, dim=1).T


class _WalkFunction(torch.autograd.Function):
    """The walk as one node of the graph.

    The first backward hands the gradient buffers over without a copy, so a second one through a
    retained graph walks again. Autocast is off inside: its dtype has been asked for before.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: ChunkWalk
    ) -> tuple[Tensor, Tensor]:
        ctx.needs = Needs(*ctx.needs_input_grad[:3])
        ctx.plan = plan
        with torch.autocast(hidden.device.type, enabled=False):
            values, ctx.gradients = plan.walk(hidden, ctx.needs)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(values)
        return (plan.scales.to(values.dtype) * values).sum(), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, upstream: Tensor, _values: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias = ctx.saved_tensors
        gradients: HeadGradients | None = ctx.gradients
        ctx.gradients = None
        if gradients is None:
            with torch.autocast(hidden.device.type, enabled=False):
                _, gradients = ctx.plan.walk(hidden, ctx.needs)

        def scaled(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
            if gradient is None or like is None:
                return None
            return gradient.mul_(upstream.to(gradient.dtype)).to(like.dtype)

        return (
            scaled(gradients.hidden, hidden),
            scaled(gradients.weight, weight),
            scaled(gradients.bias, bias),
            None,
        )
