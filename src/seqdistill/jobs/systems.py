"""The systems of a run directory, with its test set: teacher, start, students, copy."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from seqdistill.assembly.data import collator_for, encode_for_evaluation, read_split
from seqdistill.assembly.decoding import (
    build_generator,
    engine_name,
    evaluation_engine,
)
from seqdistill.assembly.models import (
    build_student,
    build_teacher,
    evaluation_placement,
    model_folder,
    named_model,
    without_trust,
)
from seqdistill.compression.layers import parameter_count
from seqdistill.core.errors import UserError
from seqdistill.data.examples import Example
from seqdistill.evaluation.systems import SystemSource, SystemUnderTest
from seqdistill.jobs.export import INT8_FOLDER, weight_bytes
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.fingerprint import of_folder
from seqdistill.records.results import START
from seqdistill.records.run_directory import RunDirectory

_LOG = logging.getLogger(__name__)


def systems_of(
    run: RunDirectory,
    recipe: Recipe,
    examples: Sequence[Example],
    overrides: Sequence[str],
    *,
    trust_remote_code: bool = False,
) -> list[SystemSource]:
    """The teacher where the recipe names another model as such, the start of its students, then
    every student.

    Nothing is loaded yet. Raises UserError when no student is there.
    """

    def source(name: str, model: str, init: str, settings: Recipe) -> SystemSource:
        load = functools.partial(
            system_under_test,
            *(name, model, init, settings, examples),
            trust_remote_code=trust_remote_code,
        )
        return SystemSource(name, model_folder(model), load)

    teacher, systems = recipe.teacher.other_model, []
    if teacher is not None:
        systems.append(source("teacher", teacher, "trained", recipe))
    if has_start(recipe):
        trusted = recipe if trust_remote_code else without_trust(recipe)
        folder = model_folder(str(recipe.student.model or teacher))
        systems.append(SystemSource(START, folder, functools.partial(_start, trusted, examples)))
    systems += [
        source(member.method, str(trained.student_path), _init_name(member), member)
        for member, trained in _trained_runs(run, overrides)
    ]
    return systems


def on_transformers(source: SystemSource) -> SystemSource:
    """The same system, which decodes with transformers."""
    return dataclasses.replace(source, load=functools.partial(source.load, engine="transformers"))


def has_start(recipe: Recipe) -> bool:
    """Whether the student before its first update is measured, too.

    Not where the recipe leaves it out, for random weights, or where it is the teacher itself.
    """
    student, teacher = recipe.student, recipe.teacher.other_model
    if not recipe.evaluation.include_start or student.init == "scratch":
        return False
    if student.init != "pretrained" or student.model is None or teacher is None:
        return True
    return Path(model_folder(student.model)).resolve() != Path(model_folder(teacher)).resolve()


def _start(
    recipe: Recipe, examples: Sequence[Example], *, engine: str | None = None
) -> SystemUnderTest:
    """The student before its first update, which all members of a comparison share."""
    student, placement, loaded = recipe.student, evaluation_placement(recipe), None
    if student.init == "teacher_layers" and recipe.teacher.other_model is not None:
        loaded = build_teacher(recipe, placement)
    measured_on = read_split(recipe, "train", targets="optional") if student.width else ()
    pair = build_student(recipe, loaded, measured_on)
    pair.model.to(placement.device, placement.dtype_of(pair.model.config))
    size = parameter_count(pair.model) * (2 if student.save_dtype == "fp16" else 4)
    return with_generator(START, pair, _init_name(recipe), recipe, examples, size, engine)


def exported_system(run: RunDirectory, overrides: Sequence[str]) -> str | None:
    """The name of the student that the run's int8 copy is of; None where there is no copy.

    It is the one whose files are those of `student/`, which the copy was made of. Where none is,
    None, and a warning says so.
    """
    if not (run.path / INT8_FOLDER).is_dir() or not run.student_path.is_dir():
        return None
    exported = of_folder(run.student_path)
    for recipe, trained in _trained_runs(run, overrides):
        if of_folder(trained.student_path) == exported:
            return recipe.method
    _LOG.warning(
        "%s is left out: no student of this run has the files of %s, which it is a copy of",
        run.path / INT8_FOLDER,
        run.student_path,
    )
    return None


def system_under_test(
    name: str,
    model: str,
    init: str,
    recipe: Recipe,
    examples: Sequence[Example],
    *,
    trust_remote_code: bool = False,
    engine: str | None = None,
) -> SystemUnderTest:
    """The model as the recipe's evaluation decodes it, or `engine`, with the examples encoded."""
    pair = named_model(model, recipe, evaluation_placement(recipe), trusted=trust_remote_code)
    size = weight_bytes(model_folder(model))
    return with_generator(name, pair, init, recipe, examples, size, engine)


def with_generator(
    name: str,
    pair: LoadedModel,
    init: str,
    recipe: Recipe,
    examples: Sequence[Example],
    num_bytes: int,
    engine: str | None,
) -> SystemUnderTest:
    """A loaded model as the recipe's evaluation decodes it, or `engine`."""
    choice = evaluation_engine(recipe)
    encoded = encode_for_evaluation(examples, pair, recipe.data).examples
    generator = build_generator(
        pair,
        dataclasses.replace(choice, name=engine or choice.name),
        examples=encoded,
        max_new_tokens=recipe.evaluation.max_new_tokens,
    )
    return SystemUnderTest(
        name=name,
        method=name,
        init=init,
        bytes=num_bytes,
        model=SequenceModel(pair.model),
        tokenizer=pair.tokenizer,
        generator=generator,
        engine=engine_name(generator),
        examples=encoded,
        collator=collator_for(pair),
    )


def _init_name(recipe: Recipe) -> str:
    student = recipe.student
    if student.init == "teacher_layers":
        kept = "+".join(str(n or "all") for n in (student.encoder_layers, student.decoder_layers))
        width = "".join(f", {name} {size}" for name, size in student.width.items())
        return f"teacher layers {kept}{width}"
    return student.init if student.model is None else f"{student.init} {student.model}"


def _trained_runs(run: RunDirectory, overrides: Sequence[str]) -> list[tuple[Recipe, RunDirectory]]:
    """The students of a run directory: its own, or those of its members in the order compared."""
    recipe = load_recipe(str(run.whole(run.recipe_path)), overrides)
    if not recipe.compare:
        found = [(recipe, run)]
    else:
        members = [(load_recipe(str(m.whole(m.recipe_path)), overrides), m) for m in run.members()]
        order = {name: position for position, name in enumerate(recipe.compare)}
        found = sorted(members, key=lambda item: order.get(item[0].preset or "", len(order)))
    found = [(r, m) for r, m in found if m.student_path.is_dir()]
    if not found:
        raise UserError(
            f"A run must have a trained student to be evaluated, but {run.path} has none; finish "
            "it with `seqdistill train ... --resume`."
        )
    return found
