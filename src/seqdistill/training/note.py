"""What people see of a training while it goes on, in words: loss, reward, dev scores.

For the eye only: the numbers as they are go into the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

from seqdistill.training.processes import StepStats

_KEPT = 0.95
"""Of what was seen before, at each update: the mean of about the last twenty."""


class Note:
    """Moving means of loss and reward since this process began.

    The first updates count as much as they should: the weights of a mean are those that it has.
    """

    def __init__(self) -> None:
        self._weighted: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, stats: StepStats) -> None:
        """One more update."""
        self._learn("loss", stats.loss.mean)
        reward = stats.source.get("reward")
        if reward is not None and float(reward.count):
            self._learn("reward", reward.mean)

    @property
    def text(self) -> str:
        """`loss 3.214`, and of policy gradients `, reward 0.512`."""
        return ", ".join(
            f"{name} {total / self._weights[name]:.3f}" for name, total in self._weighted.items()
        )

    def _learn(self, name: str, value: float) -> None:
        self._weighted[name] = _KEPT * self._weighted.get(name, 0.0) + value
        self._weights[name] = _KEPT * self._weights.get(name, 0.0) + 1.0


def dev_line(update: int, scores: Mapping[str, float], *, is_best: bool) -> str:
    """`dev at update 300: bleu 12.3, loss_nats 2.1 (best so far)`."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    return f"dev at update {update:,}: {shown}{' (best so far)' if is_best else ''}"
