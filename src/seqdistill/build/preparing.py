"""All that a training needs, read and checked before anything is written. Trains nothing."""

from __future__ import annotations

import dataclasses

from seqdistill.build.data import encode_for_evaluation, encode_for_training, read_split
from seqdistill.build.feasibility import check_models_fit
from seqdistill.build.models import build_student, build_teacher
from seqdistill.build.objective import build_objective
from seqdistill.build.pruning import build_mask
from seqdistill.compression.pruning_mask import PruningMask
from seqdistill.core.errors import RecipeError, UserError
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.models.adapters import SequenceModel, adapt
from seqdistill.models.loading import LoadedModel
from seqdistill.models.lora import LoraAdapter
from seqdistill.models.vocabulary import shared_vocab_size
from seqdistill.recipe.schema import Recipe


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that a training needs, read and checked; nothing is written yet."""

    recipe: Recipe
    teacher: LoadedModel | None
    student: LoadedModel
    adapted: SequenceModel
    lora: LoraAdapter | None
    """The student's adapters, where only they are trained."""
    mask: PruningMask
    """Which of the student's weights are zero, and are to stay so."""
    train_examples: tuple[Example, ...]
    train: tuple[EncodedExample, ...]
    num_too_long: int
    dev: tuple[EncodedExample, ...]
    dev_references: tuple[str, ...]


def prepare(recipe: Recipe) -> Prepared:
    """Reads data and models, checks that they fit, and prunes the student where the recipe says so.

    Raises UserError for whatever does not fit.
    """
    needs_teacher = asks_teacher(recipe)
    sequences = recipe.sequences
    need_target = "reference" in sequences.writers or sequences.written_by == "interpolation"
    train_examples = read_split(recipe, "train", need_target=need_target)
    dev_examples = read_split(recipe, "dev") if recipe.data.dev is not None else []
    if recipe.data.test is not None:
        read_split(recipe, "test")  # used after training: a mistake in it is told before
    teacher = build_teacher(recipe) if recipe.teacher.model is not None else None
    student = build_student(recipe, teacher, train_examples)
    if recipe.evaluation.calculator and student.kind != "causal":
        raise RecipeError(
            "evaluation.calculator must be left out unless the student is decoder-only, got an "
            "encoder-decoder; remove it"
        )
    if needs_teacher or sequences.rollouts.teacher_share > 0.0:
        check_vocabularies(student, teacher)
    encoded = encode_for_training(train_examples, student.tokenizer, student.kind, recipe.data)
    dev = encode_for_evaluation(dev_examples, student.tokenizer, student.kind, recipe.data)
    check_models_fit(
        recipe,
        teacher=teacher,
        student=student,
        train=encoded.examples,
        asks_teacher=needs_teacher,
    )
    lora = _lora(recipe, student)
    return Prepared(
        recipe,
        teacher,
        student,
        adapt(student.model),
        lora,
        build_mask(recipe, student.model),
        tuple(train_examples),
        encoded.examples,
        encoded.num_too_long,
        dev.examples,
        tuple(example.target or "" for example in dev_examples),
    )


def _lora(recipe: Recipe, student: LoadedModel) -> LoraAdapter | None:
    section = recipe.student.lora
    if section.rank is None:
        return None
    return LoraAdapter(
        student.model,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        targets=section.targets,
        seed=recipe.seed,
    )


def asks_teacher(recipe: Recipe) -> bool:
    """Whether training asks the teacher what it would say: for a term, or to be looked at."""
    return recipe.teacher.scores != "none" or build_objective(recipe).needs_teacher


def check_vocabularies(student: LoadedModel, teacher: LoadedModel | None) -> int:
    """How many symbols both models know. Raises UserError for models that do not compare."""
    if teacher is None:
        raise RecipeError(
            "teacher.model must name a model folder for an objective that compares with a teacher."
        )
    if teacher.kind != student.kind:
        raise UserError(
            f"Teacher and student must be of one kind to be compared token by token, but the "
            f"teacher is {teacher.kind} and the student {student.kind}; use method seq_kd."
        )
    return shared_vocab_size(
        student.tokenizer,
        teacher.tokenizer,
        student_rows=student.model.get_output_embeddings().weight.shape[0],
        teacher_rows=teacher.model.get_output_embeddings().weight.shape[0],
    )
