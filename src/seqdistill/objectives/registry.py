"""Every divergence by name: its plain function, what it compares with, what it must be told.

The shared property suite and the objective read this; a divergence that is not here does not
exist for a recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from seqdistill.objectives import divergences


@dataclasses.dataclass(frozen=True)
class Divergence:
    """A plain function of student log-probabilities and what `needs` says, and its parameters."""

    function: Callable[..., Tensor]
    needs: Literal["teacher_log_probs", "target_ids"]
    required_parameters: tuple[Literal["beta", "alpha"], ...] = ()
    optional_parameters: tuple[Literal["scale"], ...] = ()


DIVERGENCES: dict[str, Divergence] = {
    "negative_log_likelihood": Divergence(divergences.negative_log_likelihood, "target_ids"),
    "cross_entropy": Divergence(divergences.cross_entropy, "teacher_log_probs"),
    "forward_kl": Divergence(divergences.forward_kl, "teacher_log_probs"),
    "reverse_kl": Divergence(divergences.reverse_kl, "teacher_log_probs"),
    "jensen_shannon": Divergence(
        divergences.jensen_shannon, "teacher_log_probs", ("beta",), ("scale",)
    ),
    "skew_forward_kl": Divergence(divergences.skew_forward_kl, "teacher_log_probs", ("alpha",)),
    "skew_reverse_kl": Divergence(divergences.skew_reverse_kl, "teacher_log_probs", ("alpha",)),
    "total_variation": Divergence(divergences.total_variation, "teacher_log_probs"),
}
