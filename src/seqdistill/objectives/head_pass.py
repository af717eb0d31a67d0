"""A head applied to a few rows at a time: logits into a buffer, and their gradient back out.

Buffers are allocated once a call and reused for every chunk. It does not know which loss is taken
of the logits; the loss overwrites the logits with its own gradient, and `RowGradients` turns that
into the gradients of hidden states, weight and bias.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from seqdistill.core.head import Head


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 stays fp64; everything else is computed in fp32 after the matrix product."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class LogitsPass:
    """Logits divided by a temperature, rows by rows: cap(scale * h W^T + b) / T.

    The matrix product runs in the dtype of the hidden states (weights are cast to it once), all
    that follows in fp32 (fp64 for fp64).
    """

    def __init__(self, hidden: Tensor, head: Head, *, temperature: float, chunk: int) -> None:
        exact = arithmetic_dtype(hidden.dtype)
        self.hidden = hidden
        self.head = head
        self.temperature = temperature
        self.weight = head.weight.detach().to(hidden.dtype)
        self._bias = None if head.bias is None else head.bias.detach().to(exact)
        shape = (min(chunk, hidden.shape[0]), head.vocab_size)
        self._logits = hidden.new_empty(shape, dtype=exact)
        self._product = self._logits if hidden.dtype == exact else hidden.new_empty(shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """The logits of rows `start` to `stop`, in a buffer that the next call overwrites."""
        hidden = self.hidden[start:stop]
        logits = self._logits[: stop - start]
        product = self._product[: stop - start]
        torch.mm(hidden, self.weight.T, out=product)
        if product is not logits and product.dtype != logits.dtype:
            logits.copy_(product)
        before_cap = self.head.scale / (1.0 if self.head.soft_cap else self.temperature)
        if before_cap != 1.0:
            logits.mul_(before_cap)
        if self._bias is not None:
            logits.add_(self._bias, alpha=1.0 if self.head.soft_cap else 1.0 / self.temperature)
        if self.head.soft_cap is not None:
            logits.div_(self.head.soft_cap).tanh_().mul_(self.head.soft_cap / self.temperature)
        return logits


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


class RowGradients:
    """Collects the gradients of hidden states, weight and bias, chunk by chunk.

    The weight's gradient is summed in fp32 (fp64 for fp64) whatever the dtype of the product.
    """

    def __init__(self, logits_pass: LogitsPass, needs: Needs) -> None:
        self._pass = logits_pass
        self._needs = needs
        hidden, weight = logits_pass.hidden, logits_pass.weight
        exact = arithmetic_dtype(hidden.dtype)
        self.hidden = torch.zeros_like(hidden) if needs.hidden else None
        self.weight = torch.zeros_like(weight, dtype=exact) if needs.weight else None
        self.bias = weight.new_zeros(weight.shape[0], dtype=exact) if needs.bias else None

    def slope(self, logits: Tensor) -> Tensor | None:
        """d logits / d (uncapped logits) times T, needed before the loss overwrites the logits.

        None without a soft cap, where it is 1.
        """
        cap = self._pass.head.soft_cap
        if cap is None:
            return None
        return (logits * (self._pass.temperature / cap)).square_().neg_().add_(1.0)

    def add(self, start: int, stop: int, gradient: Tensor, slope: Tensor | None) -> None:
        """Adds what the gradient with respect to the logits of these rows contributes."""
        if slope is not None:
            gradient.mul_(slope)
        per_product = self._pass.head.scale / self._pass.temperature
        hidden, weight = self._pass.hidden, self._pass.weight
        if self.bias is not None:
            self.bias.add_(gradient.sum(dim=0), alpha=1.0 / self._pass.temperature)
        product = gradient.to(hidden.dtype)
        if self.hidden is not None:
            torch.mm(product, weight, out=self.hidden[start:stop])
            if per_product != 1.0:
                self.hidden[start:stop].mul_(per_product)
        if self.weight is None:
            return
        if self.weight.dtype == product.dtype:
            self.weight.addmm_(product.T, hidden[start:stop], alpha=per_product)
        else:
            self.weight.add_(product.T @ hidden[start:stop], alpha=per_product)
