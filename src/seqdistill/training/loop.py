"""The training loop: batch, teacher, student, objective, one division, one update.

    for each update:
        for each micro-batch:  source -> batch -> teacher's scores, student's states -> TokenSum
                               backward of the total (not of a mean)
        gradients / global count     the only division: any split of a batch gives the same update
        clip, step, now and then: score dev, save a resumable state, keep the best students

It does not know who writes sequences, what a divergence is, or how dev is scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import NonFiniteLossError
from seqdistill.core.generators import derived_seed
from seqdistill.core.progress import Progress
from seqdistill.core.scores import TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.sources.stored import SequenceSource
from seqdistill.teachers.in_process import Teacher
from seqdistill.training.checkpoint import (
    BestStudents,
    LoopState,
    load_state,
    newest_state,
    save_state,
)
from seqdistill.training.optimization import RateSchedule, make_optimizer

_LOG = logging.getLogger(__name__)
DevScorer = Callable[[PreTrainedModel], Mapping[str, float]]
"""Scores the live student on dev; the keys become metrics `dev_<key>`."""


@runtime_checkable
class Objective(Protocol):
    """A weighted sum of divergences as a total and a count, and its unweighted parts."""

    def __call__(
        self, states: StudentStates, scores: TeacherScores, batch: SequenceBatch
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        """The loss of a micro-batch and its parts by name."""


@runtime_checkable
class MetricsLog(Protocol):
    """Where numbers go while training."""

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Record the values measured at a step."""

    def forget_metrics_after(self, step: int) -> int:
        """Remove what was recorded later than `step`; it will be measured again."""


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, how fast, how often. The recipe's `training` section explains each."""

    updates: int
    accumulation: int
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


