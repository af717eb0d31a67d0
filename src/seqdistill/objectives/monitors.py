"""What is measured only to be looked at: numbers without gradients that no loss depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.scores import NoScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.observation import Observation
from seqdistill.objectives.reduction import reduction_count

Monitor = Literal["student_entropy", "teacher_reverse_kl"]


def measured(seen: Observation, monitors: Iterable[Monitor]) -> dict[str, TokenSum]:
    """Each monitor (nats) over the student's own sequences, and their number of positions.

    `student_entropy` H(Q) falls toward 0 where a student loses its diversity. `teacher_reverse_kl`
    KL(Q || P) estimates how far it is from its teacher, per token, whatever it is trained with; it
    is left out where no teacher was asked. Own are the sequences that the student sampled, those of
    a mixture with the teacher too; all where the batch does not say.
    """
    mask = seen.target_mask
    if seen.batch.origins is not None:
        mask = mask & seen.of_origins(STUDENT_ORIGINS)
    count = reduction_count(mask, "token")
    found: dict[str, TokenSum] = {}
    for name in monitors:
        if name == "student_entropy":
            found[name] = TokenSum(seen.student_entropy[mask].sum(), count)
        elif not isinstance(seen.scores, NoScores):
            seen.asked_by = name
            found[name] = TokenSum(seen.values("reverse_kl")[mask].sum(), count)
    return found
