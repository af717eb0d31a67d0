"""A head applied to a chunk of positions: logits out of it, gradients back into it.

A matrix product covers a whole chunk; everything else is done in slices of a few rows that stay in
the processor's cache. Buffers are allocated once a call and reused. This file does not know which
loss is taken of the logits: the loss overwrites them with its gradient.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from seqdistill.core.head import Head

CHUNK_ELEMENTS = 20_000_000
"""Logits of one chunk at most (80 MB in fp32): long enough for matrix products to run at full
speed and for the weight's gradient, which every chunk reads and writes, to be touched seldom."""

SLICE_ELEMENTS = 256_000
"""Logits of one slice per CPU thread (1 MB in fp32): a few such buffers fit a core's cache."""


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
        return cls(chunk, torch.get_num_threads() * max(1, SLICE_ELEMENTS // vocab_size))


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


def detached_head(head: Head) -> Head:
    """The same head, of which no gradient is wanted."""
    bias = None if head.bias is None else head.bias.detach()
    return dataclasses.replace(head, weight=head.weight.detach(), bias=bias)


class LogitsPass:
    """Logits divided by a temperature, cap(scale * h W^T + b) / T, chunk by chunk.

    The matrix product runs in `dtype` (hidden states and weight are cast to it once), all that
    follows in fp32 (fp64 for fp64).
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
        self.head = head
        self.temperature = temperature
        self.weight = head.weight.detach().to(dtype)
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
        cap = self.head.soft_cap
        divisor = self.temperature if cap is None else 1.0
        if self.head.scale != divisor:
            logits.mul_(self.head.scale / divisor)
        if self._bias is not None:
            logits.add_(self._bias, alpha=1.0 / divisor)
        if cap is not None:
            logits.mul_(1.0 / cap).tanh_().mul_(cap / self.temperature)
        return logits

    def give_back(self, start: int, stop: int, gradient: Tensor) -> None:
        """Puts the gradient of some rows where their products were."""
        if not self._in_place:
            self._product[start - self._start : stop - self._start].copy_(gradient)


@dataclasses.dataclass(frozen=True)
class Needs:
    """Which of the student's tensors want a gradient."""

    hidden: bool
    weight: bool
    bias: bool

    @property
    def any(self) -> bool:
        """Whether a gradient has to be computed at all."""
        return self.hidden or self.weight or self.bias


@dataclasses.dataclass(frozen=True)
class HeadGradients:
    """Gradients of what wants one, None for the rest; weight and bias summed in fp32 (or fp64)."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, hidden: Tensor, head: Head, needs: Needs) -> HeadGradients:
        """Buffers of zeros, to be added to."""
        exact = arithmetic_dtype(hidden.dtype)
        vocab_size, dim = head.weight.shape
        return cls(
            torch.empty_like(hidden) if needs.hidden else None,
            hidden.new_zeros((vocab_size, dim), dtype=exact) if needs.weight else None,
            hidden.new_zeros(vocab_size, dtype=exact) if needs.bias else None,
        )

    def add_rows(self, student: LogitsPass, gradient: Tensor, slope: Tensor | None) -> None:
        """Turns the gradient for these logits into that for scale * h W^T + b, in place.

        `slope` is d cap(u) / du where there is a cap. Adds the bias's part.
        """
        if slope is not None:
            gradient.mul_(slope)
        elif student.temperature != 1.0:
            gradient.mul_(1.0 / student.temperature)
        if self.bias is not None:
            self.bias.add_(gradient.sum(dim=0))

    def add_chunk(self, student: LogitsPass, start: int, stop: int) -> None:
        """Adds what a chunk gives hidden states and weight: two matrix products."""
        scale, gradient = student.head.scale, student.chunk
        if self.hidden is not None:
            rows = self.hidden[start:stop]
            if rows.dtype == gradient.dtype:
                torch.mm(gradient, student.weight, out=rows)
            else:
                rows.copy_(gradient @ student.weight)
            if scale != 1.0:
                rows.mul_(scale)
        if self.weight is None:
            return
        hidden = student.hidden[start:stop]
        if self.weight.dtype == gradient.dtype:
            self.weight.addmm_(gradient.T, hidden, alpha=scale)
        else:
            self.weight.add_(gradient.T @ hidden, alpha=scale)


def cap_slope(logits: Tensor, soft_cap: float | None, temperature: float) -> Tensor | None:
    """d (cap(u) / T) / du from the finished logits: (1 - tanh(u / c)^2) / T; None without a cap."""
    if soft_cap is None:
        return None
    tanh = logits * (temperature / soft_cap)
    return tanh.square_().neg_().add_(1.0).mul_(1.0 / temperature)
