"""The command `label`: a teacher's corpus over a recipe's training data, and nothing else."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from seqdistill.assembly.corpus import (
    Wanted,
    asked_of,
    label_with_teacher,
    wanted_corpus,
)
from seqdistill.assembly.data import counted_train, read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.core.errors import ModelError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.data.dataset import EncodedDataset
from seqdistill.jobs.logs import peak_memory_mb
from seqdistill.jobs.ray_workers import RayWorkers
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.shared_parts import Parts, make_parts
from seqdistill.sources.teacher_corpus import read_record

Item = TypeVar("Item")
_NUM_GROUPS, _IN_GROUP = 4, 12
"""Of sources that are timed: enough for every worker, few enough to take seconds."""


def label_data(recipe: Recipe, *, progress: Progress, workers: RayWorkers | None = None) -> Path:
    """The folder of the teacher's corpus, or the one that those of several lie in; neither
    references nor a student are needed.

    `workers` make it in the place of this process. Raises RecipeError for what does not go
    together, and for a chain, whose stages may each have a corpus of their own.
    """
    check_recipe(recipe, purpose="label")
    examples = read_split(recipe, "train", targets="optional")
    folders = []
    for number, (one, part) in enumerate(asked_of(recipe, examples)):
        build = functools.partial(_parts_of_teacher, number)
        make = make_parts if workers is None else workers.maker(recipe, build)
        if len(part):
            wanted = wanted_corpus(one, _local_teacher(one), part)
            corpus = label_with_teacher(wanted, progress, make)
            folders.append(corpus.folder)
    if not recipe.teacher.members:
        return folders[0]
    for folder in folders:
        check_labels(folder)
    return folders[0].parent


def _parts_of_teacher(number: int, recipe: Recipe) -> Parts:
    """What a worker makes: of the labels of one of the teachers."""
    examples = read_split(recipe, "train", targets="optional")
    one, part = next(itertools.islice(asked_of(recipe, examples), number, None))
    return wanted_corpus(one, _local_teacher(one), part).labelling(NoProgress()).parts()


def _local_teacher(recipe: Recipe) -> LoadedModel | None:
    """None where a server labels."""
    return None if recipe.sequences.decoding.engine == "server" else build_teacher(recipe)


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
    examples = read_split(recipe, "train", targets="optional")
    rows = [("examples", counted_train(examples, recipe.data))]
    for one, part in asked_of(recipe, examples):
        wanted = wanted_corpus(one, _local_teacher(one), part)
        rows.append(("would write to", str(wanted.folder)))
        rows.append(("teacher's labels", planned_labels(wanted)[0]))
    return [
        *rows,
        ("memory", f"about {peak_memory_mb() / 1024:.1f} GiB, measured while they were timed"),
    ]


def planned_labels(wanted: Wanted) -> tuple[str, float]:
    """Whether the labels that are wanted are there, and the seconds to make them, from a sample.

    Sources are timed in groups of like length, as they share a batch in labelling, and counted by
    their tokens. A server is not asked, and counts as 0 seconds.
    """
    if wanted.is_there:
        return wanted.origin, 0.0
    if wanted.teacher is None:
        return f"{wanted.origin}: asked of {', '.join(wanted.recipe.teacher.server.url)}", 0.0
    lengths = EncodedDataset.of(wanted.sources).lengths.source
    # A part is decoded at once; where there are more they are alike.
    part = np.argsort(lengths[: wanted.of.shard_size], kind="stable")
    groups = [part[start : start + _IN_GROUP] for start in range(0, len(part), _IN_GROUP)]
    places = np.concatenate(spread(groups, _NUM_GROUPS))
    sample = [wanted.sources[int(place)].prompt for place in places]
    decoding, generator = wanted.settings.decoding, wanted.generator()
    together = min(decoding.batch_tokens, _IN_GROUP * int(lengths[places].max()))
    decoding = decoding.model_copy(update={"batch_tokens": together})
    generator.generate(sample[:1], decoding)  # the first call is slow
    began = time.perf_counter()
    generator.generate(sample, decoding)
    seconds = time.perf_counter() - began
    seconds *= float(lengths.sum() / max(1, lengths[places].sum()))
    told = f"about {seconds / 60:.1f} minutes, from {len(sample)} that were timed"
    return f"{wanted.origin}: {told}", seconds


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Up to `count` items from all over the sequence."""
    number = min(count, len(items))
    return [items[index * len(items) // number] for index in range(number)]
