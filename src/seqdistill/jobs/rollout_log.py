"""Keeps a few of the sequences that are written while the student trains, as texts to look at."""

from __future__ import annotations

from collections.abc import Sequence

from seqdistill.assembly.data import chat_settings
from seqdistill.assembly.preparing import Prepared
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.data.conversations import prompt_text
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.records.run_directory import RunDirectory
from seqdistill.sources.completions import Completion

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

    def __call__(self, update: int, written: Sequence[Completion]) -> None:
        """Keeps some of what was written, if it is time and the student wrote any of it."""
        if self._next_update is None:
            # Not earlier: a run that is resumed first forgets what it will write again.
            self._next_update = max((self._after(step) for step in self._kept_steps()), default=1)
        kept = _of_many_prompts([one for one in written if one.origin in STUDENT_ORIGINS])
        if update < self._next_update or not kept:
            return
        self._next_update = self._after(update)
        self._run.log_rollouts(update, [self._row(one) for one in kept])

    def _after(self, update: int) -> int:
        """When the next `samples_every` updates begin."""
        return update + self._every - (update - 1) % self._every

    def _kept_steps(self) -> list[int]:
        return [int(str(row["step"])) for row in self._run.read_rollouts()]

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


def _of_many_prompts(written: Sequence[Completion]) -> list[Completion]:
    """The first of each prompt, then the others, as many as are kept."""
    seen: set[str] = set()
    first: list[Completion] = []
    others: list[Completion] = []
    for one in written:
        (others if one.example.id in seen else first).append(one)
        seen.add(one.example.id)
    return [*first, *others][:_NUM_KEPT]
