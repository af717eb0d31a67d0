"""How long the parts of a run take here: some of each is done, and all of it is counted.

    updates      whole ones of the recipe on batches of its epoch, after its largest batches;
                 counted in padded positions of all batches to come, the optimizer's step in updates
    scores       of some sequences, written to a temporary folder; counted in positions
    dev          of some examples, then of more; what more of them added is counted for the rest
    evaluation   all of it but speed for a few examples and then for more; speed from its rounds

Seconds are of this machine, as busy as it is meanwhile, and of the student as it is: outputs that
become shorter or longer change them. Nothing is learned and nothing is kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from seqdistill.assembly.data import epoch_batches, read_split
from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.sequences import build_source
from seqdistill.assembly.teachers import live_teacher, stand_in_scores, wanted_scores
from seqdistill.core.phases import PHASES, PhaseClock
from seqdistill.core.progress import NoProgress
from seqdistill.data.dataset import EncodedDataset
from seqdistill.evaluation.dev import Ranks
from seqdistill.evaluation.speed import ROUNDS, WARM_UP, sentences_of_round
from seqdistill.evaluation.systems import evaluate_system
from seqdistill.jobs.evaluate import evaluation_settings
from seqdistill.jobs.systems import has_start, with_generator
from seqdistill.jobs.training import dev_generator, dev_scorer
from seqdistill.models.loading import LoadedModel
from seqdistill.objectives.observation import weights_of_update
from seqdistill.records.results import START
from seqdistill.records.temporary import temporary_folder
from seqdistill.sources.completions import SequenceSource
from seqdistill.teachers.in_process import Teacher
from seqdistill.teachers.keeping_scores import make_scores
from seqdistill.teachers.kept_scores import is_finished
from seqdistill.training.optimization import StudentLoss, make_optimizer

_LEAST, _MOST, _SECONDS = 2, 12, 6.0
"""Updates that are timed: so many, as long as these seconds are not over."""
_COUNTED = 400
"""Batches of the epoch whose mean size is taken for all."""
_SCORED = 64
"""Sequences whose teacher's scores are timed."""
_FEW, _OF_DEV, _OF_TEST = 8, 128, 32
"""Examples that are timed: the fewest, and the most of dev and of the test set."""
_ENOUGH = 3.0
"""Seconds after which no more examples are timed."""


@dataclasses.dataclass(frozen=True)
class RunSeconds:
    """Seconds of a run from its first label to its last update, and of its evaluation."""

    labels: float
    scores: float
    """Of the teacher, to be kept."""
    updates: Mapping[str, float]
    """By phase, see `core.phases`."""
    dev: float
    """Of all scores on dev."""
    evaluation: float = 0.0

    @classmethod
    def summed(cls, parts: Sequence[RunSeconds]) -> RunSeconds:
        """Of runs one after another."""
        phases = {phase for part in parts for phase in part.updates}
        return cls(
            sum(part.labels for part in parts),
            sum(part.scores for part in parts),
            {name: sum(p.updates.get(name, 0.0) for p in parts) for name in phases},
            sum(part.dev for part in parts),
            sum(part.evaluation for part in parts),
        )

    @property
    def training(self) -> float:
        """All but the evaluation."""
        return self.labels + self.scores + sum(self.updates.values()) + self.dev

    def __str__(self) -> str:
        of_updates = ", ".join(
            f"{PHASES[name]} {seconds / 60:.1f}"
            for name, seconds in sorted(self.updates.items())
            if seconds >= 0.02 * self.training
        )
        parts = {
            "labels": self.labels,
            "teacher's scores": self.scores,
            f"updates ({of_updates})": sum(self.updates.values()),
            "dev scores": self.dev,
        }
        told = ", ".join(f"{name} {s / 60:.1f}" for name, s in parts.items() if s)
        return (
            f"about {self.training / 60:.1f} minutes on this machine as it is now, measured on "
            f"some of all: {told}"
        )


