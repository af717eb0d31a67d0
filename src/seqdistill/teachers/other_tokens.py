"""A teacher whose tokens are not the student's: it scores its own tokens of the same texts."""

from __future__ import annotations

import torch

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.scores import ChunkScores
from seqdistill.data.rereading import Rereader
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers.in_process import Teacher


class OtherTokensTeacher(Teacher):
    """A frozen model in eval mode that reads what its tokenizer makes of the student's texts."""

    def __init__(self, model: SequenceModel, rereader: Rereader) -> None:
        self._model = model.eval().requires_grad_(False)
        self._rereader = rereader

    @torch.no_grad()
    def score(self, batch: SequenceBatch) -> ChunkScores:
        """Its last hidden states where its tokens are in chunks, without a graph."""
        device = batch.target_ids.device
        reread = self._rereader(batch)
        chunk_of = reread.chunk_of.to(device)
        teacher_chunk_of = reread.teacher_chunk_of.to(device)
        if reread.batch is None:
            head = self._model.head.detached()
            nothing = head.weight.new_zeros(0, head.weight.shape[1])
            return ChunkScores(nothing, head, teacher_chunk_of, teacher_chunk_of, chunk_of)
        read = reread.batch.to(device)
        states = self._model.states(read)
        kept = teacher_chunk_of >= 0
        return ChunkScores(
            states.hidden[read.target_mask][kept],
            states.head.detached(),
            read.target_ids[read.target_mask][kept],
            teacher_chunk_of[kept],
            chunk_of,
        )
