"""What a training will take, measured by doing a little of it: labels, updates, scores on dev.

Updates are those of the largest batches of an epoch, with an optimizer whose rate is 0, so that the
memory of this very process peaks as a training's does. Nothing is written and nothing is learned.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from seqdistill.assembly.corpus import Wanted, label_generator
from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.sequences import build_source
from seqdistill.assembly.teachers import live_teacher
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import EncodedDataset
from seqdistill.evaluation.dev import Ranks
from seqdistill.jobs.training import dev_generator, dev_scorer
from seqdistill.models.loading import LoadedModel
from seqdistill.models.placement import use_fast_attention
from seqdistill.recipe.schema import Recipe
from seqdistill.training.optimization import make_optimizer

Item = TypeVar("Item")

# Enough to fill a batch of every worker, few enough to take seconds.
_NUM_LABELLED, _NUM_SCORED = 48, 32
_FIRST = 8


def _batches(prepared: Prepared) -> EpochBatches:
    return EpochBatches(
        prepared.train,
        prepared.student.kind,
        batch_tokens=prepared.recipe.training.batch_tokens,
        seed=prepared.recipe.seed,
    )


def tokens_per_update(prepared: Prepared) -> float:
    """The mean number of tokens that an update learns, over the first batches."""
    batches = _batches(prepared)
    counted = prepared.train.lengths.counted
    sizes = [int(counted[batches.next()].sum()) for _ in range(50)]
    return prepared.recipe.training.gradient_accumulation_steps * sum(sizes) / len(sizes)


def planned_labels(recipe: Recipe, teacher: LoadedModel, wanted: Wanted) -> str:
    """Whether the labels that are wanted are there; else the time, from a sample of them."""
    if wanted.is_there:
        return wanted.origin
    sources = [example.prompt for example in wanted.sources]
    sample = _spread(sources, _NUM_LABELLED)
    generator = label_generator(recipe, teacher, wanted.sources)
    began = time.perf_counter()
    generator.generate(sample, wanted.settings.decoding)
    seconds = time.perf_counter() - began
    minutes = seconds * sum(map(len, sources)) / max(1, sum(map(len, sample))) / 60
    return f"{wanted.origin}: about {minutes:.1f} minutes, from {len(sample)} that were timed"


def dev_scores(prepared: Prepared) -> str | None:
    """How often dev is scored, and how long once takes: a fixed part and one for each example."""
    training, size = prepared.recipe.training, len(prepared.dev)
    if not size:
        return None
    seconds = [_seconds_of_dev(prepared, count) for count in (_FIRST, _NUM_SCORED)]
    each = max(0.0, (seconds[1] - seconds[0]) / (_NUM_SCORED - _FIRST))
    once = seconds[1] + each * max(0, size - _NUM_SCORED)
    times = math.ceil(training.steps / training.eval_every) if training.eval_every else 1
    return (
        f"{times:,} times about {once:.0f} seconds, so about {times * once / 60:.1f} minutes, from "
        f"{min(size, _NUM_SCORED)} examples that were timed"
    )


def _seconds_of_dev(prepared: Prepared, count: int) -> float:
    part = dataclasses.replace(
        prepared,
        dev=EncodedDataset.of(_spread(prepared.dev, count)),
        dev_references=tuple(_spread(prepared.dev_references, count)),
    )
    score = dev_scorer(part, dev_generator(part), Ranks())
    began = time.perf_counter()
    prepared.adapted.eval()
    if score is not None:
        score(prepared.adapted.module)
    return time.perf_counter() - began


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Up to `count` items from all over the sequence."""
    number = min(count, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def training_seconds(prepared: Prepared, device: torch.device) -> float:
    """Seconds of all batches; of kept states the teacher makes each example's once."""
    training = prepared.recipe.training
    teacher, student = _seconds_a_batch(prepared, device)
    num_batches = training.steps * training.gradient_accumulation_steps
    if prepared.recipe.teacher.cache_hidden_states == "none":
        return num_batches * (teacher + student)
    num_tokens = int(prepared.train.lengths.counted.sum())
    batches_an_epoch = (
        training.gradient_accumulation_steps * num_tokens / tokens_per_update(prepared)
    )
    return num_batches * student + batches_an_epoch * teacher


def _largest_batches(prepared: Prepared) -> list[EncodedDataset]:
    """Of an epoch's batches the one with most tokens, padding included, and the longest."""
    batches, lengths = _batches(prepared), prepared.train.lengths
    wide, long = ((0, 0), [0]), ((0, 0), [0])
    while batches.epoch == 0:
        found = list(batches.next())
        source = int(lengths.source[found].max())
        target = int(lengths.target[found].max())
        tokens = len(found) * (source + target)
        wide = max(wide, ((tokens, source + target), found))
        long = max(long, ((source + target, tokens), found))
    return [prepared.train.select(found) for _, found in (wide, long)]


def _seconds_a_batch(prepared: Prepared, device: torch.device) -> tuple[float, float]:
    """Seconds of the teacher's scores, and of the student's passes with what it writes: of each the
    fastest of some batches of the epoch. The largest come first, for the memory that they take."""
    use_fast_attention(prepared.student.model, device)
    model = prepared.adapted.to(device)
    teacher = live_teacher(prepared, device)
    # Its moments take memory; the rate is 0, so that what is measured stays the student.
    optimizer = make_optimizer(model, prepared.recipe.training)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    updates = prepared.recipe.training.steps
    bf16 = prepared.precision == "bf16"
    fastest = (math.inf, math.inf)
    every = [*_largest_batches(prepared), prepared.train]
    sources = [build_source(prepared, examples) for examples in every]
    model.train()
    for number, source in enumerate((*sources, sources[-1], sources[-1]), start=1):
        began = time.perf_counter()
        source.begin_update(number, updates)
        batch = source.next_batch().to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            started = time.perf_counter()
            scores = teacher.score(batch)
            scored = time.perf_counter()
            loss, _ = prepared.objective(prepared.adapted.states(batch), scores, batch)
        torch.autograd.backward(loss.total)
        loss.total.item()  # waits for a GPU
        ended = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if source is sources[-1]:
            writes = prepared.recipe.sequences.rolls_out
            student = ended - scored + (started - began if writes else 0)
            fastest = (min(fastest[0], scored - started), min(fastest[1], student))
    # As saving does: a state is copied whole before it is written.
    moments = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*model.parameters(), *(m for m in moments if isinstance(m, Tensor))]
    _ = [tensor.detach().cpu().clone() for tensor in kept]
    return fastest
