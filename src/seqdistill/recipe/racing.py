"""What a race is between: methods x learning rates on one recipe's data and models, and its rungs.

Successive halving (Jamieson & Talwalkar 2016, the inner loop of Hyperband): all candidates train a
little, the best third by dev goes on for three times as long, until few are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from seqdistill.core.errors import RecipeError, did_you_mean
from seqdistill.recipe.checks import without_unread
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Finding
from seqdistill.recipe.systems import comparable_presets, compare_member

_TERM = "objective.terms.0"
METHODS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("baseline",),
    "word_kd": ("word_kd",),
    "supervised_kd": ("supervised_kd",),
    "seq_kd": ("seq_kd",),
    "seq_kd_word_kd": ("seq_kd_word_kd",),
    "imitkd": ("imitkd",),
    "gkd": ("gkd",),
    "on_policy_kd": ("on_policy_kd",),
    "on_policy_jsd": ("on_policy_kd", f"{_TERM}={{divergence: jensen_shannon, beta: 0.5}}"),
    "on_policy_reverse_kl": ("on_policy_kd", f"{_TERM}.divergence=reverse_kl"),
}
"""Raced by default: a preset, and settings over it."""
BASELINE = "baseline"
"""Always among the last, where it is among the first."""
RATE = "training.learning_rate"
_FACTOR = 3.0
_KEPT_ONE_OF, _NUM_LAST = 3, 3
"""Of each rung a third goes on; so many methods come to the end."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """So many candidates train until this update."""

    count: int
    until: int


def race_contradictions(recipe: Recipe) -> list[Finding]:
    """What no race can be about; each method is checked by itself."""
    found: list[Finding] = []
    for key in ("compare", "stages"):
        if getattr(recipe, key):
            sentence = (
                "must be left out of a race, whose candidates are single trainings; remove it"
            )
            found.append((key, sentence))
    if recipe.data.dev is None:
        sentence = "must name the examples that choose who goes on, got none; add data.dev=..."
        found.append(("data.dev", sentence))
    return found


def raced_methods(recipe: Recipe, names: Sequence[str] = ()) -> dict[str, Recipe]:
    """The recipe of each method by its name: what it says of sequences, teacher's scores and
    objective on the data, models and settings of `recipe`, whose own method is one of them.

    Settings that a method does not read are left out of it; what else contradicts is not looked
    for. `names` choose among these and all presets that can be compared.
    """
    known = {**{name: (name,) for name in comparable_presets()}, **METHODS, recipe.method: ()}
    for name in names:
        if name not in known:
            raise RecipeError(
                f"--methods must name methods ({', '.join(known)}), got {name!r}."
                f"{did_you_mean(name, known)}"
            )
    methods: dict[str, Recipe] = {}
    for name in dict.fromkeys(names or (*METHODS, recipe.method)):
        own = recipe
        if name != recipe.method:
            preset, *overrides = known[name]
            own = compare_member(recipe, preset, overrides).model_copy(update={"method": name})
        methods[name] = without_unread(own)
    return methods


def rates_of(recipe: Recipe) -> list[float]:
    """The learning rates that every method is raced with: around the recipe's own."""
    own = recipe.training.learning_rate
    return [float(f"{own / _FACTOR:.2g}"), own, float(f"{own * _FACTOR:.2g}")]


def candidate(method: Recipe, rate: float, rungs: Sequence[Rung], eval_metric: str) -> Recipe:
    """The whole training of a method: its schedule ends with the last rung, and dev is scored at
    the end of each at the latest."""
    training = {
        "learning_rate": rate,
        "steps": rungs[-1].until,
        "eval_metric": eval_metric,
        "eval_every": method.training.eval_every or rungs[0].until,
    }
    return method.model_copy(update={"training": method.training.model_copy(update=training)})


def counts_of(num_candidates: int, num_methods: int) -> list[int]:
    """How many candidates take part in each rung; in the last one each is of another method."""
    counts = [num_candidates]
    while counts[-1] > _NUM_LAST:
        counts.append(max(_NUM_LAST, counts[-1] // _KEPT_ONE_OF))
    return [*counts[:-1], min(counts[-1], num_methods)] if len(counts) > 1 else counts


def shares(counts: Sequence[int]) -> list[int]:
    """The updates of one candidate in each rung, those of the first rung being one."""
    ends = [_KEPT_ONE_OF**number for number in range(len(counts))]
    return [end - before for end, before in zip(ends, [0, *ends], strict=False)]


def rungs_of(counts: Sequence[int], first: int) -> list[Rung]:
    """The rungs, the first of which ends after `first` updates."""
    return [Rung(count, first * _KEPT_ONE_OF**number) for number, count in enumerate(counts)]


def num_updates(rungs: Sequence[Rung]) -> int:
    """The updates of a whole race."""
    ends = [rung.until for rung in rungs]
    return sum(
        rung.count * (rung.until - before) for rung, before in zip(rungs, [0, *ends], strict=False)
    )
