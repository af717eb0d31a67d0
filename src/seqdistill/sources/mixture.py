"""Two origins of sequences, and a coin between them: GKD's lambda, in its papers' three readings.

The prompts are the same whatever the fraction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import derived_seed
from seqdistill.core.schedules import Schedule
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import PromptCompletions, metric_sum
from seqdistill.sources.source import CompletionSource, SourcePart

Coin = Literal["batch", "example", "both"]


def coin(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    return (derived_seed(seed, name) >> 10) / 2**53


class AdaptiveFraction(SourcePart):
    """A fraction that rises by `step` whenever dev's loss is worse by at least `threshold` nats.

    Worse than it was at the last rise, and until there is one, than the first dev loss, which is
    only remembered. So losses that creep up add up, and one that fell first has that far to go. The
    fraction never falls, and stays at `most`.

    Source: more of the student's sequences when dev gets worse is the paper's idea (Ko et al. 2024,
    DistiLLM, sec. 3.2, adaptive off-policy). Step, threshold and what the loss is compared with are
    its code's; there the first loss is measured before training, here at the first dev score.
    """

    def __init__(
        self, *, start: float = 0.0, step: float = 0.1, threshold: float = 0.1, most: float = 1.0
    ) -> None:
        self._fraction = start
        self._step = step
        self._threshold = threshold
        self._most = most
        self._previous: float | None = None

    def value(self, update: int, updates: int) -> float:
        """The fraction as dev has left it."""
        return self._fraction

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Raises the fraction where it is due. Raises RecipeError for scores without a loss."""
        if "loss_nats" not in scores:
            raise RecipeError(
                "An adaptive student_fraction must be told dev's loss, but the dev scores are "
                f"{', '.join(sorted(scores)) or 'none'}; give dev data with targets, or a fraction "
                "that follows a schedule"
            )
        loss = float(scores["loss_nats"])
        if self._previous is None:
            self._previous = loss
        elif loss >= self._previous + self._threshold:
            self._fraction = min(self._most, self._fraction + self._step)
            self._previous = loss

    def state_dict(self) -> dict[str, Any]:
        """The fraction and the dev loss that others are compared with: the last rise's."""
        return {"fraction": self._fraction, "previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._fraction, self._previous = state["fraction"], state["previous"]


Fraction = Schedule | AdaptiveFraction
"""A number in [0, 1] with a `value` at each update."""


class MixtureSource(CompletionSource):
    """The student where a coin u < fraction, the other source elsewhere.

    `batch`: one coin for the whole batch of an update, so for all its micro-batches on all
    processes (Agarwal et al. 2024, algorithm 1). `example`: one for each prompt (Lin et al. 2020,
    ImitKD). `both`: no coin, every prompt is answered by both (Ko et al. 2025, DistiLLM-2).
    No coin knows its process, and a resumed run needs no state of theirs.

    Metrics of `other` have names that begin with `other_`.
    """

    def __init__(
        self,
        student: CompletionSource,
        other: CompletionSource,
        fraction: Fraction,
        *,
        coin: Coin,
        seed: int,
    ) -> None:
        self._student, self._other = student, other
        self._schedule = fraction
        self._coin: Coin = coin
        self._seed = seed
        self._update, self._fraction = 0, 0.0
        self._num_student, self._num_all = 0, 0

    def _parts(self) -> Mapping[str, SourcePart]:
        parts: dict[str, SourcePart] = {"student": self._student, "other": self._other}
        if isinstance(self._schedule, AdaptiveFraction):
            parts["fraction"] = self._schedule
        return parts

    @property
    def sequences_per_prompt(self) -> int:
        """The larger number of the two; of both together with coin `both`."""
        if self._coin == "both":
            return self._student.sequences_per_prompt + self._other.sequences_per_prompt
        return super().sequences_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """Looks up the fraction."""
        self._update = update
        self._fraction = self._schedule.value(update, updates)
        self._num_student, self._num_all = 0, 0
        super().begin_update(update, updates)

    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        """First the student's sequences, then the other's."""
        for_student = for_other = prompts
        if self._coin != "both":
            for_student = [prompt for prompt in prompts if self._goes_to_student(prompt)]
            for_other = [prompt for prompt in prompts if not self._goes_to_student(prompt)]
        # Both are called for every micro-batch, with nothing if need be, and stay in step.
        of_student, of_other = self._student.complete(for_student), self._other.complete(for_other)
        self._num_student += len(of_student)
        self._num_all += len(of_student) + len(of_other)
        return PromptCompletions.concatenated([of_student, of_other])

    def _goes_to_student(self, prompt: EncodedExample) -> bool:
        whose = "" if self._coin == "batch" else f"/{prompt.id}"
        return coin(self._seed, f"mixture/update-{self._update}{whose}") < self._fraction

    def end_update(self) -> dict[str, TokenSum]:
        """The metrics of both, `student_fraction` as the recipe has it at this update, and
        `realized_student_share`: what the coins made of it, of the sequences written."""
        return {
            **self._student.end_update(),
            **{f"other_{name}": value for name, value in self._other.end_update().items()},
            "student_fraction": metric_sum(self._fraction, 1),
            "realized_student_share": metric_sum(self._num_student, self._num_all),
        }