def spread_places(size: int, count: int) -> list[int]:
    """Up to `count` places from all over so many."""
    number = min(count, size)
    return [place * size // number for place in range(number)]


def of_all(seconds_of: Callable[[int], float], size: int, *, most: int) -> float:
    """Seconds for all of `size` examples, from those for a few and then for more, `most` at most:
    what more of them added is what each of the rest adds."""
    few = min(_FEW, size)
    first = seconds_of(few)
    if first < _ENOUGH:
        first = seconds_of(few)  # the first call was slow
    number, last = few, first
    while number < min(size, most) and last < _ENOUGH:
        number = min(4 * number, size, most)
        last = seconds_of(number)
    added = (last - first) / (number - few) if number > few else first / few
    return last + max(0.0, added) * (size - number)


def update_seconds(prepared: Prepared, device: torch.device) -> dict[str, float]:
    """Seconds of all of the recipe's updates by phase, see `core.phases`; dev scores and
    checkpoints are none of them, nor is what the teacher says where that is kept."""
    trial = _Trial(prepared, device)
    for examples in _largest_batches(prepared):  # first, for the memory that they take
        source = build_source(prepared, examples)
        source.begin_update(1, prepared.recipe.training.steps)
        trial.update(source, 1, PhaseClock(device.type))
    clock, count = PhaseClock(device.type), 0
    source = build_source(prepared, prepared.train, clock=clock)
    clock.start({})
    began = time.perf_counter()
    while count < _LEAST or (count < _MOST and time.perf_counter() - began < _SECONDS):
        count += 1
        source.begin_update(count, prepared.recipe.training.steps)
        trial.update(source, prepared.recipe.training.gradient_accumulation_steps, clock)
    trial.copied()
    measured, training = clock.seconds(), prepared.recipe.training
    if prepared.recipe.teacher.keeps_scores:
        measured.pop("teacher")
    sizes = _batch_sizes(prepared)
    seen = sizes[: count * training.gradient_accumulation_steps]
    larger = float(np.mean(sizes) / np.mean(seen))
    return {
        phase: seconds / count * training.steps * (1.0 if phase == "optimizer" else larger)
        for phase, seconds in measured.items()
    }


class _Trial:
    """What updates the student at a rate of 0: it stays what it is."""

    def __init__(self, prepared: Prepared, device: torch.device) -> None:
        self._prepared, self._device = prepared, device
        self._loss = StudentLoss(prepared.adapted, prepared.objective).to(device)
        self._teacher: Teacher = live_teacher(prepared, device)
        # Its moments take memory; the rate is 0, so that what is measured stays the student.
        self._optimizer = make_optimizer(self._loss, prepared.recipe.training)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        self._loss.train()

    def update(self, source: SequenceSource, micro_batches: int, clock: PhaseClock) -> None:
        """One update of the next batches, as the training loop does it."""
        prepared, batches = self._prepared, source.batches(micro_batches)
        for _ in range(micro_batches):
            with clock.phase("data"):
                batch = next(batches).to(self._device)
            with clock.phase("teacher"), self._autocast():
                scores = self._teacher.score(batch)
                if prepared.recipe.teacher.sparse_form is not None:
                    scores = stand_in_scores(prepared, batch)
            with clock.phase("forward_loss"), self._autocast():
                weights = None
                if over_update := prepared.objective.over_update:
                    measured = self._loss.measured(batch, scores)
                    (weights,) = weights_of_update(over_update, [measured])
                total, *_ = self._loss(batch, scores, weights)
            with clock.phase("backward"):
                torch.autograd.backward(total)
                total.item()  # waits for a GPU
        with clock.phase("optimizer"):
            gradients = [p.grad for p in self._loss.parameters() if p.grad is not None]
            torch.nn.utils.get_total_norm(gradients)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def copied(self) -> None:
        """Takes the memory that saving does: a state is copied whole before it is written."""
        moments = [value for state in self._optimizer.state.values() for value in state.values()]
        kept = [*self._loss.parameters(), *(m for m in moments if isinstance(m, Tensor))]
        _ = [tensor.detach().cpu().clone() for tensor in kept]

    def _autocast(self) -> torch.autocast:
        enabled = self._prepared.precision == "bf16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)


def _largest_batches(prepared: Prepared) -> list[EncodedDataset]:
    """Of an epoch's batches the one with most tokens, padding included, and the longest."""
    batches = epoch_batches(prepared.recipe, prepared.train, prepared.student.kind)
    lengths = prepared.train.lengths
    wide, long = ((0, 0), [0]), ((0, 0), [0])
    while batches.epoch == 0:
        found = list(batches.next())
        source = int(max(lengths.source[found].max(), lengths.teacher_source[found].max()))
        target = int(lengths.target[found].max())
        tokens = len(found) * (source + target)
        wide = max(wide, ((tokens, source + target), found))
        long = max(long, ((source + target, tokens), found))
    return [prepared.train.select(found) for _, found in (wide, long)]


def _batch_sizes(prepared: Prepared) -> list[float]:
    """Padded positions of the first batches of the training."""
    training = prepared.recipe.training
    batches = epoch_batches(prepared.recipe, prepared.train, prepared.student.kind)
    count = min(_COUNTED, training.steps * training.gradient_accumulation_steps)
    lengths, sizes = prepared.train.lengths, list[float]()
    for _ in range(max(count, _MOST * training.gradient_accumulation_steps)):
        found = batches.next()
        sizes.append(len(found) * float(lengths.source[found].max() + lengths.target[found].max()))
    return sizes


def score_seconds(prepared: Prepared) -> float:
    """Seconds of keeping what the teacher says of all sequences; none where that is there, or
    where nothing is kept."""
    keeps = prepared.recipe.teacher.keeps_scores and prepared.asks_teacher
    if not keeps or prepared.teacher is None:
        return 0.0
    wanted = wanted_scores(prepared, prepared.train)
    if is_finished(wanted.folder):
        return 0.0
    sample = prepared.train.select(spread_places(len(prepared.train), _SCORED))
    part = dataclasses.replace(wanted, examples=sample)
    with temporary_folder() as folder:
        keeping = dataclasses.replace(part, folder=folder / "scores").keeping(NoProgress())
        began = time.perf_counter()
        make_scores(keeping)
        seconds = time.perf_counter() - began
    return seconds * _positions(prepared.train) / _positions(sample)


def _positions(examples: EncodedDataset) -> int:
    return int(examples.lengths.source.sum() + examples.lengths.target.sum())


def dev_seconds(prepared: Prepared) -> float:
    """Seconds of one score on dev, of a student whose outputs are as long as the references; 0
    where there is no dev."""
    if not (size := len(prepared.dev)):
        return 0.0
    recipe, longest = prepared.recipe, max(len(one.target_ids) for one in prepared.dev)
    evaluation = recipe.evaluation.model_copy(
        update={"max_new_tokens": min(recipe.evaluation.max_new_tokens, max(1, longest))}
    )
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    prepared = dataclasses.replace(prepared, recipe=recipe)
    decode = dev_generator(prepared)

    def seconds_of(count: int) -> float:
        places = spread_places(size, count)
        part = dataclasses.replace(
            prepared,
            dev=prepared.dev.select(places),
            dev_references=tuple(prepared.dev_references[place] for place in places),
        )
        score = dev_scorer(part, decode, Ranks())
        assert score is not None, "there is dev"
        began = time.perf_counter()
        prepared.adapted.eval()
        score(prepared.adapted.module)
        return time.perf_counter() - began

    return of_all(seconds_of, size, most=_OF_DEV)


@dataclasses.dataclass(frozen=True)
class _SystemSeconds:
    """Of one system: made ready to decode, measured on the test set, and of a sentence."""

    loading: float
    measuring: float
    greedy: float
    beam: float


def evaluation_seconds(prepared: Prepared, num_students: int = 1) -> float:
    """Seconds of `evaluate`, of students whose outputs are as long as the references: teacher,
    start and students, and their speed in turns; 0 without a test set. Starting, paired tests and
    int8 copies are not in it."""
    recipe = prepared.recipe
    if recipe.data.test is None:
        return 0.0
    student = _system_seconds(prepared, prepared.student, longest=True)
    tested = [student] * num_students
    if recipe.teacher.other_model is not None and prepared.teacher is not None:
        tested.append(_system_seconds(prepared, prepared.teacher))
    measured = tested + [student] * has_start(recipe)
    size = len(read_split(recipe, "test"))
    speed = sum(one.loading for one in tested)  # once more
    for mode in ("greedy", "beam"):
        each = [getattr(one, mode) for one in tested]
        speed += ROUNDS * sum(each) * (min(size, sentences_of_round(each)) + min(size, WARM_UP))
    return sum(one.loading + one.measuring for one in measured) + speed


def _system_seconds(
    prepared: Prepared, pair: LoadedModel, *, longest: bool = False
) -> _SystemSeconds:
    """With `longest` outputs end where the longest reference does."""
    recipe = prepared.recipe
    examples = read_split(recipe, "test")
    settings = evaluation_settings(recipe, examples, pair.kind)
    began = time.perf_counter()
    # The start's faults are not told: nobody has trained it yet.
    system = with_generator(START, pair, "", recipe, examples, 0, None)
    loading, size = time.perf_counter() - began, len(system.examples)
    if longest:
        limit = max(1, *(len(example.target_ids) for example in system.examples))
        most = min(settings.section.max_new_tokens, limit)
        section = settings.section.model_copy(update={"max_new_tokens": most})
        settings = dataclasses.replace(settings, section=section)
    of_modes = {"greedy": 0.0, "beam": 0.0}

    def seconds_of(count: int) -> float:
        places = spread_places(size, count)
        part = dataclasses.replace(system, examples=[system.examples[place] for place in places])
        began = time.perf_counter()
        references = [examples[place].target or "" for place in places]
        found = evaluate_system(part, references, settings, teacher=None)
        for mode in of_modes:
            of_modes[mode] = getattr(found, mode).seconds / count
        return time.perf_counter() - began

    return _SystemSeconds(loading, of_all(seconds_of, size, most=_OF_TEST), **of_modes)
