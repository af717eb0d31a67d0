"""Keeps a few of the sequences that are written while the student trains, as texts to look at."""

from __future__ import annotations

from seqdistill.assembly.data import chat_settings
from seqdistill.assembly.preparing import Prepared
from seqdistill.data.conversations import prompt_text
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion, PromptCompletions

_NUM_KEPT = 4
"""Sequences of each batch that is looked at."""


class RolloutLog:
    """Writes a few sequences of every `samples_every` updates to the run directory.

    Of the first batch in these updates in which the student had a hand: where a coin gave the
    prompts to somebody else, it waits for a later one. Each of another prompt, while there are any.
    """

    def __init__(self, prepared: Prepared, run: RunDirectory) -> None:
        self._run = run
        self._tokenizer = prepared.student.tokenizer
        self._decoder = TextDecoder(self._tokenizer)
        self._chat = chat_settings(prepared.recipe.data)
        self._every = prepared.recipe.sequences.rollouts.samples_every
        self._examples = prepared.train_examples
        self._next_update: int | None = None

    def __call__(self, update: int, found: PromptCompletions) -> None:
        """Keeps some of the sequences, if it is time and the student had a part in any."""
        if self._next_update is None:
            # Not earlier: a run that is resumed first forgets what it will write again.
            kept_at = [int(str(row["step"])) for row in self._run.read_rollouts()]
            self._next_update = max(map(self._after, kept_at), default=1)
        rows = found.students_rows
        if update < self._next_update or not rows:
            return
        self._next_update = self._after(update)
        ids = [found.prompts[row].id for row in rows]
        is_later = [name in ids[:place] for place, name in enumerate(ids)]
        kept = [row for _, row in sorted(zip(is_later, rows, strict=True))][:_NUM_KEPT]
        self._run.log_rollouts(update, [self._row(one) for one in found.select(kept).listed()])

    def _after(self, update: int) -> int:
        """When the next `samples_every` updates begin."""
        return update + self._every - (update - 1) % self._every

    def _row(self, one: Completion) -> dict[str, object]:
        ids, example = one.example.target_ids, self._examples.named(one.example.id)
        return {
            "id": example.id,
            "prompt": prompt_text(example, self._tokenizer, self._chat),
            "origin": one.origin,
            "written": self._decoder.text(one.content_ids).strip(),
            "tokens": len(ids),
            "finished": one.finished,
            "reference": example.target,
            "reward": one.reward,
            "sampled_at_update": one.sampled_at_update,
        }
