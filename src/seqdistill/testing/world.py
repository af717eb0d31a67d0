"""A small padded batch under two random models, in fp64."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores

VOCAB, DIM, TEACHER_DIM = 19, 6, 9


@dataclasses.dataclass(frozen=True)
class World:
    """A batch and both models' states."""

    batch: SequenceBatch
    states: StudentStates
    scores: DenseScores

    def rows(self, rows: slice) -> World:
        """A micro-batch of it."""

        def cut(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: inner[rows] for name, inner in value.items()}
            return value[rows] if isinstance(value, (Tensor, tuple)) else value

        fields = {f.name: cut(getattr(self.batch, f.name)) for f in dataclasses.fields(self.batch)}
        return World(
            dataclasses.replace(self.batch, **fields),
            StudentStates(self.states.hidden[rows], self.states.head),
            DenseScores(self.scores.hidden[rows], self.scores.head),
        )

    def told(self, **fields: Any) -> World:
        """The same with other fields of the batch."""
        return dataclasses.replace(self, batch=dataclasses.replace(self.batch, **fields))

    def log_probs(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Student's and teacher's, (batch, time, vocab), built whole."""
        student = self.states.head.logits(self.states.hidden) / temperature
        teacher = self.scores.head.logits(self.scores.hidden) / temperature
        return student.log_softmax(-1), teacher.log_softmax(-1)

    def poisoned(self, where: Tensor) -> World:
        """The same with NaN in both models' states at these positions."""
        student, teacher = (
            of.hidden.masked_fill(where[..., None], torch.nan) for of in (self.states, self.scores)
        )
        return World(
            self.batch,
            StudentStates(student, self.states.head),
            DenseScores(teacher, self.scores.head),
        )


def world(lengths: tuple[int, ...] = (5, 2, 7, 1), *, seed: int = 5) -> World:
    """Sequences of these lengths; the student's hidden states, weight and bias want gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    size, time = len(lengths), max(lengths)
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    ids = torch.randint(VOCAB, (size, time), generator=generator)
    batch = SequenceBatch(tuple(map(str, range(size))), ids, mask, ids.roll(-1, 1), mask)
    head = Head(normal(VOCAB, DIM).requires_grad_(), normal(VOCAB).requires_grad_())
    states = StudentStates(normal(size, time, DIM).requires_grad_(), head)
    teacher = DenseScores(normal(size, time, TEACHER_DIM), Head(normal(VOCAB, TEACHER_DIM)))
    return World(batch, states, teacher)


def rollouts() -> World:
    """The same with all that a batch sampled in training may say: origins, log-probabilities of
    the sampled tokens, advantages."""
    here = world()
    own = here.log_probs()[0].detach().gather(-1, here.batch.target_ids[..., None])[..., 0]
    noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(9)).double() - 0.5
    return here.told(
        origins=("student", "teacher", "student", "reference"),
        sampled_log_probs=own + noise,
        advantages=torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64),
    )