class TrainingLoop:
    """One student's training. `run` returns when it is done; the student has its final weights."""

    def __init__(
        self,
        *,
        model: SequenceModel,
        source: SequenceSource,
        teacher: Teacher,
        objective: Objective,
        settings: LoopSettings,
        accelerator: Accelerator,
        folder: Path,
        metrics: MetricsLog,
        progress: Progress,
        score_dev: DevScorer | None = None,
    ) -> None:
        self._student = model
        self._source = source
        self._teacher = teacher
        self._objective = objective
        self._settings = settings
        self._accelerator = accelerator
        self._folder = folder
        self._metrics = metrics
        self._progress = progress
        self._score_dev = score_dev
        self._best = BestStudents(folder, keep=settings.keep_best)
        self._state = LoopState()
        self._wrapped: nn.Module = accelerator.prepare_model(model)
        self._optimizer = make_optimizer(
            model,
            beta1=settings.adam_beta1,
            beta2=settings.adam_beta2,
            weight_decay=settings.weight_decay,
        )

    def run(self, *, resume: bool) -> TrainingResult:
        """Trains to the end, from the newest saved state when `resume` and there is one."""
        torch.manual_seed(
            derived_seed(self._settings.seed, f"dropout/rank-{self._accelerator.process_index}")
        )
        if resume:
            self._resume()
        self._progress.start("training", self._settings.updates)
        self._progress.advance(self._state.update)
        stopped = self._stops_early()
        while self._state.update < self._settings.updates and not stopped:
            self._step()
            stopped = self._look_up_from_work()
        self._progress.finish()
        if self._state.best:
            self._best.restore(self._student, self._state, average=self._settings.average_best)
        self._student.eval()
        return TrainingResult(
            self._state.update,
            self._state.tokens,
            self._state.seconds,
            tuple(self._state.best),
            stopped,
        )

    def _resume(self) -> None:
        path = newest_state(self._folder)
        if path is None:
            return
        self._state = load_state(
            path,
            model=self._student,
            optimizer=self._optimizer,
            device=self._accelerator.device,
        )
        self._source.load_state_dict(self._state.source)
        if self._accelerator.is_main_process:
            self._metrics.forget_metrics_after(self._state.update)
        _LOG.info("resumed at update %d", self._state.update)

    @property
    def resumed_update(self) -> int:
        """How many updates are done."""
        return self._state.update

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(
            self._accelerator.device.type,
            dtype=torch.bfloat16,
            enabled=self._settings.precision == "bf16",
        )

    def _step(self) -> None:
        started = time.perf_counter()
        update = self._state.update + 1
        self._student.train()
        rate = self._settings.schedule.rate(update)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, parts = self._accumulate()
        count = self._accelerator.reduce(loss.count, reduction="sum")
        norm = self._divide_and_clip(count)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._state.update = update
        self._state.tokens += int(count) if count else 0
        self._state.seconds += time.perf_counter() - started
        if update % self._settings.log_every == 0 or update == self._settings.updates:
            self._log(update, loss, parts, rate, norm)
        self._progress.advance(1, f"loss {loss.mean:.3f}")

    def _accumulate(self) -> tuple[TokenSum, dict[str, TokenSum]]:
        total, parts = TokenSum.zero(), dict[str, TokenSum]()
        for index in range(self._settings.accumulation):
            batch = self._source.next_batch().to(self._accelerator.device)
            last = index == self._settings.accumulation - 1
            sync = contextlib.nullcontext() if last else self._accelerator.no_sync(self._wrapped)
            with sync:
                with self._autocast():
                    scores = self._teacher.score(batch)
                    hidden = hidden_states(self._wrapped, batch)
                    states = StudentStates(hidden, self._student.head)
                    loss, named = self._objective(states, scores, batch)
                self._refuse_non_finite(loss, named, batch)
                self._accelerator.backward(loss.total)
            total = total + loss.detached()
            for name, part in named.items():
                parts[name] = parts.get(name, TokenSum.zero()) + part.detached()
        return total, parts

    def _refuse_non_finite(
        self, loss: TokenSum, parts: Mapping[str, TokenSum], batch: SequenceBatch
    ) -> None:
        if math.isfinite(float(loss.total.detach())):
            return
        bad = [name for name, part in parts.items() if not math.isfinite(float(part.total))]
        raise NonFiniteLossError(
            f"The loss must be finite, but at update {self._state.update + 1} the term "
            f"{', '.join(bad) or 'sum'} is {float(loss.total.detach())} for the examples "
            f"{', '.join(batch.example_ids[:5])} (first of {batch.num_sequences}). Lower "
            "training.learning_rate, use training.precision=fp32, or look at these examples."
        )

    def _divide_and_clip(self, count: Tensor) -> float:
        # Gradients are of totals; processes average theirs, which the factor undoes.
        factor = self._accelerator.num_processes / max(float(count), 1.0)
        gradients = [p.grad for p in self._student.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, factor)
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self._student.parameters() if p.requires_grad],
            self._settings.max_grad_norm,
        )
        return float(norm)

    def _log(
        self, update: int, loss: TokenSum, parts: Mapping[str, TokenSum], rate: float, norm: float
    ) -> None:
        values: dict[str, object] = {
            "loss_nats": loss.mean,
            **{name: part.mean for name, part in parts.items()},
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": self._state.tokens,
            "seconds": round(self._state.seconds, 3),
        }
        if self._accelerator.is_main_process:
            self._metrics.log_metrics(update, values)

    def _look_up_from_work(self) -> bool:
        """Score dev and save a state where they are due; True when training should stop early."""
        update, last = self._state.update, self._state.update == self._settings.updates
        every = self._settings.eval_every
        if self._score_dev is not None and (last or (every and update % every == 0)):
            self._evaluate(self._score_dev)
        stop = self._stops_early()
        every = self._settings.checkpoint_every
        if last or stop or (every and update % every == 0):
            self._save()
        return stop

    def _evaluate(self, score_dev: DevScorer) -> None:
        self._student.eval()
        scores = dict(score_dev(self._student.module)) if self._accelerator.is_main_process else {}
        shared = [scores]
        if self._accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(shared)
        scores = shared[0]
        self._state.dev_scores = scores
        if self._accelerator.is_main_process:
            self._metrics.log_metrics(
                self._state.update, {f"dev_{name}": value for name, value in scores.items()}
            )
            is_best = self._best.offer(
                self._student, scores[self._settings.eval_metric], self._state
            )
            self._state.evaluations_without_best = (
                0 if is_best else self._state.evaluations_without_best + 1
            )
        if self._accelerator.num_processes > 1:
            counters = [(self._state.best, self._state.evaluations_without_best)]
            torch.distributed.broadcast_object_list(counters)
            self._state.best, self._state.evaluations_without_best = counters[0]

    def _stops_early(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._state.evaluations_without_best >= patience

    def _save(self) -> None:
        self._state.source = self._source.state_dict()
        if self._accelerator.is_main_process:
            save_state(
                self._folder,
                model=self._student,
                optimizer=self._optimizer,
                state=self._state,
                device=self._accelerator.device,
            )
            self._best.clean(self._state)
        self._accelerator.wait_for_everyone()
