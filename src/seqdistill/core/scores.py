"""What a teacher says about a batch: a sum type, so that an objective can state what it needs."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqdistill.core.families import SparseForm
from seqdistill.core.features import Features
from seqdistill.core.head import Head, MixedHead


@dataclasses.dataclass(frozen=True)
class NoScores:
    """The teacher says nothing: hard-label training."""


@dataclasses.dataclass(frozen=True)
class DenseScores:
    """Everything: the teacher's last hidden states and its head (logits are rebuilt in chunks).

    `features` are of the layers that were asked for, over all their tokens.
    """

    hidden: Float[Tensor, "batch time teacher_dim"]
    head: Head
    features: Features = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SparseScores:
    """Some symbols of the teacher's distribution at every position, and the mass of all others.

    Probabilities of `log_probs` and `tail_log_mass` (nats) sum to 1, at the loss temperature; -inf
    fills positions that have fewer symbols, but for the first, and is the tail of those that have
    no other. `vocab_size` is how many symbols the teacher scores.
    """

    ids: Int[Tensor, "*positions top_k"]
    log_probs: Float[Tensor, "*positions top_k"]
    tail_log_mass: Float[Tensor, "*positions"]
    vocab_size: int
    form: SparseForm

    def at(self, mask: Bool[Tensor, "*positions"]) -> SparseScores:
        """Those of the positions where the mask is True, one after another."""
        own = (self.ids[mask], self.log_probs[mask], self.tail_log_mass[mask])
        return SparseScores(*own, self.vocab_size, self.form)


@dataclasses.dataclass(frozen=True)
class MixedScores:
    """The dense scores of several teachers together, their states laid out as `MixedHead` says."""

    hidden: Float[Tensor, "batch time teacher_dims"]
    head: MixedHead
    features: Features = dataclasses.field(default_factory=dict)
    """None: layers are compared with those of one teacher."""


@dataclasses.dataclass(frozen=True)
class ChunkScores:
    """Everything that a teacher with other tokens says about the same texts, at its own positions.

    A chunk is a stretch of text that both models' tokens cover exactly, the smallest there is; an
    end of sequence is one of its own. `chunk_of` is the number of the chunk that each of the
    student's positions is in, in order, and -1 where it is in none: nothing is compared there.
    `teacher_chunk_of` is the same of the teacher's positions, of which those without a chunk may be
    left out.
    """

    hidden: Float[Tensor, "teacher_positions teacher_dim"]
    head: Head
    target_ids: Int[Tensor, " teacher_positions"]
    teacher_chunk_of: Int[Tensor, " teacher_positions"]
    chunk_of: Int[Tensor, "batch time"]

    @property
    def starts(self) -> Bool[Tensor, "batch time"]:
        """The student's positions at which a chunk begins, one after another by their number."""
        return _begins(self.chunk_of, -1)

    @property
    def teacher_starts(self) -> Bool[Tensor, " teacher_positions"]:
        """The same of the teacher's positions."""
        return _begins(self.teacher_chunk_of, -1)


def _begins(chunk_of: Tensor, none: int) -> Tensor:
    """Where a chunk is another than the one before."""
    before = torch.nn.functional.pad(chunk_of[..., :-1], (1, 0), value=none)
    return (chunk_of != none) & (chunk_of != before)


TeacherScores = NoScores | DenseScores | SparseScores | MixedScores | ChunkScores
