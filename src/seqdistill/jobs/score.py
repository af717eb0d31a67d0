"""The command `score`: what a model makes of the training data, before anything is trained.

Pass rates: the rows again, with the fraction of a model's rollouts of each prompt that a reward
lets pass; rollouts are a corpus, made and resumed as labels are. Kept scores: what the teacher says
of every target, on disk, to be trained from in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from seqdistill.assembly.corpus import label_with_teacher, wanted_corpus
from seqdistill.assembly.data import counted_train, read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.assembly.pass_rates import NUM, RATE, PassRates
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.rewards import reward_of_texts
from seqdistill.assembly.sequences import training_sequences
from seqdistill.assembly.teachers import scores_bytes, wanted_scores
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.data.rewriting import check_suffix, write_again
from seqdistill.jobs.costs import score_seconds
from seqdistill.jobs.label import label_data, planned_labels
from seqdistill.jobs.logs import peak_memory_mb
from seqdistill.jobs.ray_workers import RayWorkers
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.shared_parts import Parts, make_parts
from seqdistill.report.numbers import size


@dataclasses.dataclass(frozen=True)
class PassRateCounts:
    """How many examples the model never answers rightly, always, and at times."""

    never: int
    always: int
    between: int
    mean: float
    """Of all pass rates."""

    def __str__(self) -> str:
        """For people."""
        return (
            f"mean {self.mean:.3f}; 0 in {self.never:,}, 1 in {self.always:,}, between in "
            f"{self.between:,} examples"
        )


def score_pass_rates(
    recipe: Recipe,
    wanted: PassRates,
    output: Path,
    *,
    progress: Progress,
    workers: RayWorkers | None = None,
) -> PassRateCounts | None:
    """Writes the rows of `data.train` with the columns pass_rate and num_rollouts to `output`.

    Every process of a launch samples its share; the first one judges and writes, the others get
    None. `workers` sample in their place. Stopped at any moment, the next call goes on, and writes
    the same file. Raises UserError for what does not go together, before anything is sampled.
    """
    check_suffix(output)
    check_recipe(recipe, purpose="score")
    asked = wanted.labelling(recipe)
    examples = read_split(asked, "train", targets="optional")
    if asked.training.threads is not None:
        torch.set_num_threads(asked.training.threads)
    model = build_teacher(asked)
    reward = reward_of_texts(asked, model, examples)
    wanted.try_reward(reward, examples)
    build = functools.partial(_parts_of_rollouts, wanted)
    make = make_parts if workers is None else workers.maker(asked, build)
    corpus = label_with_teacher(
        wanted_corpus(asked, model, examples, wanted.corpus), progress, make
    )
    if os.environ.get("RANK", "0") != "0":
        return None
    progress.start("judging", len(examples))
    rates = []
    for rate in wanted.of(corpus, examples, reward, recipe.objective.reward.pass_threshold):
        rates.append(rate)
        progress.advance()
    progress.finish()
    columns: dict[str, Sequence[object]] = {RATE: rates, NUM: [wanted.num_rollouts] * len(rates)}
    read = asked.data
    write_again(str(read.train), examples, columns, output, numbers=read.extra_columns)
    never, always = rates.count(0.0), rates.count(1.0)
    return PassRateCounts(never, always, len(rates) - never - always, sum(rates) / len(rates))


def _parts_of_rollouts(wanted: PassRates, asked: Recipe) -> Parts:
    examples = read_split(asked, "train", targets="optional")
    corpus = wanted_corpus(asked, build_teacher(asked), examples, wanted.corpus)
    return corpus.labelling(NoProgress()).parts()


def plan_pass_rates(recipe: Recipe, wanted: PassRates, output: Path) -> list[tuple[str, str]]:
    """What `score_pass_rates` would do, as (label, text) pairs: a sample of prompts is timed."""
    check_suffix(output)
    check_recipe(recipe, purpose="score")
    asked = wanted.labelling(recipe)
    examples = read_split(asked, "train", targets="optional")
    model = build_teacher(asked)
    wanted.try_reward(reward_of_texts(asked, model, examples), examples)
    corpus = wanted_corpus(asked, model, examples, wanted.corpus)
    return [
        ("would write to", str(output)),
        ("examples", counted_train(examples, asked.data)),
        ("rollouts", f"{wanted.num_rollouts} of each prompt, by the {wanted.model}"),
        ("sampling", planned_labels(corpus)[0]),
        ("memory", f"about {peak_memory_mb() / 1024:.1f} GiB, measured while they were timed"),
    ]


def score_teacher(recipe: Recipe, *, progress: Progress, workers: RayWorkers | None = None) -> Path:
    """The folder with the teacher's scores of the sequences that the recipe trains on.

    Every process of a launch makes its share, or `workers` make all. Stopped at any moment, the
    next call goes on. Raises UserError for whatever training would refuse: before anything is
    scored, and for a folder that is finished already, with other scores.
    """
    prepared = _prepared_to_score(recipe)
    if workers is not None and recipe.sequences.decoded_by_teacher:
        label_data(recipe, progress=progress, workers=workers)
    make = make_parts if workers is None else workers.maker(recipe, _parts_of_scores)
    wanted = wanted_scores(prepared, training_sequences(prepared, progress)[0])
    wanted.made(progress, make)
    return wanted.opened(torch.device("cpu")).folder


def _parts_of_scores(recipe: Recipe) -> Parts:
    prepared = _prepared_to_score(recipe)
    examples, _ = training_sequences(prepared, NoProgress())
    return wanted_scores(prepared, examples).keeping(NoProgress()).parts()


def plan_teacher_scores(recipe: Recipe) -> list[tuple[str, str]]:
    """What `score_teacher` would do, as (label, text) pairs."""
    prepared = _prepared_to_score(recipe)
    form, num_bytes = scores_bytes(prepared)
    num_tokens = max(1, int(prepared.train.lengths.counted.sum()))
    minutes = score_seconds(prepared) / 60
    return [
        ("examples", counted_train(prepared.train, recipe.data)),
        ("target tokens", f"{num_tokens:,}"),
        ("kept of each", f"{form}, at most {num_bytes / num_tokens:,.0f} bytes"),
        ("on disk", f"at most {size(num_bytes)}"),
        ("time", f"about {minutes:.1f} minutes on this machine, from a few that were made"),
    ]


def _prepared_to_score(recipe: Recipe) -> Prepared:
    check_recipe(recipe)
    if recipe.stages or recipe.compare:
        raise RecipeError(
            "score --teacher-scores needs the recipe of one student, got one of "
            f"{'stages' if recipe.stages else 'a comparison'}; score for each of its presets"
        )
    if recipe.teacher.on_server:
        raise RecipeError(
            "score --teacher-scores must have the teacher in this process, got teacher.server.url; "
            "take it out and name teacher.model, or train with the server, which is asked while "
            "the student learns"
        )
    if not recipe.teacher.keeps_scores:
        raise RecipeError(
            "score --teacher-scores needs a recipe that keeps scores, got teacher.scores "
            f"{recipe.teacher.scores}; set teacher.scores=top_k or sampled, or, with dense, "
            "teacher.cache_hidden_states=fp16"
        )
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    return prepare(recipe)
