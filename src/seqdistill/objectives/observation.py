"""One micro-batch as terms look at it: whom they count, and what both models say of its tokens.

What several terms read is computed once. Nothing here has a gradient, and no loss is known.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.head import Head
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.scores import DenseScores, TeacherScores
from seqdistill.objectives.policy_gradient import target_log_probs
from seqdistill.objectives.term import Term


class Observation:
    """A batch with what the student and the teacher say about it."""

    def __init__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates,
    ) -> None:
        """`eval_states` are the student's states as it writes, with its dropout off."""
        self.states = states
        self.scores = scores
        self.batch = batch
        self.eval_states = eval_states
        self._student_log_probs: Tensor | None = None
        self._teacher_log_probs: Tensor | None = None

    def counted(self, term: Term) -> Bool[Tensor, "batch time"]:
        """The positions that count, of the sequences that the term counts.

        Raises RecipeError when the term asks who wrote them and nobody says so.
        """
        mask = self.batch.target_mask
        if term.origin is None:
            return mask
        if self.batch.origins is None:
            raise RecipeError(
                f"{term.divergence} counts only sequences written by {', '.join(term.origin)}, "
                "so the source must say who wrote each, got a batch that does not; remove "
                "origin, or choose sequences that the student or the teacher writes in training"
            )
        rows = [writer in term.origin for writer in self.batch.origins]
        return mask & torch.tensor(rows, device=mask.device).unsqueeze(1)

    @property
    def students_own(self) -> Bool[Tensor, "batch time"]:
        """The positions that count of the sequences that the student had a hand in.

        Those of `teacher_mixed` too: it drew most of their tokens. All where nobody says who wrote
        them.
        """
        mask, writers = self.batch.target_mask, self.batch.origins
        if writers is None:
            return mask
        rows = [writer in STUDENT_ORIGINS for writer in writers]
        return mask & torch.tensor(rows, device=mask.device).unsqueeze(1)

    @property
    def advantages(self) -> Float[Tensor, " batch"]:
        """Each sequence's advantage. Raises RecipeError when the batch has none."""
        if self.batch.advantages is None:
            raise RecipeError(
                "reward needs the advantage of every sequence, got a batch without advantages: no "
                "reward was computed for it; set the recipe's reward, or remove the reward term"
            )
        return self.batch.advantages

    def student_log_probs(self, asked_by: str) -> Float[Tensor, "batch time"]:
        """log q of the targets among the symbols that the teacher scores; 0 where none counts.

        Of the student as it writes.
        """
        if self._student_log_probs is None:
            vocab_size = dense(self.scores, asked_by).head.vocab_size
            head = self.eval_states.head.cut(vocab_size)
            self._student_log_probs = self._of_targets(self.eval_states.hidden, head, asked_by)
        return self._student_log_probs

    def teacher_log_probs(self, asked_by: str) -> Float[Tensor, "batch time"]:
        """log p of the targets; 0 where none counts."""
        if self._teacher_log_probs is None:
            teacher = dense(self.scores, asked_by)
            self._teacher_log_probs = self._of_targets(teacher.hidden, teacher.head, asked_by)
        return self._teacher_log_probs

    def _of_targets(self, hidden: Tensor, head: Head, asked_by: str) -> Tensor:
        mask = self.batch.target_mask
        targets = self.batch.target_ids[mask]
        if targets.numel() and int(targets.max()) >= head.vocab_size:
            raise RecipeError(
                f"{asked_by} needs targets that the teacher scores, ids below {head.vocab_size}, "
                f"got {int(targets.max())}; sample from the teacher's vocabulary only"
            )
        values = target_log_probs(hidden[mask], head, targets)
        return values.new_zeros(mask.shape).masked_scatter(mask, values)


def dense(scores: TeacherScores, asked_by: str) -> DenseScores:
    """The scores as the whole distribution. Raises RecipeError when they are anything less."""
    if isinstance(scores, DenseScores):
        return scores
    raise RecipeError(
        f"{asked_by} needs the teacher's whole distribution at every position, got "
        f"{type(scores).__name__}; set teacher.scores to dense, or use negative_log_likelihood"
    )
