"""A head and losses of its logits over chunks of positions, as one differentiable operation.

A matrix product covers a whole chunk; everything else is done in slices of a few rows that stay in
the processor's cache. The weight of every position is known beforehand, so the forward pass
computes the whole gradient while a chunk is at hand; the backward pass only multiplies it by the
gradient that arrives. Which loss is taken is the business of `fused`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqdistill.core.head import Head, MixedHead, TeacherHead

CHUNK_ELEMENTS = 20_000_000
"""Logits of one chunk at most (80 MB in fp32): long enough for matrix products to run at full
speed and for the weight's gradient, which every chunk reads and writes, to be touched seldom."""

SLICE_ELEMENTS = 256_000
"""Logits of one slice per CPU thread (1 MB in fp32): a few such buffers fit a core's cache."""

RowLoss = Callable[[int, int, Tensor], Tensor]
"""Positions from start to stop and their logits, to (rows, 1) values in nats; the logits are
overwritten with the gradient of every row's value."""


@dataclasses.dataclass(frozen=True)
class Blocking:
    """How many positions share a matrix product (`chunk`) and an elementwise pass (`slice`)."""

    chunk: int
    slice: int

    @classmethod
    def of(cls, hidden: Tensor, vocab_size: int, chunk_positions: int | None) -> Blocking:
        """Sizes for these hidden states; a GPU has no use for slices, so its slice is a chunk.

        Without `chunk_positions` the chunks are as equal and as few as the limit allows.

        Raises ValueError when `chunk_positions` is given and not positive.
        """
        if chunk_positions is not None and chunk_positions < 1:
            raise ValueError(f"chunk_positions must be at least 1, got {chunk_positions}")
        num_positions = max(1, hidden.shape[0])
        if chunk_positions is None:
            num_chunks = -(-num_positions // max(1, CHUNK_ELEMENTS // vocab_size))
            chunk_positions = -(-num_positions // num_chunks)
        chunk = min(num_positions, chunk_positions)
        if hidden.device.type != "cpu":
            return cls(chunk, chunk)
        of_slice = torch.get_num_threads() * max(1, SLICE_ELEMENTS // vocab_size)
        return cls(chunk, min(chunk, of_slice))


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
class FusedSum:
    """`total` = sum_i factor_i sum(weights_i * values[i]), differentiable; `values` in nats."""

    total: Float[Tensor, ""]
    values: Float[Tensor, "parts positions"]


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of matrix products with these hidden states: autocast's where it is on, as in the
    plain form, else their own. fp64 is never lowered."""
    device = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 stays fp64; everything else is computed in fp32 after the matrix product."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class LogitsPass:
    """Logits divided by a temperature, cap(scale * h W^T + b) / T, chunk by chunk.

    The matrix product runs in `dtype` (hidden states and weight are cast to it once), all that
    follows in fp32 (fp64 for fp64). Buffers are allocated once and reused.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Head,
        *,
        dtype: torch.dtype,
        temperature: float,
        blocking: Blocking,
    ) -> None:
        exact = arithmetic_dtype(dtype)
        self.hidden = hidden.detach().to(dtype)
        self.weight = head.weight.detach().to(dtype)
        self._head = head
        self._temperature = temperature
        self._bias = None if head.bias is None else head.bias.detach().to(exact)
        self._product = hidden.new_empty((blocking.chunk, head.vocab_size), dtype=dtype)
        self._in_place = dtype == exact
        self._slice = (
            self._product
            if self._in_place
            else hidden.new_empty((blocking.slice, head.vocab_size), dtype=exact)
        )
        self._start = self._stop = 0

    @property
    def chunk(self) -> Tensor:
        """The plain products h W^T of the present chunk, or the gradients given back for them."""
        return self._product[: self._stop - self._start]

    def rows(self, start: int, stop: int) -> Tensor:
        """The logits of positions of one chunk, in a buffer the loss may overwrite.

        The first position of a chunk computes its products.
        """
        if not self._start <= start < self._stop:
            self._start = start
            self._stop = min(start + self._product.shape[0], self.hidden.shape[0])
            torch.mm(self.hidden[start : self._stop], self.weight.T, out=self.chunk)
        logits = self._product[start - self._start : stop - self._start]
        if not self._in_place:
            logits = self._slice[: stop - start].copy_(logits)
        cap = self._head.soft_cap
        divisor = self._temperature if cap is None else 1.0
        if self._head.scale != divisor:
            logits.mul_(self._head.scale / divisor)
        if self._bias is not None:
            logits.add_(self._bias, alpha=1.0 / divisor)
        if cap is not None:
            logits.mul_(1.0 / cap).tanh_().mul_(cap / self._temperature)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """d (cap(u) / T) / du from the finished logits: (1 - tanh(u / c)^2) / T, or 1 / T."""
        if self._head.soft_cap is None:
            return 1.0 / self._temperature
        tanh = logits * (self._temperature / self._head.soft_cap)
        return tanh.square_().neg_().add_(1.0).mul_(1.0 / self._temperature)

    def give_back(self, start: int, stop: int, gradient: Tensor) -> None:
        """Puts the gradient of some rows where their products were."""
        if not self._in_place:
            self._product[start - self._start : stop - self._start].copy_(gradient)


class MixedPass:
    """The log-probabilities of several teachers' mixture, chunk by chunk, up to a constant a row.

    Each teacher's logits are divided by the temperature, then they are mixed.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: MixedHead,
        *,
        dtype: torch.dtype,
        temperature: float,
        blocking: Blocking,
    ) -> None:
        self._hidden, self._head = hidden, head
        self._open = functools.partial(LogitsPass, dtype=dtype, temperature=temperature)
        self._exact = arithmetic_dtype(dtype)
        self._passes = []
        if head.weights is not None:
            parts = torch.split(hidden, [*head.widths], dim=-1)
            self._passes = [
                (weight, self._open(part, member, blocking=blocking))
                for weight, part, member in zip(head.weights, parts, head.members, strict=True)
                if weight > 0.0
            ]

    def rows(self, start: int, stop: int) -> Tensor:
        """As of one teacher's logits, in a tensor that the loss may overwrite."""
        if self._head.weights is None:
            return self._routed(start, stop)
        total: Tensor | None = None
        for weight, one in self._passes:
            log_probs = one.rows(start, stop).to(self._exact).log_softmax(dim=-1)
            if self._head.geometric:
                total = weight * log_probs if total is None else total.add_(log_probs, alpha=weight)
            else:
                log_probs += math.log(weight)
                total = log_probs if total is None else torch.logaddexp(total, log_probs)
        assert total is not None, "weights sum to 1"
        return total

    def _routed(self, start: int, stop: int) -> Tensor:
        place = self._hidden[start:stop, -1]
        found = place.new_empty((stop - start, self._head.vocab_size), dtype=self._exact)
        for number, (member, width) in enumerate(
            zip(self._head.members, self._head.widths, strict=True)
        ):
            rows = (place == number).nonzero().squeeze(-1)
            if count := len(rows):
                own = self._hidden[start:stop, :width][rows]
                one = self._open(own, member, blocking=Blocking(count, count))
                found[rows] = one.rows(0, count).to(self._exact)
        return found


def open_teacher(
    hidden: Tensor,
    head: TeacherHead,
    *,
    dtype: torch.dtype,
    temperature: float,
    blocking: Blocking,
) -> LogitsPass | MixedPass:
    """A pass over one teacher's logits, or over the mixture of several."""
    how: dict[str, Any] = {"dtype": dtype, "temperature": temperature, "blocking": blocking}
    if isinstance(head, MixedHead):
        return MixedPass(hidden, head, **how)
    return LogitsPass(hidden, head, **how)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""For hidden states, weight and bias of the head; None for those that want none."""


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

    def walk(self, hidden: Tensor, needs: tuple[bool, bool, bool]) -> tuple[Tensor, Gradients]:
        """Every part's values at all positions, and the gradients of the total where needed.

        Those of weight and bias are summed in fp32 (or fp64).
        """
        head, exact, num_positions = self.head, arithmetic_dtype(hidden.dtype), hidden.shape[0]
        values = hidden.new_empty((len(self.parts), num_positions), dtype=exact)
        of_hidden = torch.empty_like(hidden) if needs[0] else None
        of_weight = hidden.new_zeros(head.weight.shape, dtype=exact) if needs[1] else None
        of_bias = hidden.new_zeros(head.vocab_size, dtype=exact) if needs[2] else None
        student = LogitsPass(
            hidden,
            head,
            dtype=self.dtype,
            temperature=self.temperature,
            blocking=self.blocking,
        )
        losses = self._shared_logits(hidden, exact, wants_gradient=any(needs))
        for start in range(0, num_positions, self.blocking.chunk):
            stop = min(start + self.blocking.chunk, num_positions)
            for first in range(start, stop, self.blocking.slice):
                last = min(first + self.blocking.slice, stop)
                logits = student.rows(first, last)
                slope = student.slope(logits)
                values[:, first:last] = losses(first, last, logits)
                if any(needs):
                    if isinstance(slope, Tensor) or slope != 1.0:
                        logits.mul_(slope)
                    if of_bias is not None:
                        of_bias.add_(logits.sum(dim=0))
                    student.give_back(first, last, logits)
            gradient = student.chunk
            if of_hidden is not None:
                of_hidden[start:stop] = (gradient @ student.weight).mul_(head.scale)
            if of_weight is not None and of_weight.dtype == gradient.dtype:
                of_weight.addmm_(gradient.T, student.hidden[start:stop], alpha=head.scale)
            elif of_weight is not None:
                of_weight.add_(gradient.T @ student.hidden[start:stop], alpha=head.scale)
        return values, (of_hidden, of_weight, of_bias)

    def _shared_logits(
        self, hidden: Tensor, exact: torch.dtype, *, wants_gradient: bool
    ) -> RowLoss:
        """Positions and logits to (parts, rows) values, of parts that each overwrite the logits.

        What is left there is the gradient of their scaled sum.
        """
        losses = [part.open_loss(self.blocking, exact) for part in self.parts]
        scales = self.scales.to(exact).unsqueeze(-1)
        # On a GPU the multiplication is cheaper than to look.
        last_differs = scales.is_cuda or not bool((scales[-1] == 1.0).all())
        shape = (len(self.parts) - 1, self.blocking.slice, self.head.vocab_size)
        copies = hidden.new_empty(shape, dtype=exact)

        def rows(start: int, stop: int, logits: Tensor) -> Tensor:
            own = copies[:, : stop - start].copy_(logits)
            values = [
                loss(start, stop, each) for loss, each in zip(losses, [*own, logits], strict=True)
            ]
            if wants_gradient and last_differs:
                logits.mul_(scales[-1, start:stop])
            if wants_gradient:
                for scale, each in zip(scales[:, start:stop], own, strict=False):
                    logits.addcmul_(each, scale)
            return torch.cat(values, dim=1).T

        return rows


class _WalkFunction(torch.autograd.Function):
    """The walk as one node of the graph.

    The first backward hands the gradient buffers over without a copy, so a second one through a
    retained graph walks again. Autocast is off inside: its dtype has been asked for before.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: ChunkWalk
    ) -> tuple[Tensor, Tensor]:
        ctx.needs = ctx.needs_input_grad[:3]
        ctx.plan = plan
        with torch.autocast(hidden.device.type, enabled=False):
            values, ctx.gradients = plan.walk(hidden, ctx.needs)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(values)
        return (plan.scales.to(values.dtype) * values).sum(), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _values: Tensor) -> tuple[Tensor | None, ...]:
        leaves, gradients = ctx.saved_tensors, ctx.gradients
        ctx.gradients = None
        if gradients is None:
            with torch.autocast(leaves[0].device.type, enabled=False):
                _, gradients = ctx.plan.walk(leaves[0], ctx.needs)
        scaled = (
            None if own is None else own.mul_(upstream.to(own.dtype)).to(leaf.dtype)
            for own, leaf in zip(gradients, leaves, strict=True)
        )
        return (*scaled, None)
