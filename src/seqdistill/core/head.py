"""The output head as data: what turns a hidden state into logits, whatever the architecture.

Marian has a bias, T5 with tied embeddings a scale, Gemma a soft cap. Several teachers have their
heads side by side.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Head:
    """logits = cap(scale * hidden @ weight.T + bias), with cap(z) = c * tanh(z / c).

    `weight` and `bias` are the model's live parameters, so gradients reach them. `bias` and
    `soft_cap` are None where the architecture has none.
    """

    weight: Float[Tensor, "vocab dim"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    @property
    def vocab_size(self) -> int:
        """How many symbols the head scores."""
        return self.weight.shape[0]

    def cut(self, vocab_size: int) -> Head:
        """The same head over its first `vocab_size` symbols: drops a padded tail of the vocabulary.

        Raises ValueError when the head has fewer symbols than that.
        """
        if vocab_size > self.vocab_size:
            raise ValueError(
                f"cut needs at most the head's {self.vocab_size} symbols, got {vocab_size}"
            )
        if vocab_size == self.vocab_size:
            return self
        bias = None if self.bias is None else self.bias[:vocab_size]
        return dataclasses.replace(self, weight=self.weight[:vocab_size], bias=bias)

    def detached(self) -> Head:
        """The same values, which no gradient reaches."""
        bias = None if self.bias is None else self.bias.detach()
        return dataclasses.replace(self, weight=self.weight.detach(), bias=bias)

    def logits(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """The logits of every symbol, in the dtype of `hidden`: the plain form, built whole."""
        logits = hidden @ self.weight.to(hidden.dtype).T
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.bias is not None:
            logits = logits + self.bias.to(logits.dtype)
        if self.soft_cap is not None:
            logits = self.soft_cap * torch.tanh(logits / self.soft_cap)
        return logits


@dataclasses.dataclass(frozen=True)
class MixedHead:
    """Heads of several teachers over one vocabulary, which make one distribution of theirs.

    With `weights`, which sum to 1, hidden states are those of all members, side by side: log sum_i
    w_i p_i, or where `geometric` sum_i w_i log p_i, normalized. Without, every position is of one
    member: its hidden state, zeros up to the widest, and in the last column the member's place.

    Source: Hinton et al. 2015, sec. 2: "the arithmetic or geometric mean".
    """

    members: tuple[Head, ...]
    weights: tuple[float, ...] | None = None
    geometric: bool = False

    @property
    def vocab_size(self) -> int:
        """How many symbols all of them score."""
        return self.members[0].vocab_size

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each member's hidden states."""
        return tuple(member.weight.shape[1] for member in self.members)

    def cut(self, vocab_size: int) -> MixedHead:
        """As of a single head."""
        members = tuple(member.cut(vocab_size) for member in self.members)
        return dataclasses.replace(self, members=members)


TeacherHead = Head | MixedHead
