"""The command `score`: the rows of the training data again, with what a model makes of them.

Pass rates: a model's rollouts of each prompt, kept as a corpus that is made and resumed as labels
are, and the fraction of them that a reward lets pass.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from seqdistill.assembly.corpus import label_with_teacher, wanted_corpus
from seqdistill.assembly.data import counted_train, read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.assembly.pass_rates import NUM, RATE, PassRates
from seqdistill.assembly.rewards import reward_of_texts
from seqdistill.core.progress import Progress
from seqdistill.data.rewriting import check_suffix, write_again
from seqdistill.jobs.label import planned_labels
from seqdistill.jobs.logs import peak_memory_mb
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe


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
    recipe: Recipe, wanted: PassRates, output: Path, *, progress: Progress
) -> PassRateCounts | None:
    """Writes the rows of `data.train` with the columns pass_rate and num_rollouts to `output`.

    Every process of a launch samples its share; the first one judges and writes, the others get
    None. Stopped at any moment, the next call goes on, and writes the same file. Raises UserError
    for what does not go together, before anything is sampled.
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
    corpus = label_with_teacher(asked, model, examples, progress, wanted.corpus)
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
        ("sampling", planned_labels(asked, model, corpus)),
        ("memory", f"about {peak_memory_mb() / 1024:.1f} GiB, measured while they were timed"),
    ]
