"""The training loop: batch, teacher, student, objective, one division, one update.

    for each update:
        for each micro-batch:  source -> batch -> teacher's scores, student's states -> TokenSum
                               backward of the total (not of a mean)
        gradients / global count     the only division: any split of a batch gives the same update
        clip, step, keep pruned weights at zero
        now and then: score dev, save a resumable state, keep the best students

It does not know who writes sequences, what a divergence is, which weights should be pruned, or how
dev is scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from seqdistill.compression.pruning_mask import PruningMask
from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import NonFiniteLossError
from seqdistill.core.generators import derived_seed
from seqdistill.core.progress import Progress
from seqdistill.core.token_sum import TokenSum
from seqdistill.metrics.corpus_metrics import score_key_of
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.models.dropout import evaluation_mode, has_dropout
from seqdistill.sources.source import SequenceSource
from seqdistill.teachers.in_process import Teacher
from seqdistill.training.checkpoint import (
    BestStudents,
    LoopState,
    load_state,
    newest_whole_state,
    random_states,
    save_state,
)
from seqdistill.training.contracts import (
    DevScorer,
    LoopSettings,
    MetricsLog,
    Objective,
    TrainingResult,
)
from seqdistill.training.note import Note, dev_line
from seqdistill.training.optimization import make_optimizer
from seqdistill.training.processes import (
    StepStats,
    all_gather_object,
    broadcast_from_main,
    joined,
    over_processes,
)

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """The loop at some moment: counters, and the random states of every process."""

    state: LoopState
    random_by_rank: Sequence[Mapping[str, Tensor]]


class TrainingLoop:
    """One student's training. `run` returns when it is done; the student has its final weights."""

    def __init__(
        self,
        *,
        model: SequenceModel,
        source: SequenceSource,
        teacher: Teacher,
        objective: Objective,
        mask: PruningMask,
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
        self._mask = mask
        self._settings = settings
        self._accelerator = accelerator
        self._folder = folder
        self._metrics = metrics
        self._progress = progress
        self._score_dev = score_dev
        self._best = BestStudents(
            folder,
            keep=settings.keep_best,
            score_key=score_key_of(settings.eval_metric),
        )
        self._state = LoopState()
        self._saved_at = 0
        self._note = Note()
        self._timed_to = (0, 0.0)  # tokens and seconds that a logged speed has told of
        self._wrapped = joined(model, accelerator)
        self._drops_out = has_dropout(model)
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
        self._timed_to = (self._state.tokens, self._state.seconds)
        self._progress.start("training", self._settings.updates)
        self._progress.advance(self._state.update)
        # A run that was interrupted while it scored dev has that before it.
        stopped = self._evaluate_and_save() if self._dev_is_due() else self._stops_early()
        while self._state.update < self._settings.updates and not stopped:
            self._step()
            stopped = self._evaluate_and_save()
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
        is_main = self._accelerator.is_main_process
        path = broadcast_from_main(
            newest_whole_state(self._folder) if is_main else None, self._accelerator
        )
        if path is not None:
            self._state = load_state(
                path,
                model=self._student,
                mask=self._mask,
                optimizer=self._optimizer,
                device=self._accelerator.device,
                rank=self._accelerator.process_index,
                num_processes=self._accelerator.num_processes,
            )
            self._source.load_state_dict(self._state.sources[self._accelerator.process_index])
            self._objective.load_state_dict(self._state.objective)
            self._saved_at = self._state.update
        # Without a state training starts anew, and so do its metrics.
        if is_main:
            self._metrics.load_state_dict(self._state.metrics)
        _LOG.info("resumed at update %d", self._state.update)

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
        logged = update % self._settings.log_every == 0 or update == self._settings.updates
        self._source.begin_update(update, self._settings.updates)
        self._objective.begin_update(update, self._settings.updates, logged=logged)
        work = over_processes(self._accumulate(), self._accelerator)
        self._objective.end_update(work.parts)
        self._divide(work.loss.count)
        norm = self._clip()
        self._optimizer.step()
        self._mask.enforce(self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        self._state.update = update
        self._state.tokens += work.num_targets
        self._state.seconds += time.perf_counter() - started
        if logged:
            self._log(work, rate, norm)
        self._note.add(work)
        self._progress.advance(1, self._note.text)

    def _accumulate(self) -> StepStats:
        total, parts, num_targets = TokenSum.zero(), dict[str, TokenSum](), 0
        for index in range(self._settings.gradient_accumulation_steps):
            batch = self._source.next_batch().to(self._accelerator.device)
            last = index == self._settings.gradient_accumulation_steps - 1
            sync = contextlib.nullcontext() if last else self._accelerator.no_sync(self._wrapped)
            with sync:
                with self._autocast():
                    scores = self._teacher.score(batch)
                    hidden = hidden_states(self._wrapped, batch)
                    states = StudentStates(hidden, self._student.head)
                    eval_states = self._as_writer(batch)
                    loss, named = self._objective(states, scores, batch, eval_states)
                self._refuse_non_finite(loss, named, batch)
                self._accelerator.backward(loss.total)
            total = total + loss.detached()
            num_targets += batch.num_targets
            for name, part in named.items():
                parts[name] = parts.get(name, TokenSum.zero()) + part.detached()
        return StepStats(total, parts, self._source.end_update(), num_targets)

    @torch.no_grad()
    def _as_writer(self, batch: SequenceBatch) -> StudentStates | None:
        """What the student says with its dropout off; None where that is asked or told already."""
        if not (self._objective.needs_eval_states and self._drops_out):
            return None
        with evaluation_mode(self._student):
            return self._student.states(batch)

    def _refuse_non_finite(
        self, loss: TokenSum, parts: Mapping[str, TokenSum], batch: SequenceBatch
    ) -> None:
        total = loss.total.item()
        if math.isfinite(total):
            return
        bad = [name for name, part in parts.items() if not math.isfinite(part.total.item())]
        raise NonFiniteLossError(
            f"The loss must be finite, but at update {self._state.update + 1} the term "
            f"{', '.join(bad) or 'sum'} is {total} for the examples "
            f"{', '.join(batch.example_ids[:5])} (first of {batch.num_sequences}). Lower "
            "training.learning_rate, use training.precision=fp32, or look at these examples."
        )

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self._student.parameters() if p.requires_grad]

    def _divide(self, count: Tensor) -> None:
        # Gradients are of totals; processes average theirs, which the factor undoes.
        factor = self._accelerator.num_processes / max(float(count), 1.0)
        for parameter in self._trained():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _clip(self) -> float:
        """The norm of the gradient before it was clipped, of the weights that are not pruned."""
        self._mask.zero_gradients()
        trained = self._trained()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self._settings.max_grad_norm))
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"The gradient must be finite, but at update {self._state.update + 1} its norm is "
                f"{norm} although the loss is finite. Lower training.learning_rate or use "
                "training.precision=fp32."
            )
        return norm

    def _log(self, work: StepStats, rate: float, norm: float) -> None:
        values: dict[str, object] = {
            "loss_nats": work.loss.mean,
            **{name: _mean(part) for name, part in (work.parts | work.written).items()},
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": self._state.tokens,
            "seconds": round(self._state.seconds, 3),
            "tokens_per_second": self._tokens_per_second(),
        }
        if self._accelerator.is_main_process:
            self._metrics.log_metrics(self._state.update, values)

    def _tokens_per_second(self) -> float:
        """Targets a second of training, of all processes, since it was last asked for.

        After a resumption first since the state that was taken up. Reports make the same of the
        logged `tokens` and `seconds`, which older runs have too.
        """
        (tokens_before, seconds_before), state = self._timed_to, self._state
        self._timed_to = (state.tokens, state.seconds)
        return (state.tokens - tokens_before) / (state.seconds - seconds_before)

    def _dev_is_due(self) -> bool:
        """Whether dev should be scored after this update, and was not yet."""
        update, every = self._state.update, self._settings.eval_every
        if self._score_dev is None or update in (0, self._state.scored_at):
            return False
        return update == self._settings.updates or bool(every and update % every == 0)

    def _evaluate_and_save(self) -> bool:
        """Score dev and save a state where they are due; True when training should stop early."""
        update, every = self._state.update, self._settings.checkpoint_every
        if self._score_dev is not None and self._dev_is_due():
            unscored = self._snapshot()
            try:
                self._evaluate(self._score_dev)
            except BaseException:
                self._save(unscored)  # hours of training outlive a dev score that cannot be had
                raise
        stop = self._stops_early()
        if update == self._settings.updates or stop or (every and update % every == 0):
            self._save(self._snapshot())
            self._accelerator.wait_for_everyone()
        return stop

    def _evaluate(self, score_dev: DevScorer) -> None:
        state = self._state
        if self._accelerator.is_main_process:
            self._student.eval()
            state.dev_scores = dict(score_dev(self._student.module))
            self._metrics.log_metrics(
                state.update, {f"dev_{name}": value for name, value in state.dev_scores.items()}
            )
            score = state.dev_scores[self._settings.eval_metric]
            is_best = self._best.offer(self._student, score, state)
            self._progress.echo(dev_line(state.update, state.dev_scores, is_best=is_best))
            state.evaluations_without_best = 0 if is_best else state.evaluations_without_best + 1
            state.scored_at = state.update
        self._state = broadcast_from_main(state, self._accelerator)
        self._source.dev_scored(self._state.dev_scores)

    def _stops_early(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._state.evaluations_without_best >= patience

    def _snapshot(self) -> _Snapshot:
        """All that is to be saved but for the weights. Every process has to take part."""
        is_main = self._accelerator.is_main_process
        state = dataclasses.replace(
            self._state,
            sources=all_gather_object(self._source.state_dict()),
            objective=self._objective.state_dict(),
            metrics=self._metrics.state_dict() if is_main else {},
            num_processes=self._accelerator.num_processes,
        )
        return _Snapshot(state, all_gather_object(random_states(self._accelerator.device)))

    def _save(self, snapshot: _Snapshot) -> None:
        """Saves the state, if this process writes and there is none of this update already.

        There is one where a run was interrupted as it scored dev: it stays as it is.
        """
        if not self._accelerator.is_main_process or self._saved_at == snapshot.state.update:
            return
        save_state(
            self._folder,
            model=self._student,
            mask=self._mask,
            optimizer=self._optimizer,
            state=snapshot.state,
            random_by_rank=snapshot.random_by_rank,
        )
        self._saved_at = snapshot.state.update
        self._best.clean(snapshot.state)


def _mean(part: TokenSum) -> float | None:
    """The mean of a part; None of nothing, which is no number that a log can hold."""
    return part.mean if float(part.count) else None
