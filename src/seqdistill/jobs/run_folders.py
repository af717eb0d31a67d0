"""The run directory that a training writes: a new one or that of the very recipe, by one writer."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState

from seqdistill.assembly.models import without_trust
from seqdistill.core.errors import RecipeError
from seqdistill.models.placement import (
    device_of,
)
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.server_schema import RolloutServerSection, TeacherServerSection
from seqdistill.recipe.systems import output_folder
from seqdistill.records.atomic import remove_left_overs
from seqdistill.records.locks import held
from seqdistill.records.run_directory import CHECKPOINTS, Resume, RunDirectory
from seqdistill.records.writable import check_writable


def open_run(recipe: Recipe, *, resume: Resume) -> RunDirectory:
    """The run directory to write to; with `resume` the existing one of this very recipe."""
    path = output_folder(recipe)
    if not resume or not RunDirectory(path).is_begun:
        RunDirectory(path).check_free()
        return RunDirectory(path)
    run = RunDirectory.open(path)
    stored = load_recipe(str(run.whole(run.recipe_path)), [])
    stored, recipe = _comparable(stored), _comparable(recipe)
    if stored != recipe:
        changed = _first_difference(stored.model_dump(), recipe.model_dump())
        raise RecipeError(
            f"--resume needs the recipe that {path} was started with, but {changed}; start a new "
            "output_dir for other settings, or remove that folder to train it again."
        )
    return run


def _comparable(recipe: Recipe) -> Recipe:
    """The recipe less what is this command line's to give, and changes nothing of the run: trust,
    and where servers are and how they are waited for."""
    recipe = without_trust(recipe)
    teacher, sequences = recipe.teacher, recipe.sequences
    served = TeacherServerSection(model=teacher.server.model, api=teacher.server.api)
    writing = RolloutServerSection(model=sequences.rollouts.server.model)
    rollouts = sequences.rollouts.model_copy(update={"server": writing})
    sections = {
        "teacher": teacher.model_copy(update={"server": served}),
        "sequences": sequences.model_copy(update={"rollouts": rollouts}),
    }
    return recipe.model_copy(update=sections)


def _first_difference(stored: dict[str, object], given: dict[str, object], at: str = "") -> str:
    for key in stored.keys() | given.keys():
        old, new = stored.get(key), given.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _first_difference(old, new, f"{at}{key}.")
        return f"{at}{key} was {old!r} and is now {new!r}"
    return "nothing differs"


@contextlib.contextmanager
def only_writer(recipe: Recipe) -> Iterator[PartialState]:
    """The processes that train, of which the first one alone writes into the run directory.

    It keeps other commands away from there, and removes what killed ones left.
    """
    folder = output_folder(recipe)
    processes = PartialState(cpu=device_of(recipe.training.device).type == "cpu")
    if not processes.is_main_process:
        yield processes
        return
    check_writable(folder, "output_dir")
    with held(folder, "training in"):
        real = Path(os.path.realpath(folder))
        remove_left_overs(real.parent, glob.escape(real.name))
        for place in (real, real / CHECKPOINTS):
            remove_left_overs(place)
        yield processes
