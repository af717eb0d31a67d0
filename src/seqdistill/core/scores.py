"""What a teacher says about a batch: a sum type, so that an objective can state what it needs."""

from __future__ import annotations

import dataclasses

from jaxtyping import Float
from torch import Tensor

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
class MixedScores:
    """The same of several teachers together, their states laid out as the `MixedHead` says."""

    hidden: Float[Tensor, "batch time teacher_dims"]
    head: MixedHead
    features: Features = dataclasses.field(default_factory=dict)
    """None: layers are compared with those of one teacher."""


TeacherScores = NoScores | DenseScores | MixedScores
