"""What the training step calls: a weighted sum of divergences over the positions that count.

It gathers those positions before any head is applied, so logits of padding and of prompts are
never computed. It does not know who wrote the sequences, nor what becomes of the totals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import RecipeError, did_you_mean
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.chunk_walk import Part
from seqdistill.objectives.divergences import Scale
from seqdistill.objectives.fused import fused_sum, target_part, teacher_part
from seqdistill.objectives.reduction import Reduction, reduction_count, reduction_weights
from seqdistill.objectives.registry import DIVERGENCES


@dataclasses.dataclass(frozen=True)
class Term:
    """One weighted part: a name of `DIVERGENCES` with its parameters.

    jensen_shannon takes any beta from 0 to 1: the ends mean forward_kl and reverse_kl.
    """

    divergence: str
    weight: float = 1.0
    beta: float | None = None
    alpha: float | None = None
    scale: Scale = "raw"

    @property
    def resolved(self) -> str:
        """The divergence that is computed: jensen_shannon's two ends are other functions."""
        if self.divergence == "jensen_shannon" and self.beta in (0.0, 1.0):
            return "reverse_kl" if self.beta else "forward_kl"
        return self.divergence

    @property
    def is_hard(self) -> bool:
        """Whether the term pulls toward target ids instead of a teacher's distribution."""
        return DIVERGENCES[self.divergence].needs == "target_ids"


class WeightedObjective:
    """sum_i weight_i * D_i, reduced by name, as a total and a count.

    `loss_temperature` T divides both models' logits in soft terms and never in the likelihood of
    hard targets. When soft and hard terms mix and T is not 1, soft terms are multiplied by T
    squared, which keeps the sizes of their gradients comparable (Hinton et al. 2015, sec. 2);
    without hard terms there is nothing to balance and they are left alone.

    Raises RecipeError for no terms, an unknown divergence, a parameter missing or out of range.
    """

    def __init__(
        self, terms: Sequence[Term], *, reduction: Reduction, loss_temperature: float = 1.0
    ) -> None:
        if not terms:
            raise RecipeError("objective.terms must name at least one divergence, got none")
        if not loss_temperature > 0.0:
            raise RecipeError(f"loss_temperature must be positive, got {loss_temperature}")
        for term in terms:
            _check(term)
        self._terms = tuple(terms)
        self._reduction = reduction
        self._temperature = loss_temperature
        mixed = any(term.is_hard for term in terms) and self.needs_teacher
        self._soft_factor = loss_temperature**2 if mixed else 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether some term needs the teacher's whole distribution."""
        return any(not term.is_hard for term in self._terms)

    def begin_update(self, update: int, updates: int, *, logged: bool) -> None:
        """Every update is like the others."""

    def end_update(self, parts: Mapping[str, TokenSum]) -> None:
        """Nothing is learned from an update."""

    def state_dict(self) -> dict[str, float]:
        """Empty: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """There is no state to go to."""

    def __call__(
        self, states: StudentStates, scores: TeacherScores, batch: SequenceBatch
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The weighted total, differentiable, and every term's own total, unweighted, for logs.

        All share one count; terms of one name are numbered from the second on. Soft terms compare
        the symbols that the teacher scores: rows that the student's head has beyond them are
        padding. Hard targets know the student's whole head. Terms of the same logits (one
        vocabulary, one temperature) share one pass over the head.

        Raises RecipeError when a soft term meets scores that are not dense.
        """
        mask = batch.target_mask
        count = reduction_count(mask, self._reduction)
        weights = reduction_weights(mask, self._reduction)[mask]
        hidden, targets = states.hidden[mask], batch.target_ids[mask]
        passes: dict[tuple[int, float], list[tuple[str, Part]]] = {}
        names = _numbered([term.divergence for term in self._terms])
        for name, term in zip(names, self._terms, strict=True):
            part = self._hard(term, targets) if term.is_hard else self._soft(term, scores, mask)
            vocab_size = part.vocab_size or states.head.vocab_size
            passes.setdefault((vocab_size, part.temperature), []).append((name, part))
        total: Tensor = torch.zeros((), device=hidden.device)
        totals: dict[str, Tensor] = {}
        for (vocab_size, temperature), named in passes.items():
            found = fused_sum(
                hidden,
                states.head.cut(vocab_size),
                [part for _, part in named],
                weights=weights,
                temperature=temperature,
            )
            total = total + found.total
            of_parts = found.values @ weights.to(found.values.dtype)
            totals |= dict(zip([name for name, _ in named], of_parts, strict=True))
        return TokenSum(total, count), {name: TokenSum(totals[name], count) for name in names}

    def _hard(self, term: Term, targets: Tensor) -> Part:
        return target_part(targets, factor=term.weight)

    def _soft(self, term: Term, scores: TeacherScores, mask: Tensor) -> Part:
        dense = _dense(scores, term)
        return teacher_part(
            term.resolved,
            dense.hidden[mask],
            dense.head,
            factor=term.weight * self._soft_factor,
            beta=term.beta,
            alpha=term.alpha,
            scale=term.scale,
            temperature=self._temperature,
        )


def _check(term: Term) -> None:
    if term.divergence not in DIVERGENCES:
        raise RecipeError(
            f"divergence must be one of {', '.join(DIVERGENCES)}; got {term.divergence!r}."
            + did_you_mean(term.divergence, DIVERGENCES)
        )
    for parameter in DIVERGENCES[term.divergence].required_parameters:
        value = term.beta if parameter == "beta" else term.alpha
        if value is None:
            raise RecipeError(f"{term.divergence} needs {parameter}, a number between 0 and 1")
        ends_allowed = parameter == "beta"
        if not (0.0 < value < 1.0 or (ends_allowed and value in (0.0, 1.0))):
            raise RecipeError(
                f"{parameter} of {term.divergence} must lie between 0 and 1"
                f"{'' if ends_allowed else ', ends excluded'}, got {value}"
            )


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, those that come again numbered from the second on."""
    return [
        name if (before := list(names[:position]).count(name)) == 0 else f"{name}_{before + 1}"
        for position, name in enumerate(names)
    ]


def _dense(scores: TeacherScores, term: Term) -> DenseScores:
    if isinstance(scores, DenseScores):
        return scores
    raise RecipeError(
        f"{term.divergence} needs the teacher's whole distribution at every position, got "
        f"{type(scores).__name__}; set teacher.scores to dense, or use negative_log_likelihood"
    )
