"""Losses straight from hidden states and heads: logits exist for one chunk of positions at a time.

The weight of every position is known beforehand, so the forward pass computes the whole gradient
in closed form while a chunk is at hand; the backward pass only multiplies it by the gradient that
arrives. The plain forms are in `divergences`; the tests say that both agree. Masks and counts are
the caller's affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.objectives.head_pass import LogitsPass, Needs, RowGradients, arithmetic_dtype

RowLoss = Callable[[int, int, Tensor, bool], Tensor]
"""(start, stop, student logits, want gradient) -> values. With a gradient wanted, the logits are
overwritten by the gradient of sum(weights * values) with respect to them."""

CHUNK_ELEMENTS = 8_000_000


@dataclasses.dataclass(frozen=True)
class FusedLoss:
    """`total` = sum(weights * values), differentiable; `values`: nats per position, no gradient."""

    total: Float[Tensor, ""]
    values: Float[Tensor, " positions"]


def fused_negative_log_likelihood(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    target_ids: Int[Tensor, " positions"],
    *,
    weights: Float[Tensor, " positions"],
    chunk_positions: int | None = None,
) -> FusedLoss:
    """-log q(target) in nats at every position, and its weighted sum.

    Equals `negative_log_likelihood` of the log-softmax of `head.logits(hidden)`. Hard targets know
    no temperature. `chunk_positions` bounds how many positions have logits at the same time.
    """

    def row_loss(start: int, stop: int, logits: Tensor, want_gradient: bool) -> Tensor:
        targets = target_ids[start:stop, None]
        largest = logits.amax(dim=-1, keepdim=True)
        at_target = logits.gather(-1, targets) - largest
        logits.sub_(largest).exp_()
        mass = logits.sum(dim=-1, keepdim=True)
        if want_gradient:
            row_weights = weights[start:stop, None].to(logits.dtype)
            logits.mul_(row_weights / mass)
            logits.scatter_add_(-1, targets, -row_weights)
        return (mass.log() - at_target).clamp(min=0.0).squeeze(-1)

    return run_fused(
        hidden, head, row_loss, weights=weights, temperature=1.0, chunk_positions=chunk_positions
    )


def run_fused(
    hidden: Tensor,
    head: Head,
    row_loss: RowLoss,
    *,
    weights: Tensor,
    temperature: float,
    chunk_positions: int | None,
) -> FusedLoss:
    """`row_loss` over all positions, chunk by chunk, with the gradient of the weighted sum."""
    chunk = chunk_positions or max(1, CHUNK_ELEMENTS // max(1, head.vocab_size))
    plan = _Plan(head, row_loss, weights, temperature, chunk)
    total, values = _FusedFunction.apply(hidden, head.weight, head.bias, plan)  # type: ignore[no-untyped-call]
    return FusedLoss(total, values)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the walk over the chunks needs besides the tensors that want gradients."""

    head: Head
    row_loss: RowLoss
    weights: Tensor
    temperature: float
    chunk: int

    def walk(self, hidden: Tensor, needs: Needs) -> tuple[Tensor, RowGradients | None]:
        """The values of all positions and, where needed, the gradients of their weighted sum."""
        num_positions = hidden.shape[0]
        values = hidden.new_empty(num_positions, dtype=arithmetic_dtype(hidden.dtype))
        student = LogitsPass(hidden, self.head, temperature=self.temperature, chunk=self.chunk)
        gradients = RowGradients(student, needs) if needs.any else None
        for start in range(0, num_positions, self.chunk):
            stop = min(start + self.chunk, num_positions)
            logits = student.rows(start, stop)
            slope = None if gradients is None else gradients.slope(logits)
            values[start:stop] = self.row_loss(start, stop, logits, needs.any)
            if gradients is not None:
                gradients.add(start, stop, logits, slope)
        return values, gradients


class _FusedFunction(torch.autograd.Function):
    """The walk as one node of the graph. The first backward hands its buffers over; a second one
    through a retained graph walks again."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor]:
        ctx.needs = Needs(*ctx.needs_input_grad[:3])  # type: ignore[attr-defined]
        ctx.plan = plan  # type: ignore[attr-defined]
        with torch.autocast(hidden.device.type, enabled=False):
            values, ctx.gradients = plan.walk(hidden, ctx.needs)  # type: ignore[attr-defined]
        ctx.save_for_backward(hidden, weight, bias)  # type: ignore[arg-type]
        ctx.mark_non_differentiable(values)
        total = (values * plan.weights.to(values.dtype)).sum()
        return total, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _values: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = ctx.gradients  # type: ignore[attr-defined]
        ctx.gradients = None  # type: ignore[attr-defined]
        if gradients is None:
            with torch.autocast(hidden.device.type, enabled=False):
                _, gradients = ctx.plan.walk(hidden, ctx.needs)  # type: ignore[attr-defined]

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
