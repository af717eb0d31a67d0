"""A fraction that follows the student's dev scores, where a schedule follows progress alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqdistill.core.errors import RecipeError
from seqdistill.core.schedules import Schedule
from seqdistill.sources.source import SourcePart


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
        """Go to where `state_dict` was taken."""
        self._fraction, self._previous = state["fraction"], state["previous"]


Fraction = Schedule | AdaptiveFraction
"""A number in [0, 1] with a `value` at each update."""
