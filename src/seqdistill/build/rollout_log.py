"""Keeps a few of the sequences that are written while the student trains, as texts to look at."""

from __future__ import annotations

from collections.abc import Sequence

from seqdistill.build.preparing import Prepared
from seqdistill.build.rewards import prompt_text
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.writers import Written

_NUM_KEPT = 4
"""Sequences of each update that is looked at."""


class RolloutLog:
    """Writes the first few sequences of every `samples_every`-th update to the run directory."""

    def __init__(self, prepared: Prepared, run: RunDirectory) -> None:
        self._run = run
        self._tokenizer = prepared.student.tokenizer
        self._every = prepared.recipe.sequences.rollouts.samples_every
        self._examples = {example.id: example for example in prepared.train_examples}
        self._last_update = 0

    def __call__(self, update: int, written: Sequence[Written]) -> None:
        """Keeps some of what was written, once an update."""
        if update == self._last_update or (update - 1) % self._every:
            return
        self._last_update = update
        self._run.log_rollouts(update, [self._row(one) for one in written[:_NUM_KEPT]])

    def _row(self, one: Written) -> dict[str, object]:
        ids, example = one.example.target_ids, self._examples[one.example.id]
        return {
            "id": example.id,
            "prompt": prompt_text(example),
            "written_by": one.written_by,
            "written": self._tokenizer.decode(ids, skip_special_tokens=True).strip(),
            "tokens": len(ids),
            "finished": one.finished,
            "reference": example.target,
            "reward": one.reward,
            "born": one.born,
        }
