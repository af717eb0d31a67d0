"""What a teacher says about a batch: a sum type, so that an objective can state what it needs."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.head import Head


@dataclasses.dataclass(frozen=True)
class NoScores:
    """The teacher says nothing: hard-label training."""


@dataclasses.dataclass(frozen=True)
class DenseScores:
    """Everything: the teacher's last hidden states and its head (logits are rebuilt in chunks)."""

    hidden: Float[Tensor, "batch time teacher_dim"]
    head: Head


@dataclasses.dataclass(frozen=True)
class TopKScores:
    """The teacher's k likeliest symbols at each position, and the mass of all the others.

    `log_probs` are normalized over the whole vocabulary; exp(log_probs).sum() +
    exp(tail_log_mass) = 1.
    """

    top_k_ids: Int[Tensor, "batch time top_k"]
    log_probs: Float[Tensor, "batch time top_k"]
    tail_log_mass: Float[Tensor, "batch time"]


TeacherScores = NoScores | DenseScores | TopKScores
