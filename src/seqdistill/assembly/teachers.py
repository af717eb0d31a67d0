"""From a recipe to its teacher while training: none, the live model, or its kept states."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.models import teacher_placement, teaches_without_adapters
from seqdistill.assembly.preparing import Prepared, check_vocabularies
from seqdistill.core.progress import Progress
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, decoder_prefix_ids, decoder_start_id, head_of
from seqdistill.models.identity import pair_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.teachers.in_process import (
    AveragedTeacher,
    InProcessTeacher,
    LiveTeacher,
    NoTeacher,
    Teacher,
)
from seqdistill.teachers.kept_states import (
    DTYPES,
    KeptStatesTeacher,
    Precision,
    StatesSettings,
    is_finished,
    make_states,
)
from seqdistill.teachers.several import AdapterTeacher, MixtureOfTeachers, RoutedTeachers


def live_teacher(prepared: Prepared, device: torch.device) -> Teacher:
    """The recipe's teacher on `device`, run for every batch; none where nothing asks it.

    The student itself, where that is its teacher, has to be there already.
    """
    if not prepared.asks_teacher or prepared.teacher is None:
        return NoTeacher()
    size = check_vocabularies(prepared.student, *prepared.teachers)
    section, student = prepared.recipe.teacher, prepared.adapted
    layers = prepared.objective.teacher_layers
    if section.is_student and section.average_decay == 0.0:
        return LiveTeacher(student, vocab_size=size, layers=layers)
    if teaches_without_adapters(prepared.recipe) and prepared.lora is not None:
        return LiveTeacher(student, vocab_size=size, layers=layers, first=prepared.lora.off)
    if section.members:
        return _several(prepared, device, size)
    model = SequenceModel(prepared.teacher.model.to(device))
    decay = section.average_decay
    if section.is_student and decay < 1.0:
        return AveragedTeacher(model, student, decay=decay, vocab_size=size, layers=layers)
    return InProcessTeacher(model, vocab_size=size, layers=layers)


def _several(prepared: Prepared, device: torch.device, vocab_size: int) -> Teacher:
    """All teachers as one; a model that several share is there once."""
    section, models = prepared.recipe.teacher, dict[int, SequenceModel]()
    teachers: list[InProcessTeacher] = []
    for pair in prepared.teachers:
        if id(pair.model) not in models:
            models[id(pair.model)] = SequenceModel(pair.model.to(device))
        model = models[id(pair.model)]
        if pair.adapter is None:
            teachers.append(InProcessTeacher(model, vocab_size=vocab_size))
        else:
            teachers.append(AdapterTeacher(model, pair.adapter, vocab_size=vocab_size))
    if section.route_by is not None:
        return RoutedTeachers(teachers)
    geometric = section.mixture == "log_probabilities"
    return MixtureOfTeachers(teachers, section.weights, geometric=geometric)


def teacher_facts(recipe: Recipe) -> dict[str, str]:
    """What a teacher has that is not its own, or reads that the student does not, for people."""
    section, found = recipe.teacher, dict[str, str]()
    if section.is_student:
        decay = section.average_decay
        kept = {1.0: "the student's first", 0.0: "the student's present"}
        found["weights"] = kept.get(decay, f"average of the student's, decay {decay:g}")
    if section.route_by is not None:
        found["by row"] = f"the column {section.route_by} says which of {len(section.members)}"
    elif section.members and section.scores != "none":
        parts = zip(section.members, section.weights, strict=True)
        listed = ", ".join(f"{weight:.3g} {member.model}" for member, weight in parts)
        found["mixture"] = f"of {section.mixture.replace('_', '-')}: {listed}"
    if section.prompt_column is not None:
        found["reads"] = f"the column {section.prompt_column} in the place of the student's prompt"
    return found


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
    head = head_of(teacher.model).cut(vocab_size).detached()
    bias = None if head.bias is None else head.bias.to(device)
    placed = dataclasses.replace(head, weight=head.weight.to(device), bias=bias)
    return KeptStatesTeacher(folder, examples, placed, settings=settings)


def states_bytes(
    teacher: LoadedModel, examples: Sequence[EncodedExample], precision: Precision
) -> int:
    """What the states for these sequences take on disk."""
    width = teacher.model.get_output_embeddings().weight.shape[1]
    num_positions = int(EncodedDataset.of(examples).lengths.counted.sum())
    return num_positions * int(width) * DTYPES[precision].itemsize
