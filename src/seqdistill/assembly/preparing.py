"""All that a training needs, read and checked before anything is written."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from seqdistill.assembly.comparing import shared_symbols
from seqdistill.assembly.data import (
    Split,
    chat_settings,
    encode_for,
    encode_for_evaluation,
    read_split,
    within_limits,
)
from seqdistill.assembly.feasibility import check_models_fit, learns_from_references
from seqdistill.assembly.features import build_features
from seqdistill.assembly.judging import (
    Judging,
    check_judging,
    judging_of,
    text_units,
    warn_of_cut_outputs,
)
from seqdistill.assembly.models import build_student, build_teachers, own_teacher
from seqdistill.assembly.rewards import RewardOfCompletion, tried_reward
from seqdistill.compression.pruning import PruningMask, prune
from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError
from seqdistill.core.terms import OF_STUDENT_ALONE, Monitor
from seqdistill.data.dataset import Encoded, EncodedDataset, cut_unread_targets
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.evaluation.calculator import check_calculator
from seqdistill.metrics.similarity import similarity_of
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel
from seqdistill.models.lora import LoraAdapter
from seqdistill.models.placement import Precision, device_of, multiplies_bf16, precision_of
from seqdistill.objectives.features import FeatureLoss
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sequences_schema import MeasuredSection
from seqdistill.teachers.kept_scores import is_finished

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that a training needs, read and checked; nothing is written yet."""

    recipe: Recipe
    teachers: tuple[LoadedModel, ...]
    """All that are asked while training; else the one that labels, or the first that does. None
    also where all that is asked of it is on disk."""
    student: LoadedModel
    adapted: SequenceModel
    lora: LoraAdapter | None
    """The student's adapters, where only they are trained."""
    mask: PruningMask
    """Which of the student's weights are zero, and are to stay so."""
    train_examples: ExampleTable
    train: EncodedDataset
    num_too_long: int
    dev: EncodedDataset
    dev_references: tuple[str, ...]
    judging: Judging
    """How outputs for dev and test are judged."""
    reward: RewardOfCompletion | None
    """Of what the student writes, where the objective has one; it was tried."""
    precision: Precision
    """What `training.precision` means on this device."""
    objective: WeightedObjective
    asks_teacher: bool
    """Whether training asks the teacher what it would say: for a term, or to be looked at."""
    shared_symbols: int | None = None
    """How many symbols both know where the teacher is asked, or samples with the student; None
    where it is not, and where it has other tokens and is asked about texts."""

    @property
    def crosses_tokenizers(self) -> bool:
        """Whether the teacher is asked in its own tokens, which are not the student's."""
        return self.asks_teacher and bool(self.teachers) and self.shared_symbols is None

    @property
    def teacher(self) -> LoadedModel | None:
        """The teacher, or the first of several."""
        return next(iter(self.teachers), None)


def build_objective(
    recipe: Recipe, features: Sequence[FeatureLoss] = (), *, crosses_tokenizers: bool = False
) -> WeightedObjective:
    """The weighted sum of the recipe's terms and of `features`."""
    section = recipe.objective
    watched = _watched(recipe)
    if crosses_tokenizers:  # the others compare token by token
        watched = tuple(name for name in watched if name == OF_STUDENT_ALONE)
    return WeightedObjective(
        section.built_terms(),
        reduction=section.reduction,
        loss_temperature=section.loss_temperature,
        monitors=tuple(dict.fromkeys((*section.monitors, *watched))),
        by_origin=isinstance(recipe.sequences.mixture.student_fraction, MeasuredSection),
        features=features,
    )


def _watched(recipe: Recipe) -> tuple[Monitor, ...]:
    """What collapse alarms look at of a student that samples, beside its outputs."""
    if not recipe.sequences.rolls_out or recipe.training.alarms.action == "none":
        return ()
    if recipe.teacher.scores != "dense":
        return (OF_STUDENT_ALONE,)
    return (
        OF_STUDENT_ALONE,
        "teacher_entropy",
        "student_topk_overlap",
        "teacher_topk_overlap",
    )


