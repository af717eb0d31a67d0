"""Measures how much of what training reads is padding, on the bundled corpora.

    python -m benchmarks.padding            # writes docs/results/padding.json

`padded_fraction` is what the metrics of a training call so: the padded positions of all that
encoder and decoder read. `rows` are of the first batches of an epoch of references, planned and
collated as training does it with the bundled teacher's tokenizer, for batches of two sizes.

`rollouts` are of sequences that the bundled teacher samples as a student does, for the first
updates of several micro-batches: in the batches of their prompts, planned with the lengths of the
references, and regrouped by their own, as training reads them. Updates of one micro-batch have the
first number, since there is nothing to regroup.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_source
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.atomic import write_json
from seqdistill.sources.completions import PromptCompletions
from seqdistill.sources.stored import StoredSequences

OUTPUT = Path("docs/results/padding.json")
CORPORA = ("bundled:en-de", "bundled:debian-summaries", "bundled:arithmetic")
BATCH_TOKENS, NUM_BATCHES = (1000, 4096), 100
MICRO_BATCHES, NUM_UPDATES = 4, 4


def of_references(prepared: Prepared, batch_tokens: int) -> float:
    """Of an epoch's first batches."""
    collator, padding = collator_for(prepared.student), TokenSum.zero()
    places = EpochBatches(prepared.train, collator.kind, batch_tokens=batch_tokens, seed=1)
    source = StoredSequences(prepared.train, collator, places)
    for batch in source.batches(NUM_BATCHES):
        padding = padding + batch.padding
    return padding.mean


def of_rollouts(prepared: Prepared, batch_tokens: int) -> tuple[float, float]:
    """Of the first updates: in the batches of their prompts, and regrouped."""
    training = prepared.recipe.training.model_copy(update={"batch_tokens": batch_tokens})
    recipe = prepared.recipe.model_copy(update={"training": training})
    prepared = dataclasses.replace(prepared, recipe=recipe)
    collator, planned, read = collator_for(prepared.student), TokenSum.zero(), TokenSum.zero()

    def written(_update: int, found: PromptCompletions) -> None:
        nonlocal planned
        planned = planned + found.collated(collator).padding

    source = build_source(prepared, prepared.train, on_completions=written)
    for update in range(1, NUM_UPDATES + 1):
        source.begin_update(update, NUM_UPDATES)
        for batch in source.batches(MICRO_BATCHES):
            read = read + batch.padding
    return planned.mean, read.mean


def main() -> None:
    """Measures all corpora."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    rows, rollouts = list[dict[str, object]](), list[dict[str, object]]()
    for name in CORPORA:
        models = [f"{which}={name}" for which in ("data.train", "student.model")]
        settings = [*models, "training.device=cpu"]
        prepared = prepare(load_recipe("baseline", settings))
        for size in BATCH_TOKENS:
            facts = {"data": name, "kind": prepared.student.kind, "batch_tokens": size}
            rows.append({**facts, "padded_fraction": of_references(prepared, size)})
        settings += [f"teacher.model={name}", "training.threads=1"]
        settings += ["sequences.rollouts.engine=ctranslate2"]
        prepared = prepare(load_recipe("on_policy_kd", settings))
        for size in BATCH_TOKENS:
            planned, read = of_rollouts(prepared, size)
            facts = {"data": name, "kind": prepared.student.kind, "batch_tokens": size}
            rollouts.append({**facts, "in_batches_of_prompts": planned, "padded_fraction": read})
    counts = {"updates_of_rollouts": NUM_UPDATES, "micro_batches": MICRO_BATCHES}
    write_json(given.output, {"batches": NUM_BATCHES, "rows": rows, **counts, "rollouts": rollouts})


if __name__ == "__main__":
    main()
