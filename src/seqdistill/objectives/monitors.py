"""What is measured only to be looked at: numbers without gradients that no loss depends on."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from seqdistill.core.batch import StudentStates
from seqdistill.core.scores import DenseScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.chunked_head import detached_head
from seqdistill.objectives.chunked_loss import Part
from seqdistill.objectives.fused import fused_sum, teacher_part
from seqdistill.objectives.reduction import reduction_count

Monitor = Literal["student_entropy", "teacher_reverse_kl"]


def student_entropy(states: StudentStates, target_mask: Bool[Tensor, "batch time"]) -> TokenSum:
    """The entropy H(Q) of the student (nats) at the positions that count, over their number.

    It falls toward 0 where a student loses its diversity.
    """
    return _measured(states, target_mask, Part(lambda _blocking, _dtype: _EntropyRows()))


def teacher_reverse_kl(
    states: StudentStates, scores: DenseScores, target_mask: Bool[Tensor, "batch time"]
) -> TokenSum:
    """KL(Q || P) (nats) at the positions that count, over their number.

    On rollouts of the student it estimates how far it is from its teacher on its own sequences,
    per token, whatever it is trained with.
    """
    teacher = teacher_part("reverse_kl", scores.hidden[target_mask], scores.head)
    return _measured(states, target_mask, teacher)


def _measured(states: StudentStates, target_mask: Tensor, part: Part) -> TokenSum:
    hidden = states.hidden[target_mask].detach()
    head = states.head.cut(part.vocab_size or states.head.vocab_size)
    found = fused_sum(hidden, detached_head(head), [part], weights=hidden.new_ones(hidden.shape[0]))
    return TokenSum(found.values.sum(), reduction_count(target_mask, "token"))


class _EntropyRows:
    """The entropy of the student. It is only ever looked at, so there is no gradient to leave."""

    def enter_chunk(self, start: int, stop: int) -> None:
        """Nothing is shared by a chunk."""

    def values_and_gradient(self, start: int, stop: int, logits: Tensor) -> Tensor:
        entropies: Tensor = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        return entropies