def teacher_is_asked(recipe: Recipe) -> bool:
    """Whether training asks the teacher about every token that the student learns."""
    return recipe.objective.asks_teacher or recipe.teacher.scores != "none"


def prepare(recipe: Recipe) -> Prepared:
    """Reads data and models, checks that they fit, and prunes the student where the recipe says so.

    Raises UserError for whatever does not fit.
    """
    sequences = recipe.sequences
    asks_teacher = teacher_is_asked(recipe)
    train_examples = _read_train(recipe)
    _check_columns(recipe, train_examples)
    dev_examples = _read_held_out(recipe, "dev")
    # Used after training: a mistake in it is told before.
    test_examples = _read_held_out(recipe, "test")
    asked = build_teachers(recipe, asked=asks_teacher) if _needs_teacher(recipe) else ()
    student = build_student(recipe, next(iter(asked), None), train_examples)
    mask = _mask(recipe, student)
    teachers = (own_teacher(recipe, student),) if recipe.teacher.is_student else asked
    if recipe.evaluation.calculator:
        check_calculator(student.kind)
    shared, crosses = None, False
    if teachers and (asks_teacher or sequences.rollouts.teacher_fraction > 0.0):
        shared = shared_symbols(recipe, student, teachers)
        crosses = shared is None
    if sequences.origin == "interpolation":
        similarity_of(sequences.similarity, text_units(recipe, train_examples))
    judging = _judging(recipe, train_examples, dev_examples, test_examples, student.kind)
    encoded = _encode_train(recipe, student, train_examples)
    dev = encode_for_evaluation(dev_examples, student, recipe.data)
    check_models_fit(
        recipe,
        teachers=teachers,
        student=student,
        train=encoded.examples,
        asks_teacher=asks_teacher and not crosses,
    )
    _check_dev(recipe, judging, dev.examples)
    lora, adapted = _lora(recipe, student), SequenceModel(student.model)
    return Prepared(
        recipe=recipe,
        teachers=teachers,
        student=student,
        reward=tried_reward(recipe, student, train_examples, encoded.examples),
        lora=lora,
        adapted=adapted,
        mask=mask,
        train_examples=train_examples,
        train=encoded.examples,
        num_too_long=encoded.num_too_long,
        dev=dev.examples,
        dev_references=tuple(example.target or "" for example in dev_examples),
        judging=judging,
        precision=_precision(recipe),
        objective=build_objective(
            recipe,
            build_features(recipe, adapted, next(iter(teachers), None)),
            crosses_tokenizers=crosses,
        ),
        asks_teacher=asks_teacher,
        shared_symbols=shared,
    )


def _needs_teacher(recipe: Recipe) -> bool:
    """Whether another model that teaches has to be loaded: not where its finished scores are named,
    and neither labels nor the student's first weights come from it."""
    section, student = recipe.teacher, recipe.student
    is_kept = (
        section.sparse_form is not None
        and section.kept_scores is not None
        and is_finished(Path(section.kept_scores))
    )
    else_needed = student.init != "pretrained" or recipe.sequences.decoded_by_teacher
    return bool(section.other_models) and (else_needed or not is_kept)


def _judging(
    recipe: Recipe,
    train: Sequence[Example],
    dev: Sequence[Example],
    test: Sequence[Example],
    kind: Kind,
) -> Judging:
    """How dev is judged; what the test set is judged by is checked, too."""
    judging = judging_of(recipe, dev or test or train, kind)
    check_judging(judging, dev, "dev")
    if test:
        check_judging(judging_of(recipe, test, kind), test, "test")
    _LOG.info("%s", judging)
    return judging


