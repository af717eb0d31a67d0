"""Several teachers as one: mixed at every position, or each asked about rows of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.head import MixedHead
from seqdistill.core.origins import ROUTE
from seqdistill.core.scores import DenseScores, MixedScores, TeacherScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.lora import Adapter
from seqdistill.teachers.in_process import InProcessTeacher, Teacher


class AdapterTeacher(InProcessTeacher):
    """A model whose adapter is switched on while it is asked, in memory once for several."""

    def __init__(self, model: SequenceModel, adapter: Adapter, *, vocab_size: int) -> None:
        super().__init__(model, vocab_size=vocab_size)
        self._adapter = adapter

    def score(self, batch: SequenceBatch) -> DenseScores:
        """As of any teacher."""
        with self._adapter.on():
            return super().score(batch)


class MixtureOfTeachers(Teacher):
    """All teachers' distributions in one, as `MixedHead` mixes them; `weights` sum to 1."""

    def __init__(
        self, teachers: Sequence[InProcessTeacher], weights: Sequence[float], *, geometric: bool
    ) -> None:
        self._teachers, self._weights = tuple(teachers), tuple(weights)
        self._geometric = geometric

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The hidden states of all, side by side."""
        found = [teacher.score(batch) for teacher in self._teachers]
        heads = tuple(teacher.head for teacher in self._teachers)
        head = MixedHead(heads, self._weights, self._geometric)
        return MixedScores(torch.cat([each.hidden for each in found], dim=-1), head)


class RoutedTeachers(Teacher):
    """Each row of a batch is asked of the teacher that its extra `ROUTE` names, and of no other."""

    def __init__(self, teachers: Sequence[InProcessTeacher]) -> None:
        self._teachers = tuple(teachers)

    def score(self, batch: SequenceBatch) -> TeacherScores:
        """The hidden state of each row's own teacher, and the teacher's place behind it."""
        place = batch.extras[ROUTE].to(batch.target_ids.device)
        heads = MixedHead(tuple(teacher.head for teacher in self._teachers))
        parts: list[tuple[Tensor, Tensor]] = []
        for number, teacher in enumerate(self._teachers):
            rows = (place == number).nonzero().squeeze(-1)
            if len(rows):
                parts.append((rows, teacher.score(batch.rows(rows)).hidden))
        dtype = functools.reduce(torch.promote_types, (found.dtype for _, found in parts))
        shape = (*batch.target_mask.shape, max(heads.widths) + 1)
        hidden = torch.zeros(shape, dtype=dtype, device=place.device)
        for rows, found in parts:
            hidden[rows, :, : found.shape[-1]] = found.to(dtype)
        hidden[..., -1] = place[:, None]
        return MixedScores(hidden, heads)
