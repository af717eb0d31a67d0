"""Where the stages of a chain lie, and which of them are there already.

A stage is an ordinary run beside the chains' own, named after what decides its student: settings
and the content of data and models, wherever those lie. Equal stages of several chains are one run.
Reads only: a plan and a training find the same.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from seqdistill.assembly.models import model_folder
from seqdistill.core.errors import UserError
from seqdistill.jobs.inputs import data_files
from seqdistill.models.places import model_folders
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import settings_by_key, stage_recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.checksums import damage
from seqdistill.records.fingerprint import of_file, of_folder, of_settings
from seqdistill.records.run_directory import RunDirectory

STAGES = "stages"
_ANY_FILE = ("",)
_NUM_DIGITS = 12
# What decides nothing about a student's weights: names, places, speed, logs, the final numbers.
# Data and models are places, too; their content is looked at instead.
_INDIFFERENT = frozenset(
    {
        *("preset", "method", "output_dir", "compare", "stages"),
        *("data.train", "data.dev", "data.test", "data.max_test_examples"),
        *("teacher.model", "student.model", "sequences.corpus", "teacher.states"),
        *("sequences.decoding.batch_tokens", "sequences.decoding.threads"),
        *("training.threads", "training.device", "training.checkpoint_every"),
        *("training.log_every", "training.trackers"),
        *("evaluation.beam_size", "evaluation.length_penalty", "evaluation.bootstrap_resamples"),
        *("evaluation.confidence", "evaluation.num_samples", "evaluation.metrics"),
        "evaluation.include_start",
    }
)


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage of a chain: the recipe that trains it, and the digest that it is named after."""

    recipe: Recipe
    digest: str

    @property
    def run(self) -> RunDirectory:
        """Its run directory, existing or not."""
        return RunDirectory(self.recipe.output_dir)

    @property
    def is_finished(self) -> bool:
        """Whether its student is there to be used, as it was saved."""
        return self.run.is_finished and damage(self.run.student_path) is None


def stage_run(recipe: Recipe, index: int, *, start_from: Path | None) -> StageRun:
    """The stage of a chain whose student starts from a folder, or from the recipe's own.

    Raises UserError when something else has the stage's name.
    """
    stage = stage_recipe(recipe, index, start_from=None if start_from is None else str(start_from))
    digest = stage_digest(stage)
    name = f"{stage.method}-{digest[:_NUM_DIGITS]}"
    folder = output_folder(recipe).parent / STAGES / name
    found = StageRun(stage.model_copy(update={"output_dir": str(folder)}), digest)
    if found.run.recipe_path.exists():
        _refuse_another(found)
    return found


def finished_stages(recipe: Recipe) -> list[StageRun]:
    """The stages that are there, from the first to the last before one that is not."""
    found: list[StageRun] = []
    for index in range(len(recipe.stages)):
        stage = stage_run(recipe, index, start_from=newest_student(found))
        if not stage.is_finished:
            break
        found.append(stage)
    return found


def unfinished_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipes of the other stages, to be checked before any of them is trained.

    Where a stage will start from a student that does not exist yet, its recipe starts from the
    newest that does, or from the chain's first weights, which have the same shape and vocabulary.
    """
    done = finished_stages(recipe)
    newest = newest_student(done)
    start_from = None if newest is None else str(newest)
    return [
        stage_recipe(recipe, index, start_from=start_from)
        for index in range(len(done), len(recipe.stages))
    ]


def newest_student(stages: list[StageRun]) -> Path | None:
    """The folder of the last stage's student; None before the first stage."""
    return stages[-1].run.student_path if stages else None


def stage_digest(stage: Recipe) -> str:
    """The SHA-256 in hex of what decides the student of a stage.

    That is its settings, those at their defaults left out (so that a new setting does not rename
    what is there), and the content of training and dev data, of the teacher where the student
    learns anything from it, and of the model that the student starts from.
    """
    content = {
        "train": _data_content(stage.data.train),
        "dev": _data_content(stage.data.dev),
        "teacher": _model_content(stage.teacher.model) if _learns_from_teacher(stage) else None,
        "student": _model_content(stage.student.model),
    }
    default = settings_by_key(Recipe())
    settings = {key: value for key, value in _decisive(stage).items() if value != default[key]}
    settings["terms"] = [term.model_dump(exclude_defaults=True) for term in stage.objective.terms]
    settings.pop("objective.terms", None)  # said just now, the defaults inside left out
    return of_settings([settings, content])


def _decisive(stage: Recipe) -> dict[str, object]:
    """The settings that a student's weights may depend on, by their dotted keys."""
    unread = set()
    if not stage.sequences.decoded_by_teacher:
        unread.add("sequences.decoding")  # nobody decodes
    if stage.data.dev is None:
        unread.add("evaluation")  # nothing is scored while training
    decisive = {
        key: value
        for key, value in settings_by_key(stage).items()
        if key not in _INDIFFERENT and key.rpartition(".")[0] not in unread
    }
    if stage.teacher.cache_hidden_states == "fp32" and stage.training.precision == "fp32":
        # They are what the teacher would say; rounded, or beside a bf16 teacher, they differ.
        decisive["teacher.cache_hidden_states"] = "none"
    return decisive


def _learns_from_teacher(stage: Recipe) -> bool:
    return (
        stage.teacher.scores != "none"
        or stage.sequences.decoded_by_teacher
        or stage.sequences.rollouts.teacher_fraction > 0.0
        or stage.student.init != "pretrained"
    )


def _data_content(spec: str | None) -> object:
    """Fingerprints of the files that data are read from; the name itself where there are none."""
    if spec is None:
        return None
    if Path(spec).is_dir():
        return of_folder(spec, _ANY_FILE)
    return [of_file(path) for path in data_files(spec).values()] or [spec]


def _model_content(name: str | None) -> str | None:
    """The fingerprint of a model folder, an adapters' base included; a hub name is its own."""
    if name is None:
        return None
    folders = model_folders(model_folder(name))
    return " ".join(of_folder(folder) for folder in folders) or name


def _refuse_another(stage: StageRun) -> None:
    """Raises UserError when the run of that name was made by other settings.

    That is so after a default has changed, which the name does not show.
    """
    wanted = _decisive(stage.recipe)
    stored = _decisive(read_recipe(str(stage.run.whole(stage.run.recipe_path))))
    changed = [key for key in wanted if key not in stored or wanted[key] != stored[key]]
    if changed:
        raise UserError(
            f"{stage.run.path} must be a run of the stage's own settings, but its {changed[0]} was "
            f"{stored.get(changed[0])!r} and is now {wanted[changed[0]]!r}; move it away to train "
            "the stage again."
        )