def _check_dev(recipe: Recipe, judging: Judging, dev: EncodedDataset) -> None:
    """Warns of targets that no output can equal; refuses a loss that no target gives."""
    warn_of_cut_outputs(dev, recipe.evaluation.max_new_tokens, "dev")
    longest = recipe.data.max_target_tokens
    too_long = dev.lengths.target > longest
    if len(dev) and too_long.all() and judging.eval_metric == "loss":
        raise DataError(
            "training.eval_metric=loss must find a target in data.dev of at most "
            f"data.max_target_tokens={longest} tokens, got none; raise it"
        )


def _precision(recipe: Recipe) -> Precision:
    device = device_of(recipe.training.device)
    precision = precision_of(recipe.training.precision, device)
    if precision == "bf16" and not multiplies_bf16(device):
        _LOG.warning(
            "training.precision=bf16 takes many times as long as fp32 on this %s, which has no "
            "instructions for it; leave training.precision out to take what is fast.",
            device.type.replace("cuda", "GPU").replace("cpu", "CPU"),
        )
    return precision


def _read_train(recipe: Recipe) -> ExampleTable:
    setting = recipe.sequences.needs_references
    if setting is None:
        return read_split(recipe, "train", targets="optional")
    return _read_with_targets(
        recipe,
        "train",
        f"method {recipe.method} learns from targets (completions) in the data "
        f"({setting}), so data.train must have them. On-policy methods learn from prompts alone: "
        "on_policy_kd, or gkd with sequences.mixture.student_fraction=1",
    )


def _check_columns(recipe: Recipe, examples: ExampleTable) -> None:
    """Raises DataError for a number in a row that a token weight cannot read."""
    for weight in (w for term in recipe.objective.built_terms() for w in term.token_weights):
        if (limits := weight.member.extras_range) is None:
            continue
        for column in {*weight.member.columns(weight.parameters)} & {*recipe.data.extra_columns}:
            values = examples.extra(column)
            wrong = np.flatnonzero((values < limits[0]) | (values > limits[1]))
            if len(wrong):
                row = int(wrong[0])
                raise DataError(
                    f"{column} must be from {limits[0]:g} to {limits[1]:g} in every row of "
                    f"data.train for the token weight {weight.member.name}, but is "
                    f"{values[row]:g} in the row of the example {examples[row].id!r} "
                    f"({len(wrong):,} such rows); fix the column"
                )


def _encode_train(recipe: Recipe, student: LoadedModel, examples: Sequence[Example]) -> Encoded:
    """Token ids of the examples within the recipe's limits.

    A reference that nobody learns from leaves no example out, however long: on-policy methods and
    the teacher answer its prompt, and what compares with it (a reward, Seq-Inter) reads its text.
    """
    data, chat = recipe.data, chat_settings(recipe.data)
    if learns_from_references(recipe):
        encoded = encode_for(student, examples, chat)
    else:
        chat = dataclasses.replace(chat, assistant_turns="last")
        encoded = cut_unread_targets(
            encode_for(student, examples, chat), max_target_tokens=data.max_target_tokens
        )
    return within_limits(encoded, student, data)


def _read_held_out(recipe: Recipe, split: Literal["dev", "test"]) -> ExampleTable:
    if getattr(recipe.data, split) is None:
        return ExampleTable.of([])
    return _read_with_targets(
        recipe,
        split,
        f"outputs are scored against the targets (completions) of data.{split}, whatever the "
        f"method; add them, or leave data.{split} out",
    )


def _read_with_targets(recipe: Recipe, split: Split, why: str) -> ExampleTable:
    """The split; where its prompts could be read alone, an error says who asks for more."""
    try:
        return read_split(recipe, split)
    except DataError as error:
        try:
            read_split(recipe, split, targets="optional")
        except DataError:
            raise error from None
        raise DataError(f"{error}\n{why}") from error


def _mask(recipe: Recipe, student: LoadedModel) -> PruningMask:
    """Which of the student's weights were just set to zero, as the recipe says."""
    section = recipe.pruning
    if section.sparsity is None:
        return PruningMask.of_nothing()
    return prune(
        student.model,
        pruned_share=section.sparsity,
        scheme=section.scheme,
        exclude=section.exclude,
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
