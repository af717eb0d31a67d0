"""The optimizer and the learning rate of each update. Knows no loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["inverse_sqrt", "linear", "cosine", "constant"]


@dataclasses.dataclass(frozen=True)
class RateSchedule:
    """The learning rate of every update, counted from 1.

    A linear rise over `warmup_steps`, then the named shape. linear and cosine end at
    `final_share` of the peak at update `updates`; inverse_sqrt falls as 1/sqrt(update).
    """

    peak: float
    updates: int
    warmup_steps: int
    shape: Schedule
    final_share: float = 0.0

    def rate(self, update: int) -> float:
        """The rate of update number `update`, from 1 to `updates`."""
        if update <= self.warmup_steps:
            return self.peak * update / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        if self.shape == "inverse_sqrt":
            return self.peak * math.sqrt(max(self.warmup_steps, 1) / update)
        done = (update - self.warmup_steps) / max(1, self.updates - self.warmup_steps)
        left = 1.0 - done if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.peak * (self.final_share + (1.0 - self.final_share) * left)


def make_optimizer(
    model: nn.Module, *, beta1: float, beta2: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with torch's fused kernel; only matrices decay, biases and norms do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # the schedule sets it before every update
        betas=(beta1, beta2),
        eps=1e-8,
        fused=True,
    )
