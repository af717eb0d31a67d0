"""From a recipe to its teacher while training: none, the live model, or its kept states."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.models import teacher_placement
from seqdistill.assembly.preparing import Prepared, check_vocabularies
from seqdistill.core.progress import Progress
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, decoder_prefix_ids, decoder_start_id, head_of
from seqdistill.models.identity import pair_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.teachers.in_process import InProcessTeacher, NoTeacher, Teacher
from seqdistill.teachers.kept_states import (
    DTYPES,
    KeptStatesTeacher,
    Precision,
    StatesSettings,
    is_finished,
    make_states,
)


def live_teacher(prepared: Prepared, device: torch.device) -> Teacher:
    """The recipe's teacher on `device`, run for every batch; none where nothing asks it."""
    if not prepared.asks_teacher or prepared.teacher is None:
        return NoTeacher()
    size = check_vocabularies(prepared.student, prepared.teacher)
    return InProcessTeacher(SequenceModel(prepared.teacher.model.to(device)), vocab_size=size)


def build_teacher_scores(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    device: torch.device,
    progress: Progress,
) -> Teacher:
    """What scores the batches of these sequences: kept states, made now if need be, or a model."""
    recipe, teacher, student = prepared.recipe, prepared.teacher, prepared.student
    precision = recipe.teacher.cache_hidden_states
    if precision == "none" or not prepared.asks_teacher or teacher is None:
        return live_teacher(prepared, device)
    vocab_size = check_vocabularies(student, teacher)
    settings = StatesSettings(
        teacher_fingerprint=pair_fingerprint(teacher),
        tokenizer_fingerprint=tokenizer_fingerprint(teacher.tokenizer),
        data_fingerprint=EncodedDataset.of(examples).fingerprint,
        kind=teacher.kind,
        start_id=decoder_start_id(student.model) if student.kind == "seq2seq" else None,
        precision=precision,
        prefix_ids=decoder_prefix_ids(student.model),
        dtype=str(teacher.model.dtype),
    )
    digest = of_settings(dataclasses.asdict(settings))[:16]
    folder = Path(recipe.teacher.states or output_folder(recipe).parent / "teacher-states" / digest)
    if not is_finished(folder):
        make_states(
            SequenceModel(teacher.model),
            examples,
            collator_for(student),
            folder,
            settings=settings,
            batch_tokens=recipe.training.batch_tokens,
            device=teacher_placement(recipe).device,
            progress=progress,
        )
    # It was compared with the model's logits when the states of this very teacher were made.
    head = head_of(teacher.model).cut(vocab_size)
    bias = None if head.bias is None else head.bias.detach().to(device)
    frozen = dataclasses.replace(head, weight=head.weight.detach().to(device), bias=bias)
    return KeptStatesTeacher(folder, examples, frozen, settings=settings)


def states_bytes(
    teacher: LoadedModel, examples: Sequence[EncodedExample], precision: Precision
) -> int:
    """What the states for these sequences take on disk."""
    width = teacher.model.get_output_embeddings().weight.shape[1]
    num_positions = int(EncodedDataset.of(examples).lengths.counted.sum())
    return num_positions * int(width) * DTYPES[precision].itemsize
