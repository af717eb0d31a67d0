"""How large a share of the sequences the student writes, as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from seqdistill.core.errors import RecipeError
from seqdistill.core.schedules import Schedule


@runtime_checkable
class Share(Protocol):
    """A share in [0, 1] that may follow the run's progress or its dev scores."""

    def value(self, update: int, updates: int) -> float:
        """The share at `update`, counted from 1, of a run of `updates`."""

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """The student's dev scores, whenever there are new ones."""

    def state_dict(self) -> dict[str, Any]:
        """What it has learned from dev scores, as JSON knows it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""


class ScheduledFraction:
    """A share that is a function of progress alone."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def value(self, update: int, updates: int) -> float:
        """The schedule's value."""
        return self._schedule.value(update, updates)

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Nothing: progress alone decides."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


class AdaptiveShare:
    """A share that is raised by `step` whenever dev's loss is worse by at least `threshold` nats.

    Worse than it was at the last raise, and until there is one, than the first dev loss, which is
    only remembered. So losses that creep up add up, and one that fell first has that far to go. The
    share never falls, and stays at `most`.

    Source: more of the student's sequences when dev gets worse is the paper's idea (Ko et al. 2024,
    DistiLLM, sec. 3.2, adaptive off-policy). Step, threshold and what the loss is compared with are
    its code's; there the first loss is measured before training, here at the first dev score.
    """

    def __init__(
        self, *, start: float = 0.0, step: float = 0.1, threshold: float = 0.1, most: float = 1.0
    ) -> None:
        self._share = start
        self._step = step
        self._threshold = threshold
        self._most = most
        self._previous: float | None = None

    def value(self, update: int, updates: int) -> float:
        """The share as dev has left it."""
        return self._share

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Raises the share where it is due. Raises RecipeError for scores without a loss."""
        if "loss_nats" not in scores:
            raise RecipeError(
                "An adaptive student_fraction must be told dev's loss, but the dev scores are "
                f"{', '.join(sorted(scores)) or 'none'}; give dev data with targets, or a share "
                "that follows a schedule"
            )
        loss = float(scores["loss_nats"])
        if self._previous is None:
            self._previous = loss
        elif loss >= self._previous + self._threshold:
            self._share = min(self._most, self._share + self._step)
            self._previous = loss

    def state_dict(self) -> dict[str, Any]:
        """The share and the dev loss that others are compared with: the last raise's."""
        return {"share": self._share, "previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._share, self._previous = state["share"], state["previous"]
