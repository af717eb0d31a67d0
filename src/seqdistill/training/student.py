"""What DDP and FSDP2 wrap: the student together with its loss, so that both see every parameter.

Nothing outside its forward pass reads a parameter of the student, the head included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.scores import TeacherScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.dropout import evaluation_mode, has_dropout
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.training.sharding import layer_classes

Sums = dict[str, tuple[Tensor, Tensor]]
"""Total and count by name; plain tuples, in which the wrappers find the tensors."""


class StudentLoss(nn.Module):
    """(batch, teacher's scores) -> the loss and its parts as sums."""

    def __init__(self, model: SequenceModel, objective: WeightedObjective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._drops_out = has_dropout(model)
        self._no_split_modules = layer_classes(model)  # read by accelerate

    def forward(self, batch: SequenceBatch, scores: TeacherScores) -> tuple[Tensor, Tensor, Sums]:
        """The loss's total, which has a gradient, its count, and its parts without one."""
        eval_states = None
        if self._objective.needs_eval_states and self._drops_out:
            with torch.no_grad(), evaluation_mode(self.model):
                eval_states = self.model.states(batch)
        loss, parts = self._objective(self.model.states(batch), scores, batch, eval_states)
        sums = {name: part.detached() for name, part in parts.items()}
        return loss.total, loss.count, {n: (part.total, part.count) for n, part in sums.items()}
