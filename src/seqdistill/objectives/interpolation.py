"""How the moving target of interpolated_forward_kl moves: the one thing an objective learns.

It knows the mean of its term over a whole update, of all micro-batches and processes, and nothing
of batches or models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass
class InterpolationShare:
    """t, the teacher's share of the target: from `start` to 1, sooner if the loss falls fast.

    After an update with the mean loss l: rel = (l_prev - l) / l_prev; m <- momentum m +
    (1 - momentum) rel; t <- min(1, max(t_lin, t + step sigmoid(m) (1 - t))), where t_lin goes
    linearly from `start` at the first update to 1 at the last. There is no rel after the first
    update, so only t_lin moves t then; an update without sequences of its term leaves t alone but
    for t_lin; l_prev = 0 counts as rel = 0.

    Source: Shing et al. 2025 (TAID), sec. 3.2 and its released code.
    """

    start: float
    step: float
    momentum: float
    share: float = dataclasses.field(init=False)
    trend: float = dataclasses.field(init=False, default=0.0)
    previous_loss: float | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        self.share = self.start

    def learn(self, loss: float, update: int, updates: int) -> None:
        """Moves t after `update`, counted from 1, of `updates`; NaN says that nothing counted."""
        moved = self.share
        if math.isfinite(loss):
            if self.previous_loss is not None:
                fall = self.previous_loss - loss
                relative = fall / self.previous_loss if self.previous_loss > 0.0 else 0.0
                self.trend = self.momentum * self.trend + (1.0 - self.momentum) * relative
                moved += self.step * _sigmoid(self.trend) * (1.0 - self.share)
            self.previous_loss = loss
        done = update / (updates - 1) if updates > 1 else 1.0
        self.share = min(1.0, max(self.start + done * (1.0 - self.start), moved))

    def state_dict(self) -> dict[str, float]:
        """t, m and l_prev, the last only once there is one."""
        state = {"share": self.share, "trend": self.trend}
        return (
            state if self.previous_loss is None else state | {"previous_loss": self.previous_loss}
        )

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""
        self.share, self.trend = state["share"], state["trend"]
        self.previous_loss = state.get("previous_loss")


def _sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without an overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * value))
