"""The command `label`: a teacher's corpus over a recipe's training data, and nothing else."""

from __future__ import annotations

from pathlib import Path

from seqdistill.assembly.corpus import label_with_teacher, wanted_corpus
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.core.errors import ModelError
from seqdistill.core.progress import Progress
from seqdistill.jobs.measuring import planned_labels
from seqdistill.jobs.timings import peak_memory_mb
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.teacher_corpus import read_record


def label_data(recipe: Recipe, *, progress: Progress) -> Path:
    """The folder of the teacher's corpus; neither references nor a student are needed.

    Raises RecipeError for what does not go together, and for a chain, whose stages may each have a
    corpus of their own.
    """
    check_recipe(recipe, purpose="label")
    examples = read_split(recipe, "train", need_target=False)
    teacher = build_teacher(recipe)
    return label_with_teacher(recipe, teacher, examples, progress).folder


def check_labels(folder: Path) -> None:
    """Raises ModelError for a corpus of empty labels alone, however few they are."""
    if not read_record(folder).counts.num_with_text:
        raise ModelError(
            f"The teacher must write texts, but every label in {folder} is empty. Is it trained, "
            "and for these texts, in this chat template and these languages? Delete the folder to "
            "label again."
        )


def plan_labels(recipe: Recipe) -> list[tuple[str, str]]:
    """What `label_data` would do, as (label, text) pairs: a sample of the sources is timed."""
    check_recipe(recipe, purpose="label")
    examples = read_split(recipe, "train", need_target=False)
    teacher = build_teacher(recipe)
    wanted = wanted_corpus(recipe, teacher, examples)
    labels = planned_labels(recipe, teacher, wanted)
    return [
        ("would write to", str(wanted.folder)),
        ("examples", f"{len(examples):,} of {recipe.data.train}"),
        ("teacher's labels", labels),
        ("memory", f"about {peak_memory_mb() / 1024:.1f} GiB, measured while they were timed"),
    ]
