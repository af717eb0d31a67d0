"""Teachers that live in this process: a model beside the student, or none."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.scores import DenseScores, NoScores, TeacherScores
from seqdistill.models.adapters import SequenceModel


@runtime_checkable
class Teacher(Protocol):
    """Scores a batch of sequences, whoever wrote them."""

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """What the teacher says at every target position of the batch."""


class NoTeacher:
    """Says nothing: for training on hard targets alone."""

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """No scores."""
        return NoScores()


class InProcessTeacher:
    """A frozen model in eval mode that gives its whole distribution as hidden states and head.

    `vocab_size` cuts a padded tail off its head, as `models.vocabulary` finds it.
    """

    def __init__(self, model: SequenceModel, *, vocab_size: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self._vocab_size = vocab_size

    @torch.no_grad()
    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The teacher's last hidden states at every position, without a graph."""
        states = self.model.states(batch)
        return DenseScores(states.hidden, states.head.cut(self._vocab_size))
