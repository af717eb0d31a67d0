"""What an update optimizes, with which optimizer, and at which learning rate."""

from __future__ import annotations

import importlib.util
import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from seqdistill.compression.pruning import PruningMask
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import UserError
from seqdistill.core.scores import TeacherScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.dropout import evaluation_mode, has_dropout
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Measured, Weights
from seqdistill.recipe.schema import TrainingSection
from seqdistill.training.processes import layer_classes

Sums = dict[str, tuple[Tensor, Tensor]]
"""Total and count by name; plain tuples, in which the wrappers find the tensors."""


class StudentLoss(nn.Module):
    """(batch, teacher's scores) -> the loss and its parts as sums.

    The student together with its loss is what DDP and FSDP2 wrap, so that both see every parameter:
    nothing outside this forward pass reads one, the head included.
    """

    def __init__(self, model: SequenceModel, objective: WeightedObjective) -> None:
        super().__init__()
        self.model = model
        self.features = objective.features  # whose matrices are trained, too
        self._objective = objective
        self._drops_out = has_dropout(model)
        self._no_split_modules = layer_classes(model)  # read by accelerate

    def forward(
        self, batch: SequenceBatch, scores: TeacherScores, weights: Weights | None = None
    ) -> tuple[Tensor, Tensor, Sums]:
        """The loss's total, which has a gradient, its count, and its parts without one.

        `weights` are those that depend on the whole update.
        """
        eval_states = None
        if self._objective.needs_eval_states and self._drops_out:
            with torch.no_grad(), evaluation_mode(self.model):
                eval_states = self.model.states(batch)
        states = self.model.states(batch, self._objective.student_layers)
        loss, parts = self._objective(states, scores, batch, eval_states, weights)
        sums = {name: part.detached() for name, part in parts.items()}
        return loss.total, loss.count, {n: (part.total, part.count) for n, part in sums.items()}

    @torch.no_grad()
    def measured(self, batch: SequenceBatch, scores: TeacherScores) -> Measured:
        """What such weights look at, of the student with its dropout off."""
        with evaluation_mode(self.model):
            states = self.model.states(batch) if self._objective.measures_student else None
            return self._objective.measured(states, scores, batch)


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


def check_trainable(
    model: SequenceModel, mask: PruningMask, settings: TrainingSection, accelerator: Accelerator
) -> None:
    """Raises UserError for settings that this student cannot be trained with, before it begins."""
    check_optimizer(settings)
    if settings.gradient_checkpointing and not model.module.supports_gradient_checkpointing:
        raise UserError(
            "training.gradient_checkpointing must be left out for models that do not support it, "
            f"such as {type(model.module).__name__}; remove it"
        )
    if accelerator.is_fsdp2 and (mask.num_weights or settings.optimizer == "adamw_8bit"):
        what = "pruning" if mask.num_weights else "training.optimizer=adamw_8bit"
        raise UserError(
            f"training.parallel=fsdp2 must be left out with {what}, which works on whole weights; "
            "use ddp"
        )


def make_optimizer(model: nn.Module, settings: TrainingSection) -> torch.optim.Optimizer:
    """The optimizer of the parameters that are trained; of them only matrices decay.

    AdamW runs in torch's fused kernel; its 8-bit form is that of bitsandbytes; SGD has no momentum.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = settings.weight_decay
    every = [{"params": trained, "weight_decay": 0.0}]  # one group, whose step costs half as much
    if decay > 0.0:
        every = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
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
