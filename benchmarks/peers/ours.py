"""Trains with this package, as `seqdistill train` does: `python -m benchmarks.peers.ours SETTINGS`.

The settings name a preset and what a recipe sets over it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.peers.clock import UpdateClock

from seqdistill.core.progress import NoProgress
from seqdistill.data.encoding import EncodedExample
from seqdistill.jobs.train import train
from seqdistill.recipe.loading import load_recipe
from seqdistill.sources.completions import PromptCompletions
from seqdistill.sources.rollouts import RolloutSampler


def main() -> None:
    """Trains and writes what it cost."""
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(given["threads"])
    clock, complete, sequences = UpdateClock(), RolloutSampler.complete, list[int]()

    def counted(sampler: RolloutSampler, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        found = complete(sampler, prompts)
        if prompts:
            clock.count_rollout()
            sequences.append(len(prompts))
        return found

    RolloutSampler.complete = counted  # type: ignore[assignment,method-assign]
    run = train(load_recipe(given["preset"], given["overrides"]), progress=NoProgress())
    clock.report(given, precision=run.read_manifest().get("precision"), sequences=sequences)


if __name__ == "__main__":
    main()
