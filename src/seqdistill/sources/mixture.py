"""Two writers, and a coin between them: GKD's lambda, in its papers' three readings.

The prompts are the same whatever the share. Never decides how either of them writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seqdistill.core.generators import derived_seed
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion, CompletionSource, metric_sum
from seqdistill.sources.fractions import Share

Coin = Literal["batch", "example", "both"]


def coin(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    return (derived_seed(seed, name) >> 10) / 2**53


class MixtureSource:
    """A `CompletionSource`: the student where a coin u < share, the other elsewhere.

    `batch`: one coin for the whole batch of an update, so for all its micro-batches on all
    processes (Agarwal et al. 2024, algorithm 1). `example`: one for each prompt (Lin et al. 2020,
    ImitKD). `both`: no coin, every prompt is answered by both (Ko et al. 2025, DistiLLM-2).
    No coin knows its process, and a resumed run needs no state of theirs.

    Facts of `other` are told under names that begin with `other_`.
    """

    def __init__(
        self,
        student: CompletionSource,
        other: CompletionSource,
        share: Share,
        *,
        coin: Coin,
        seed: int,
    ) -> None:
        self._student, self._other = student, other
        self._share_of_student = share
        self._coin: Coin = coin
        self._seed = seed
        self._update, self._share = 0, 0.0
        self._by_student, self._all = 0, 0

    @property
    def sequences_per_prompt(self) -> int:
        """Of the writer of more; of both together with coin `both`."""
        each = (self._student.sequences_per_prompt, self._other.sequences_per_prompt)
        return sum(each) if self._coin == "both" else max(each)

    def begin_update(self, update: int, updates: int) -> None:
        """Looks up the share."""
        self._update = update
        self._share = self._share_of_student.value(update, updates)
        self._by_student, self._all = 0, 0
        self._student.begin_update(update, updates)
        self._other.begin_update(update, updates)

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """First what the student wrote, then what the other did."""
        if self._coin == "both":
            for_student = for_other = list(prompts)
        else:
            for_student = [prompt for prompt in prompts if self._goes_to_student(prompt)]
            for_other = [prompt for prompt in prompts if not self._goes_to_student(prompt)]
        # Both are called for every micro-batch, with nothing if need be, and stay in step.
        written = self._student.write(for_student)
        self._by_student += len(written)
        written = written + self._other.write(for_other)
        self._all += len(written)
        return written

    def _goes_to_student(self, prompt: EncodedExample) -> bool:
        whose = "" if self._coin == "batch" else f"/{prompt.id}"
        return coin(self._seed, f"mixture/update-{self._update}{whose}") < self._share

    def end_update(self) -> dict[str, TokenSum]:
        """The facts of both, `student_fraction` as the recipe has it at this update, and
        `realized_student_share`: what the coins made of it, of the sequences written."""
        others = {f"other_{name}": told for name, told in self._other.end_update().items()}
        return {
            **self._student.end_update(),
            **others,
            "student_fraction": metric_sum(self._share, 1),
            "realized_student_share": metric_sum(self._by_student, self._all),
        }

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Handed on to the share and to both writers."""
        for listener in (self._share_of_student, self._student, self._other):
            listener.dev_scored(scores)

    def state_dict(self) -> dict[str, Any]:
        """Those of both writers and of the share."""
        return {
            "student": self._student.state_dict(),
            "other": self._other.state_dict(),
            "share": self._share_of_student.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._student.load_state_dict(state["student"])
        self._other.load_state_dict(state["other"])
        self._share_of_student.load_state_dict(state["share"])
