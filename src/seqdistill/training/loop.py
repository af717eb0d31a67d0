"""The training loop: batch, teacher, student, objective, one division, one update.

    for each update:
        for each micro-batch:  source -> batch -> teacher's scores -> student's loss as a TokenSum
                               (of all first what token weights over the update look at)
                               backward of the total (not of a mean)
        gradients / global count     the only division: any split of a batch gives the same update
        clip, step, keep pruned weights at zero; skipped, and counted, where nothing had a weight
        now and then: score dev, look for a collapse, save a checkpoint, keep the best students

It does not know where sequences come from, what a divergence is, which weights should be pruned, or
how dev is scored. One process or many, it is the same: whole, copied (DDP) or in shards (FSDP2).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.compression.pruning import PruningMask
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import NonFiniteLossError, UserError
from seqdistill.core.generators import derived_seed
from seqdistill.core.phases import PhaseClock, mean_seconds
from seqdistill.core.progress import Progress
from seqdistill.core.scores import TeacherScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.metrics.corpus_metrics import score_key_of
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import Precision
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Weights, weights_of_update
from seqdistill.recipe.schema import TrainingSection
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.sources.completions import SequenceSource
from seqdistill.teachers.in_process import Teacher
from seqdistill.training.alarms import Alarm, CollapseWatch
from seqdistill.training.checkpoint import (
    BestStudents,
    LoopState,
    checkpoint_to_resume,
    load_state,
    optimizer_tensors,
    random_states,
    save_state,
)
from seqdistill.training.optimization import (
    StudentLoss,
    learning_rate,
    make_optimizer,
)
from seqdistill.training.processes import (
    StepStats,
    all_gather_object,
    broadcast_from_main,
    gather_weights,
    over_processes,
    prepare,
    scatter_weights,
    whole,
)
from seqdistill.training.telling import DEV, Telling

_LOG = logging.getLogger(__name__)

DevScorer = Callable[[PreTrainedModel], Mapping[str, float]]
"""Scores the live student on dev, all processes together; the keys become metrics `dev_<key>`."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a training was, or is so far: counters, best dev scores, seconds of training itself."""

    updates: int
    tokens: int
    seconds: float
    best: tuple[tuple[float, int], ...]
    stopped_early: bool
    skipped_updates: int
    """Of the updates, those in which no position had a weight: the optimizer did not move."""
    stopped_by: str | None = None
    """The alarm that ended it early, where one did."""


_CLIP_EPSILON = 1e-6
"""What torch adds to a norm: up to the limit less this, clipping multiplies by 1."""
_Snapshot = tuple[LoopState, list[dict[str, Tensor]]]
"""The loop at some moment: counters, and the random states of every process."""
_Scored = tuple[SequenceBatch, TeacherScores]
_Seen = tuple[Sequence[str], Tensor, dict[str, TokenSum]]
"""Example ids, total and parts of a micro-batch, to be named if its loss was not finite."""


