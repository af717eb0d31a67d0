"""Measures how much of what training reads is padding, on the bundled corpora.

    python -m benchmarks.padding            # writes docs/results/padding.json

`padded_fraction` is what the metrics of a training call so: the padded positions of all that
encoder and decoder read. It is of the first batches of an epoch of references, planned and collated
as training does it with the bundled teacher's tokenizer, for batches of two sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.preparing import prepare
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import EpochBatches
from seqdistill.recipe.loading import load_recipe
from seqdistill.records.atomic import write_json
from seqdistill.sources.stored import StoredSequences

OUTPUT = Path("docs/results/padding.json")
CORPORA = ("bundled:en-de", "bundled:debian-summaries", "bundled:arithmetic")
BATCH_TOKENS, NUM_BATCHES = (1000, 4096), 100


def main() -> None:
    """Measures all corpora."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    rows = []
    for name in CORPORA:
        settings = [f"data.train={name}", f"student.model={name}", "training.device=cpu"]
        prepared = prepare(load_recipe("baseline", settings))
        for batch_tokens in BATCH_TOKENS:
            collator = collator_for(prepared.student)
            source = StoredSequences(
                prepared.train,
                collator,
                EpochBatches(prepared.train, collator.kind, batch_tokens=batch_tokens, seed=1),
            )
            padding = TokenSum.zero()
            for batch in source.batches(NUM_BATCHES):
                padding = padding + batch.padding
            facts = {"data": name, "kind": prepared.student.kind, "batch_tokens": batch_tokens}
            rows.append({**facts, "padded_fraction": padding.mean})
    write_json(given.output, {"batches": NUM_BATCHES, "rows": rows})


if __name__ == "__main__":
    main()
