"""What the training step calls: a weighted sum of divergences over the positions that count.

It joins hidden states, teacher scores and a batch through the fused forms and one named reduction.
It does not know models, sources or schedules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.divergences import Scale
from seqdistill.objectives.fused import (
    FusedLoss,
    fused_divergence,
    fused_negative_log_likelihood,
)
from seqdistill.objectives.reduction import Reduction, reduction_count, reduction_weights

_HARD = "negative_log_likelihood"


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted divergence. `beta` belongs to jensen_shannon, `alpha` to the skew ones.

    jensen_shannon with beta 0 means forward_kl and with beta 1 reverse_kl, as in GKD.
    """

    divergence: str
    weight: float = 1.0
    beta: float | None = None
    alpha: float | None = None
    scale: Scale = "raw"

    @property
    def is_hard(self) -> bool:
        """Whether the term compares with target ids and not with a teacher."""
        return self.divergence == _HARD

    def resolved(self) -> Term:
        """The term with the ends of jensen_shannon under their own names."""
        if self.divergence != "jensen_shannon" or self.beta not in (0.0, 1.0):
            return self
        name = "forward_kl" if self.beta == 0.0 else "reverse_kl"
        return dataclasses.replace(self, divergence=name, beta=None, scale="raw")


class WeightedObjective:
    """sum over terms of weight * divergence, reduced once by name.

    `loss_temperature` T divides both models' logits in soft terms; hard terms keep T = 1. Where hard
    and soft terms mix at T != 1, soft terms are multiplied by T squared, which keeps the balance of
    their gradients. Raises ValueError for no terms or a temperature that is not positive.

    Source: Hinton et al. 2015, sec. 2.1 (T squared).
    """

    def __init__(
        self, terms: Sequence[Term], *, reduction: Reduction, loss_temperature: float = 1.0
    ) -> None:
        if not terms:
            raise ValueError("an objective needs at least one term, got none")
        if not loss_temperature > 0.0:
            raise ValueError(f"loss_temperature must be positive, got {loss_temperature}")
        self._terms = tuple(term.resolved() for term in terms)
        self._reduction: Reduction = reduction
        self._temperature = loss_temperature
        mixed = len({term.is_hard for term in self._terms}) == 2
        self._soft_factor = loss_temperature**2 if mixed else 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher's distribution."""
        return not all(term.is_hard for term in self._terms)

    def __call__(
        self, states: StudentStates, scores: TeacherScores, batch: SequenceBatch
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The weighted total, differentiable, and each term's own total without weight or graph.

        Terms of one name are numbered from the second on. Raises RecipeError when a soft term
        meets a teacher that does not give its whole distribution.
        """
        mask = batch.target_mask
        weights = reduction_weights(mask, self._reduction)[mask]
        count = reduction_count(mask, self._reduction)
        hidden = states.hidden[mask]  # (batch, time, dim) -> (positions, dim)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        parts: dict[str, TokenSum] = {}
        for term in self._terms:
            loss = self._loss(term, hidden, states, scores, batch, weights)
            factor = term.weight * (1.0 if term.is_hard else self._soft_factor)
            total = total + factor * loss.total
            parts[_free_name(term.divergence, parts)] = TokenSum(loss.total.detach(), count)
        return TokenSum(total, count), parts

    def _loss(
        self,
        term: Term,
        hidden: Tensor,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        weights: Tensor,
    ) -> FusedLoss:
        mask = batch.target_mask
        if term.is_hard:
            targets = batch.target_ids[mask]
            return fused_negative_log_likelihood(hidden, states.head, targets, weights=weights)
        if not isinstance(scores, DenseScores):
            raise RecipeError(
                f"{term.divergence} needs the teacher's whole distribution, but the teacher gives "
                f"{type(scores).__name__}; set teacher.scores: dense."
            )
        return fused_divergence(
            term.divergence,
            hidden,
            states.head.cut(scores.head.vocab_size),
            scores.hidden[mask],
            scores.head,
            weights=weights,
            beta=term.beta,
            alpha=term.alpha,
            scale=term.scale,
            temperature=self._temperature,
        )


def _free_name(name: str, taken: dict[str, TokenSum]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
