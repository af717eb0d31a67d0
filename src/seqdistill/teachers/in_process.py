"""Teachers that live in this process: a model beside the student, the student itself, or none."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.features import NO_LAYERS, Wanted
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores, NoScores, TeacherScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.dropout import evaluation_mode


class Teacher(abc.ABC):
    """Scores a batch of sequences, whoever wrote them."""

    @abc.abstractmethod
    def score(self, batch: SequenceBatch) -> TeacherScores:
        """What the teacher says at every target position of the batch, after its own prompt."""

    def student_updated(self, update: int) -> None:  # noqa: B027 - most have nothing to do
        """The student has the weights of so many updates; only what they decide changes."""

    def state_dict(self) -> dict[str, Tensor]:
        """What has changed since the teacher was built."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - likewise
        """Go to where `state_dict` was taken."""

    def ahead(self, batch: SequenceBatch) -> None:  # noqa: B027 - likewise
        """This batch will have to be scored, after others: called by any thread."""

    def close(self) -> None:  # noqa: B027 - likewise
        """Nothing will be asked any more."""


class NoTeacher(Teacher):
    """Says nothing: for training on hard targets alone."""

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """No scores."""
        return NoScores()


class InProcessTeacher(Teacher):
    """A frozen model in eval mode that gives its whole distribution as hidden states and head.

    `vocab_size` cuts a padded tail off its head, as `models.vocabulary` finds it. Of `layers` it
    gives the features, too.
    """

    def __init__(
        self, model: SequenceModel, *, vocab_size: int, layers: Wanted = NO_LAYERS
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self._vocab_size, self._layers = vocab_size, layers

    @property
    def head(self) -> Head:
        """What its scores come with."""
        return self.model.head.cut(self._vocab_size).detached()

    @torch.no_grad()
    def score(self, batch: SequenceBatch) -> DenseScores:
        """The teacher's last hidden states at every position, without a graph."""
        return _scores(self.model, batch, self._vocab_size, self._layers)


class LiveTeacher(Teacher):
    """The student itself with the weights that it has now, its dropout off; no gradient.

    With those that it began with where `first` switches off the adapters that alone are trained.
    """

    def __init__(
        self,
        student: SequenceModel,
        *,
        vocab_size: int,
        layers: Wanted = NO_LAYERS,
        first: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._student, self._first = student, first
        self._vocab_size, self._layers = vocab_size, layers

    @torch.no_grad()
    def score(self, batch: SequenceBatch) -> TeacherScores:
        """As of any teacher; it holds until the next update."""
        with evaluation_mode(self._student), self._first():
            return _scores(self._student, batch, self._vocab_size, self._layers)


class AveragedTeacher(InProcessTeacher):
    """An exponential average of the student's weights, from those that it starts with.

    After every update each weight t becomes decay * t + (1 - decay) * s, s being the student's.
    `model` starts as a copy of `student`, and has its dtype and device.
    """

    def __init__(
        self,
        model: SequenceModel,
        student: SequenceModel,
        *,
        decay: float,
        vocab_size: int,
        layers: Wanted = NO_LAYERS,
    ) -> None:
        super().__init__(model, vocab_size=vocab_size, layers=layers)
        self._student, self._decay = student, decay

    @torch.no_grad()
    def student_updated(self, update: int) -> None:
        """One step of the average."""
        own, students = tuple(self.model.parameters()), tuple(self._student.parameters())
        torch._foreach_lerp_(own, students, 1.0 - self._decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, shared ones once."""
        return dict(self.model.named_parameters())

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, weight in self.model.named_parameters():
            weight.copy_(state[name])


def _scores(
    model: SequenceModel, batch: SequenceBatch, vocab_size: int, layers: Wanted
) -> DenseScores:
    states = model.states(batch.for_teacher, layers)
    head = states.head.cut(vocab_size).detached()
    return DenseScores(batch.aligned(states.hidden), head, states.features)