@dataclasses.dataclass(kw_only=True, eq=False)
class TrainingLoop:
    """One student's training. `run` returns when it is done; `model` has its final weights.

    Under FSDP2 what is trained is a sharded twin of `model`, which stays whole for sampling, dev
    scores and checkpoints: a copy of the weights on each process, gathered for each of these. Where
    the source samples from it (`samples_student`), that is before every update, and it stays on the
    device; else it waits in the memory of the CPU.
    """

    model: SequenceModel
    source: SequenceSource
    teacher: Teacher
    objective: WeightedObjective
    mask: PruningMask
    settings: TrainingSection
    precision: Precision
    eval_metric: str
    seed: int
    accelerator: Accelerator
    run_directory: RunDirectory
    progress: Progress
    score_dev: DevScorer | None = None
    samples_student: bool = False
    references: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What `settings.alarms` compare the student's outputs with: see `CollapseWatch`."""
    clock: PhaseClock = dataclasses.field(default_factory=PhaseClock)

    def __post_init__(self) -> None:
        model, settings, accelerator = self.model, self.settings, self.accelerator
        self._is_main: bool = accelerator.is_main_process
        self._folder = self.run_directory.checkpoints_path
        self._best = BestStudents(
            self._folder, keep=settings.keep_best, score_key=score_key_of(self.eval_metric)
        )
        self._micro_batches = settings.gradient_accumulation_steps
        self._state = LoopState(micro_batches=self._micro_batches * accelerator.num_processes)
        self._saved_at = 0
        self._last = settings.steps
        self._telling = Telling(accelerator, self.run_directory, self.progress, self.clock)
        self._watch = CollapseWatch(
            settings.alarms,
            self.references,
            after=settings.warmup,
            prefix="" if self.samples_student else DEV,
        )
        self._is_sharded: bool = accelerator.is_fsdp2
        if settings.gradient_checkpointing:
            model.module.gradient_checkpointing_enable({"use_reentrant": False})
        if self._is_sharded:
            self._trained = copy.deepcopy(model)
        else:
            self._trained = model.to(accelerator.device)
        loss = self._unwrapped = StudentLoss(self._trained, self.objective)
        self._loss, self._optimizer = prepare(loss, make_optimizer(loss, settings), accelerator)
        if self._is_sharded and self.samples_student:
            model.to(accelerator.device)

    def run(self, *, resume: Resume, until: int | None = None) -> TrainingResult:
        """Trains to the end, from a checkpoint when `resume` and there is one.

        Pauses after the update `until`, of which there is a checkpoint then; resumed, it is the run
        that it would have been.
        """
        self._last = min(until or self.settings.steps, self.settings.steps)
        rank = self.accelerator.process_index
        torch.manual_seed(derived_seed(self.seed, f"dropout/rank-{rank}"))
        if resume:
            self._resume(resume)
        self.clock.start(self._state.phases)
        self._telling.begin(self._state, self.settings.steps)
        # A run that was interrupted while it scored dev has that before it.
        stopped = self._evaluate_and_save() if self._dev_is_due() else self._stops_early()
        while self._state.update < self._last and not stopped:
            self._step()
            stopped = self._evaluate_and_save()
        self._telling.end(self._state)
        ended = stopped or self._state.update == self.settings.steps
        with self._whole_student():
            if self._state.best and ended:
                self._best.restore(self.model, self._state, average=self.settings.average_best)
        self.model.eval()
        return TrainingResult(
            self._state.update,
            self._state.tokens,
            self._state.seconds,
            tuple(self._state.best),
            stopped,
            self._state.skipped,
            self._state.stopped_by,
        )

    def _resume(self, resume: Resume) -> None:
        accelerator = self.accelerator
        path, refused = None, None
        if self._is_main:
            try:
                path = checkpoint_to_resume(self._folder, resume)
            except UserError as error:
                refused = error
        path, refused = broadcast_from_main((path, refused), accelerator)
        if refused is not None:
            raise refused
        if path is not None:
            self._state = load_state(
                path,
                model=self.model,
                mask=self.mask,
                features=self.objective.features,
                teacher=self.teacher,
                optimizer=self._optimizer,
                device=accelerator.device,
                rank=accelerator.process_index,
            )
            if self._is_sharded:
                scatter_weights(self.model, self._trained)
            self._share_out()
            self.objective.load_state_dict(self._state.objective)
            self._watch.load_state_dict(self._state.alarms)
            self._saved_at = self._state.update
        # Without a checkpoint training starts anew, and so do its metrics.
        if self._is_main:
            self.run_directory.go_back_to(self._state.metrics)
        _LOG.info("resumed at update %d", self._state.update)

    def _share_out(self) -> None:
        """Takes this process's part of the checkpoint's sources, and of its micro-batches.

        Of another number of processes an update keeps its micro-batches where they can be shared
        out evenly. What a source remembers is the same for all.
        """
        count, wanted = self.accelerator.num_processes, self._state.micro_batches
        sources = self._state.sources
        self.source.load_state_dict(sources[self.accelerator.process_index % len(sources)])
        if wanted % count == 0:
            self._micro_batches = wanted // count
        else:
            _LOG.warning(
                "an update was made of %d micro-batches, which %d processes cannot share out "
                "evenly; going on with %d for each",
                wanted,
                count,
                self._micro_batches,
            )

    @contextlib.contextmanager
    def _whole_student(self) -> Iterator[None]:
        """While open, `model` has the present weights and is on the device. Collective."""
        if self._is_sharded:
            self.model.to(self.accelerator.device)
            gather_weights(self._trained, self.model)
        yield
        if self._is_sharded and not self.samples_student:
            self.model.to("cpu")

    def _step(self) -> None:
        started = time.perf_counter()
        update, steps = self._state.update + 1, self.settings.steps
        if self._is_sharded and self.samples_student:
            with self.clock.phase("rollout"):
                gather_weights(self._trained, self.model)
        # To walk through all modules takes as long as the loss of a small student.
        if not (self._trained.training and self._trained.module.training):
            self._loss.train()
        rate = learning_rate(self.settings, update)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        logged = update % self.settings.log_every == 0 or update == steps
        self.source.begin_update(update, steps)
        self.objective.begin_update(update, steps, logged=logged)
        stats = self._accumulate()
        self.objective.end_update(stats.parts)
        self.source.learned(stats.parts)
        norm = None
        with self.clock.phase("optimizer"):
            if self.objective.learns_from(stats.parts):
                norm = self._divide_and_clip(stats.loss.count)
                self._optimizer.step()
                self.mask.enforce(self._optimizer)
                self.teacher.student_updated(update)
            else:  # a step would move by what the optimizer remembers, and decay
                self._state.skipped += 1
            self._optimizer.zero_grad(set_to_none=True)
        self._state.update = update
        self._state.tokens += int(stats.num_targets)
        self._state.padded += int(stats.padding.total)
        self._state.positions += int(stats.padding.count)
        self._state.seconds += time.perf_counter() - started
        if logged:
            self._telling.metrics(self._state, stats, rate, norm)
        if self.samples_student:
            self._raise_alarms(self._watch.add(update, {**stats.parts, **stats.source}))
        self._telling.update(stats, skipped=norm is None)

    def _accumulate(self) -> StepStats:
        """Gradients of the totals of all micro-batches, and their sums over all processes."""
        loss, parts = TokenSum.zero(), dict[str, TokenSum]()
        num_targets, seen = torch.zeros((), dtype=torch.long), list[_Seen]()
        padding = TokenSum.zero()
        for index, (batch, scores, weights) in enumerate(self._weighed()):
            last = index == self._micro_batches - 1
            sync = contextlib.nullcontext() if last else self.accelerator.no_sync(self._loss)
            with sync:
                with self.clock.phase("forward_loss"), self._autocast():
                    total, count, sums = self._loss(batch, scores, weights)
                with self.clock.phase("backward"):
                    self.accelerator.backward(total)
            found = TokenSum(total, count).detached()
            named = {name: TokenSum(*part) for name, part in sums.items()}
            seen.append((batch.example_ids, found.total, named))
            loss = loss + found
            num_targets = num_targets + batch.target_mask.sum()
            padding = padding + batch.padding
            for name, part in named.items():
                parts[name] = parts.get(name, TokenSum.zero()) + part
        own = StepStats(loss, parts, self.source.end_update(), num_targets, padding)
        stats = over_processes(own, self.accelerator)
        if not math.isfinite(stats.loss.total):
            self._refuse_non_finite(seen)
        return stats

    def _autocast(self) -> torch.autocast:
        kind, enabled = self.accelerator.device.type, self.precision == "bf16"
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)

    def _scored(self) -> Iterator[_Scored]:
        """The update's micro-batches, one after the other, with what the teacher says."""
        batches = self.source.batches(self._micro_batches)
        for _ in range(self._micro_batches):
            with self.clock.phase("data"):
                batch = next(batches).to(self.accelerator.device, non_blocking=True)
            with self.clock.phase("teacher"), self._autocast():
                scores = self.teacher.score(batch)
            yield batch, scores

    def _weighed(self) -> Iterator[tuple[SequenceBatch, TeacherScores, Weights | None]]:
        """The same with the token weights that depend on all of them, in all processes."""
        chosen = self.objective.over_update
        if not chosen:
            yield from ((batch, scores, None) for batch, scores in self._scored())
            return
        scored = list(self._scored())
        with self.clock.phase("forward_loss"), self._autocast():
            own = [self._unwrapped.measured(batch, scores).cpu() for batch, scores in scored]
        everyone = all_gather_object(own)
        every = [each for of_process in everyone for each in of_process]
        if not all(math.isfinite(each.total) for each in every):
            name = ", ".join(weight.member.name for weight in chosen)
            ids = (batch.example_ids for batch, _ in scored)
            sums = (TokenSum(each.total, torch.ones(())) for each in own)
            self._refuse_non_finite(
                [(of, found.total, {name: found}) for of, found in zip(ids, sums, strict=True)]
            )
        rank = self.accelerator.process_index
        first = sum(len(of_process) for of_process in everyone[:rank])
        found = weights_of_update(chosen, every)[first : first + len(own)]
        device = self.accelerator.device
        for (batch, scores), weights in zip(scored, found, strict=True):
            yield batch, scores, {one: each.to(device) for one, each in weights.items()}

    def _refuse_non_finite(self, seen: Sequence[_Seen]) -> None:
        """Raises, on every process alike, an error that names the first micro-batch at fault."""
        told = None
        for ids, total, parts in seen:
            if told is None and not math.isfinite(total):
                names = [name for name, part in parts.items() if not math.isfinite(part.total)]
                told = (
                    f"the term {', '.join(names) or 'sum'} is {float(total)} for the examples "
                    f"{', '.join(ids[:5])} (first of {len(ids)})"
                )
        first = next((one for one in all_gather_object(told) if one is not None), "the sum is not")
        raise NonFiniteLossError(
            f"The loss must be finite, but at update {self._state.update + 1} {first}. Lower "
            "training.learning_rate, use training.precision=fp32, or look at these examples."
        )

    def _divide_and_clip(self, count: Tensor) -> float:
        """The norm of the gradient before it was clipped, of the weights that are not pruned."""
        trained = list(self._unwrapped.parameters())
        gradients = [p.grad for p in trained if p.grad is not None]
        # Gradients are of totals; processes average theirs, which the factor undoes.
        torch._foreach_mul_(gradients, self.accelerator.num_processes / max(float(count), 1.0))
        self.mask.zero_gradients()
        found = torch.nn.utils.get_total_norm(gradients)
        norm = float(whole(found))
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"The gradient must be finite, but at update {self._state.update + 1} its norm is "
                f"{norm} although the loss is finite. Lower training.learning_rate or use "
                "training.precision=fp32."
            )
        if norm + _CLIP_EPSILON > (limit := self.settings.max_grad_norm):
            torch.nn.utils.clip_grads_with_norm_(trained, limit, found)
        return norm

    def _raise_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Tells of them, and ends the run where it says so."""
        state = self._state
        self._telling.alarms(state, alarms)
        if alarms and self.settings.alarms.action == "stop":
            state.stopped_by = state.stopped_by or alarms[0].text(state.update)
        state.alarms = self._watch.state_dict()

    def _dev_is_due(self) -> bool:
        """Whether dev should be scored after this update, and was not yet."""
        update, every = self._state.update, self.settings.eval_every
        if self.score_dev is None or update in (0, self._state.scored_at):
            return False
        return update == self.settings.steps or bool(every and update % every == 0)

    def _evaluate_and_save(self) -> bool:
        """Score dev and save where they are due; True when training should stop early."""
        update, every = self._state.update, self.settings.checkpoint_every
        if self.score_dev is not None and self._dev_is_due():
            unscored = self._snapshot()
            with self.clock.phase("evaluation"), self._whole_student():
                try:
                    self._evaluate(self.score_dev)
                except BaseException:
                    # Hours of training outlive a dev score that cannot be had; shards would have to
                    # be gathered from processes that may be gone.
                    if not self._is_sharded:
                        self._save(unscored)
                    raise
        stop = self._stops_early()
        if update == self._last or stop or (every and update % every == 0):
            with self.clock.phase("checkpoint"):
                self._save(self._snapshot())
                self.accelerator.wait_for_everyone()
        return stop

    def _evaluate(self, score_dev: DevScorer) -> None:
        state = self._state
        self.model.eval()
        scores = dict(score_dev(self.model.module))
        if self._is_main:
            state.dev_scores = scores
            is_best = self._best.offer(self.model, scores[self.eval_metric], state)
            self._telling.dev(state, scores, is_best=is_best)
            if not self.samples_student:
                watched = {DEV + name: value for name, value in scores.items()}
                self._raise_alarms(self._watch.look(state.update, watched))
            state.evaluations_without_best = 0 if is_best else state.evaluations_without_best + 1
            state.scored_at = state.update
        self._state = broadcast_from_main(state, self.accelerator)
        self.source.dev_scored(self._state.dev_scores)

    def _stops_early(self) -> bool:
        patience, state = self.settings.patience, self._state
        impatient = patience is not None and state.evaluations_without_best >= patience
        return impatient or state.stopped_by is not None

    def _snapshot(self) -> _Snapshot:
        """All that is to be saved but for tensors in shards. Every process has to take part."""
        state = dataclasses.replace(
            self._state,
            sources=all_gather_object(self.source.state_dict()),
            objective=self.objective.state_dict(),
            metrics=self.run_directory.logs_so_far() if self._is_main else {},
            micro_batches=self._micro_batches * self.accelerator.num_processes,
            phases=mean_seconds(all_gather_object(self.clock.seconds())),
        )
        return state, all_gather_object(random_states(self.accelerator.device))

    def _save(self, snapshot: _Snapshot) -> None:
        """Saves a checkpoint, by the main process, if there is none of this update already.

        There is one where a run was interrupted as it scored dev: it stays as it is.
        """
        state, random_by_rank = snapshot
        if self._saved_at == state.update or not (self._is_main or self._is_sharded):
            return
        with self._whole_student():
            remembered = optimizer_tensors(self._optimizer, keep=self._is_main)
            if self._is_main:
                save_state(
                    self._folder,
                    model=self.model,
                    mask=self.mask,
                    features=self.objective.features.state_dict(),
                    teacher=self.teacher.state_dict(),
                    optimizer=remembered,
                    state=state,
                    random_by_rank=random_by_rank,
                )
                self._best.clean(state)
        self._saved_at = state.update
