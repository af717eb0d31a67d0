"""Which engine a student samples with where a recipe leaves it open: the faster, as measured.

Engines draw other sequences from one distribution, so a run chooses once, before its first update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch

from seqdistill.assembly.data import epoch_batches
from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.sequences import rollout_samplers
from seqdistill.core.generators import derived_seed
from seqdistill.core.source import Source
from seqdistill.generation.sampling import Sampler
from seqdistill.jobs.measuring import in_turns

_SECONDS = 20.0
"""Of all rounds after the first, where the least number of rounds does not take longer."""


@dataclasses.dataclass(frozen=True)
class RolloutEngine:
    """The engine, and what was measured for it: nothing where there was no choice."""

    name: str
    num_sequences: int = 0
    """Of an update."""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of each engine for as many, the student's new weights taken first."""

    def __str__(self) -> str:
        if not self.seconds:
            return self.name
        others = (f"{name} {s:.3g} s" for name, s in self.seconds.items() if name != self.name)
        return (
            f"{self.name}, the faster for the first update's {self.num_sequences:,} sequences: "
            f"{self.seconds[self.name]:.3g} s, {', '.join(others)}"
        )


def rollout_engine_for(prepared: Prepared, device: torch.device) -> RolloutEngine | None:
    """What the student writes with while it trains there; None where it does not write.

    Where several engines can they take turns on the first update's prompts, new weights included,
    and the faster is taken. The run's own random numbers stay what they are.

    Raises EngineError and ModelError as `rollout_samplers` does.
    """
    model, seed = prepared.student.model, prepared.recipe.seed
    before = model.device
    model.to(device)
    samplers = rollout_samplers(prepared)
    if len(samplers) < 2:
        model.to(before)
        return RolloutEngine(next(iter(samplers))) if samplers else None
    prompts = _first_prompts(prepared)

    def writing(sampler: Sampler) -> Callable[[int], None]:
        def call(number: int) -> None:
            sampler.refresh()
            sampler.sample(prompts, seed=derived_seed(seed, f"rollout engine/{number}"))

        return call

    forms = {name: writing(sampler) for name, sampler in samplers.items()}
    taken = in_turns(forms, seconds=_SECONDS, least=1, most=3, device=device)
    model.to(before)
    seconds = {name: min(one.wall_s for one in rounds) for name, rounds in taken.items()}
    return RolloutEngine(min(seconds, key=seconds.__getitem__), len(prompts), seconds)


def _first_prompts(prepared: Prepared) -> list[Source]:
    """Those of the first update, each as often as it is answered."""
    recipe, train = prepared.recipe, prepared.train
    samples = recipe.sequences.rollouts.samples_per_prompt
    batches = epoch_batches(recipe, train, prepared.student.kind)
    places = [i for _ in range(recipe.training.gradient_accumulation_steps) for i in batches.next()]
    return [train[i].prompt for i in places for _ in range(samples)]
