"""What tests of the objective share: a padded batch under two random models, and a naive loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.head import Head
from seqdistill.core.scores import DenseScores
from seqdistill.objectives.objective import Term, WeightedObjective
from seqdistill.objectives.reduction import Reduction
from seqdistill.objectives.registry import DIVERGENCES

VOCAB, DIM, TEACHER_DIM = 19, 6, 9


@dataclasses.dataclass(frozen=True)
class World:
    """A padded batch and two random models' states."""

    batch: SequenceBatch
    states: StudentStates
    scores: DenseScores

    def rows(self, rows: slice) -> World:
        """A micro-batch of it."""
        whole = self.batch
        batch = dataclasses.replace(
            whole,
            example_ids=whole.example_ids[rows],
            decoder_input_ids=whole.decoder_input_ids[rows],
            decoder_mask=whole.decoder_mask[rows],
            target_ids=whole.target_ids[rows],
            target_mask=whole.target_mask[rows],
            origins=None if whole.origins is None else whole.origins[rows],
            sampled_log_probs=_cut(whole.sampled_log_probs, rows),
            advantages=_cut(whole.advantages, rows),
        )
        states = dataclasses.replace(self.states, hidden=self.states.hidden[rows])
        scores = dataclasses.replace(self.scores, hidden=self.scores.hidden[rows])
        return World(batch, states, scores)

    def told(self, **fields: Any) -> World:
        """The same with more said about the batch."""
        return dataclasses.replace(self, batch=dataclasses.replace(self.batch, **fields))


def world(lengths: tuple[int, ...] = (5, 2, 7, 1)) -> World:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    size, time = len(lengths), max(lengths)
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    ids = torch.randint(VOCAB, (size, time), generator=generator)
    batch = SequenceBatch(tuple(map(str, range(size))), ids, mask, ids.roll(-1, 1), mask)
    head = Head(normal(VOCAB, DIM).requires_grad_(), normal(VOCAB).requires_grad_())
    states = StudentStates(normal(size, time, DIM).requires_grad_(), head)
    return World(
        batch,
        states,
        DenseScores(normal(size, time, TEACHER_DIM), Head(normal(VOCAB, TEACHER_DIM))),
    )


def _cut(tensor: Tensor | None, rows: slice) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def naive(term: Term, here: World, reduction: Reduction, temperature: float) -> float:
    """The term's mean, one position after another, with the plain functions."""
    told = dataclasses.asdict(term) | {"share": term.start_fraction}
    temperature = 1.0 if DIVERGENCES[term.divergence].one_right_symbol else temperature
    parameters = {
        key: told[key]
        for key in (
            *DIVERGENCES[term.divergence].required_parameters,
            *DIVERGENCES[term.divergence].optional_parameters,
        )
    }
    per_sequence: list[list[float]] = []
    for row in range(here.batch.num_sequences):
        values = []
        for time in range(here.batch.target_ids.shape[1]):
            if not here.batch.target_mask[row, time]:
                continue
            student = here.states.head.logits(here.states.hidden[row, time]).detach()
            if term.is_hard:
                other = here.batch.target_ids[row, time]
            else:
                student = student / temperature
                teacher = here.scores.head.logits(here.scores.hidden[row, time])
                other = (teacher / temperature).log_softmax(-1)
            function = DIVERGENCES[term.divergence].function
            values.append(float(function(student.log_softmax(-1), other, **parameters)))
        if values:
            per_sequence.append(values)
    total = sum(map(sum, per_sequence))
    if reduction == "token":
        return total / sum(map(len, per_sequence))
    if reduction == "sum":
        return total / len(per_sequence)
    return sum(sum(values) / len(values) for values in per_sequence) / len(per_sequence)


def mean(objective: WeightedObjective, here: World) -> float:
    total, _ = objective(here.states, here.scores, here.batch)
    return total.detached().mean
