"""TokenSum: the only average in the codebase.

Parts are added over micro-batches, accumulation steps and ranks, and divided once.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TokenSum:
    """`total` (a scalar tensor, nats unless said otherwise) over `count` items."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]

    @classmethod
    def zero(cls) -> TokenSum:
        """Nothing over nothing: the neutral element of addition."""
        return cls(torch.zeros(()), torch.zeros(()))

    def __add__(self, other: TokenSum) -> TokenSum:
        return TokenSum(self.total + other.total, self.count + other.count)

    def detached(self) -> TokenSum:
        """The same numbers in fp64 without the graph, where they are: to be added up and logged."""
        return TokenSum(self.total.detach().double(), self.count.detach().double())

    @property
    def mean(self) -> float:
        """total / count as a Python number; NaN when nothing was counted."""
        count = float(self.count)
        return float(self.total.detach()) / count if count else float("nan")
