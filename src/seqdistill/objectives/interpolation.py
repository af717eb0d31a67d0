"""How the target of interpolated_forward_kl moves: the state of its term.

It knows the mean of its term over a whole update, of all micro-batches and processes, and nothing
of batches or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from seqdistill.core.families import InterpolatedForwardKL


class InterpolationShare:
    """t, the teacher's share of the target: from its start to 1, sooner if the loss falls fast.

    After an update with the mean loss l: rel = (l_prev - l) / l_prev; m <- momentum m +
    (1 - momentum) rel; t <- min(1, max(t_lin, t + step sigmoid(m) (1 - t))), where t_lin goes
    linearly from the start at the first update to 1 at the last. There is no rel after the first
    update, so only t_lin moves t then; an update without sequences of its term leaves t alone but
    for t_lin; l_prev = 0 counts as rel = 0.

    Source: Shing et al. 2025 (TAID), sec. 3.2 and its released code.
    """

    def __init__(self, parameters: InterpolatedForwardKL) -> None:
        self._parameters = parameters
        self.share = parameters.start_fraction
        self.trend = 0.0
        self.previous_loss: float | None = None

    def arguments(self) -> dict[str, float]:
        """What the divergence is called with: t."""
        return {"share": self.share}

    def logged(self) -> dict[str, float]:
        """t, under a name of its own."""
        return {"interpolation_share": self.share}

    def learn(self, loss: float, update: int, updates: int) -> None:
        """Moves t after `update`, counted from 1, of `updates`; NaN says that nothing counted."""
        given, moved = self._parameters, self.share
        if math.isfinite(loss):
            if self.previous_loss is not None:
                fall = self.previous_loss - loss
                relative = fall / self.previous_loss if self.previous_loss > 0.0 else 0.0
                self.trend = given.momentum * self.trend + (1.0 - given.momentum) * relative
                moved += given.step * _sigmoid(self.trend) * (1.0 - self.share)
            self.previous_loss = loss
        done = update / (updates - 1) if updates > 1 else 1.0
        linear = given.start_fraction + done * (1.0 - given.start_fraction)
        self.share = min(1.0, max(linear, moved))

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
