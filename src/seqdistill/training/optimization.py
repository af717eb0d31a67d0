"""The optimizer and the learning rate of each update. Knows no loss."""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import nn

from seqdistill.core.errors import UserError
from seqdistill.recipe.schema import TrainingSection


def learning_rate(settings: TrainingSection, update: int) -> float:
    """The learning rate of update number `update`, from 1 to `steps`.

    A linear rise over the warm-up, then the named shape. linear and cosine end at
    `final_rate_fraction` of the peak at the last update; inverse_sqrt falls as 1/sqrt(update).
    """
    peak, warmup, shape = settings.learning_rate, settings.warmup, settings.schedule
    if update <= warmup:
        return peak * update / warmup
    if shape == "constant":
        return peak
    if shape == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / update)
    done = (update - warmup) / max(1, settings.steps - warmup)
    left = 1.0 - done if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    final = settings.final_rate_fraction
    return peak * (final + (1.0 - final) * left)


def check_optimizer(settings: TrainingSection) -> None:
    """Raises UserError where the optimizer's package is not installed."""
    if settings.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "training.optimizer=adamw_8bit needs the package bitsandbytes, which is not installed; "
            "install seqdistill[8bit], or use adamw"
        )


def make_optimizer(model: nn.Module, settings: TrainingSection) -> torch.optim.Optimizer:
    """The optimizer of the parameters that are trained; of them only matrices decay.

    AdamW runs in torch's fused kernel; its 8-bit form is that of bitsandbytes; SGD has no momentum.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    every = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in every if group["params"]]
    # The schedule sets the rate before every update.
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    betas = (settings.adam_beta1, settings.adam_beta2)
    if settings.optimizer == "adamw_8bit":
        check_optimizer(settings)
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=0.0, betas=betas, eps=1e-8)
        return optimizer
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)
