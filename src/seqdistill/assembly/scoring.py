"""From a recipe to its teacher while training: none, the live model, or its kept states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqdistill.assembly.preparing import Prepared, asks_teacher, check_vocabularies
from seqdistill.assembly.teacher_states import stored_teacher
from seqdistill.core.progress import Progress
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import adapt
from seqdistill.teachers.in_process import InProcessTeacher, NoTeacher, Teacher


def live_teacher(prepared: Prepared, device: torch.device) -> Teacher:
    """The recipe's teacher on `device`, run for every batch; or nobody, where nobody asks it."""
    if not asks_teacher(prepared.recipe) or prepared.teacher is None:
        return NoTeacher()
    size = check_vocabularies(prepared.student, prepared.teacher)
    return InProcessTeacher(adapt(prepared.teacher.model.to(device)), vocab_size=size)


def build_scoring(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    device: torch.device,
    progress: Progress,
) -> Teacher:
    """What scores the batches of these sequences: kept states, made now if need be, or a model."""
    recipe = prepared.recipe
    keep = recipe.teacher.cache_hidden_states
    if keep == "none" or not asks_teacher(recipe) or prepared.teacher is None:
        return live_teacher(prepared, device)
    return stored_teacher(
        recipe,
        prepared.teacher,
        prepared.student,
        examples,
        precision=keep,
        vocab_size=check_vocabularies(prepared.student, prepared.teacher),
        device=device,
        progress=progress,
    )
