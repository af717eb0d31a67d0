"""What the training loop asks of others: settings, an objective, a log, dev scores. Runs none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.scores import TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.training.optimization import RateSchedule

DevScorer = Callable[[PreTrainedModel], Mapping[str, float]]
"""Scores the live student on dev; the keys become metrics `dev_<key>`."""


@runtime_checkable
class Objective(Protocol):
    """A weighted sum of divergences as a total and a count, and its unweighted parts.

    Called in this order for every update: `begin_update`, itself once for each micro-batch,
    `end_update`.
    """

    @property
    def needs_eval_states(self) -> bool:
        """Whether this update reads what the student says as it writes, with its dropout off."""

    def begin_update(self, update: int, updates: int, *, logged: bool) -> None:
        """Update number `update` of `updates`, counted from 1, begins; `logged` when its parts are
        written down, so that what is measured only to be looked at is worth its price."""

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The loss of a micro-batch and its parts by name.

        `eval_states` are the student's states with its dropout off, without a gradient; None where
        `states` are those, or nobody reads them.
        """

    def end_update(self, parts: Mapping[str, TokenSum]) -> None:
        """The parts of the whole update, over micro-batches and processes."""

    def state_dict(self) -> dict[str, float]:
        """What it has learned from earlier updates, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""


@runtime_checkable
class MetricsLog(Protocol):
    """Where numbers go while training."""

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Record the values measured at a step."""

    def state_dict(self) -> dict[str, Any]:
        """How much was recorded so far, as JSON knows it, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken, or to the beginning when it is empty: what was
        recorded later is removed, it will be measured again."""


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, how fast, how often. The recipe's `training` section explains each."""

    updates: int
    gradient_accumulation_steps: int
    schedule: RateSchedule
    max_grad_norm: float
    precision: Literal["fp32", "bf16"]
    adam_beta1: float
    adam_beta2: float
    weight_decay: float
    seed: int
    log_every: int
    eval_every: int | None
    eval_metric: str
    keep_best: int
    patience: int | None
    checkpoint_every: int | None
    average_best: bool


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a finished training was: counters, best dev scores, seconds of training itself."""

    updates: int
    tokens: int
    seconds: float
    best: tuple[tuple[float, int], ...]
    stopped_early: bool
