"""What a recipe would do, before it does it: data, sizes, and measured memory and times.

A little of everything is done: labels, scores on dev, and updates of the largest batches of an
epoch with an optimizer whose rate is 0. The memory is then the peak of this very process, libraries
included. Nothing is written and nothing is learned.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from seqdistill.assembly.corpus import asked_of, wanted_corpus
from seqdistill.assembly.data import counted_train, read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.assembly.preparing import Prepared, prepare, teacher_is_asked
from seqdistill.assembly.sequences import build_source, with_rollout_engine
from seqdistill.assembly.teachers import (
    check_kept_scores,
    live_teacher,
    scores_bytes,
    stand_in_scores,
)
from seqdistill.compression.layers import parameter_count
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.evaluation.dev import Ranks
from seqdistill.jobs.label import planned_labels, spread
from seqdistill.jobs.logs import peak_memory_mb
from seqdistill.jobs.preflight import preflight, shown_row
from seqdistill.jobs.rollout_engine import rollout_engine_for
from seqdistill.jobs.run_folders import open_run
from seqdistill.jobs.training import dev_generator, dev_scorer
from seqdistill.models.placement import device_of, use_fast_attention
from seqdistill.objectives.observation import weights_of_update
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder, trainings
from seqdistill.report.numbers import size
from seqdistill.training.optimization import StudentLoss, make_optimizer

_NUM_SCORED, _FIRST = 32, 8
"""Examples of dev that are timed, and of them those that are timed alone."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe would do. Seconds are extrapolated from what was timed on this machine."""

    methods: tuple[str, ...]
    target_tokens: int
    updates: int
    warmup: int
    tokens_per_update: float
    memory_mb: float
    """The peak of this process after it has done a little of everything."""
    seconds_per_method: float
    guessed_targets: int
    """How many examples have no target yet, so that its length is guessed."""
    data: Mapping[str, str]
    """Facts about the data, by their labels."""
    models: Mapping[str, str]
    """Facts about the models, by their labels."""
    dev_scores: str | None
    """How often dev is scored, and how long that takes."""
    dev_seconds: float
    """Of one score on dev."""
    main_metric: str
    """The first that outputs are judged by."""
    stages: tuple[str, ...] = ()
    """What each stage of a chain will be."""
    output_dir: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) pairs for display."""
        guessed = f" (estimated for {self.guessed_targets:,} without a target yet)"
        minutes = self.seconds_per_method * len(self.methods) / 60
        epochs = self.updates * self.tokens_per_update / self.target_tokens
        lines = {
            "would write to": self.output_dir,
            "methods": ", ".join(self.methods),
            **{f"stage {number}": words for number, words in enumerate(self.stages, start=1)},
            **self.data,
            "target tokens": f"{self.target_tokens:,}{guessed if self.guessed_targets else ''}",
            "updates": f"{self.updates:,} of about {self.tokens_per_update:,.0f} target tokens",
            "warm-up": f"{self.warmup:,} updates",
            "epochs": f"{epochs:.2f}",
            **self.models,
            "memory": f"about {self.memory_mb / 1024:.1f} GiB, measured: this process did the "
            "largest batches, libraries and dev scores included",
            "training time": f"about {minutes:.1f} minutes on this machine, from timed batches; "
            "without labelling, dev scores and evaluation",
        }
        if self.dev_scores is not None:
            lines["dev scores"] = self.dev_scores
        return list(lines.items())


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe, chain or comparison. Raises UserError for whatever would not work."""
    open_run(recipe, resume=False)
    if recipe.stages:
        planned = _plan_of_chain(recipe)
    else:
        members = trainings(recipe)
        # The most expensive member speaks for all: one whose student writes, or asks the teacher.
        chosen = max(members, key=lambda m: (m.sequences.rolls_out, teacher_is_asked(m)))
        labelled = next((m for m in members if m.sequences.decoded_by_teacher), chosen)
        planned = _plan_of_one(chosen, labelled=labelled)
        planned = dataclasses.replace(planned, methods=tuple(m.method for m in members))
    return dataclasses.replace(planned, output_dir=str(output_folder(recipe)))


def _plan_of_one(recipe: Recipe, *, labelled: Recipe | None = None) -> Plan:
    """The plan of one training of one student; outputs not yet written are as long as their
    sources, or as they may get. `labelled` is the recipe whose teacher writes, if another."""
    prepared = prepare(recipe)
    preflight(prepared)  # for what it refuses and warns of
    check_kept_scores(prepared)
    data = _data_facts(prepared, labelled or recipe)
    num_guessed = int((prepared.train.lengths.target == 0).sum())
    sequences = recipe.sequences
    writing = sequences.rollouts if sequences.rolls_out else sequences.decoding
    guessed = with_placeholder_targets(prepared.train, max_tokens=writing.max_new_tokens)
    prepared = _at_once(dataclasses.replace(prepared, train=guessed))
    device = device_of(recipe.training.device)
    use_fast_attention(prepared.student.model, device)
    if (writes_with := rollout_engine_for(prepared, device)) is not None:
        prepared = with_rollout_engine(prepared, writes_with.name)
        data |= {"rollouts by": str(writes_with)} if writes_with.seconds else {}
    seconds = _training_seconds(prepared, device)
    dev_seconds = _dev_seconds(prepared)
    return Plan(
        methods=(recipe.method,),
        target_tokens=int(prepared.train.lengths.counted.sum()),
        updates=recipe.training.steps,
        warmup=recipe.training.warmup,
        tokens_per_update=_tokens_per_update(prepared),
        memory_mb=peak_memory_mb(),
        seconds_per_method=seconds,
        guessed_targets=num_guessed,
        data=data,
        models=_model_facts(prepared),
        dev_scores=_dev_scores(prepared, dev_seconds) if prepared.dev else None,
        dev_seconds=dev_seconds,
        main_metric=prepared.judging.metrics[0],
    )


def _data_facts(prepared: Prepared, labelled: Recipe) -> dict[str, str]:
    recipe, train = prepared.recipe, prepared.train
    left_out = f"{prepared.num_too_long:,} left out as too long"
    facts = {"train examples": f"{counted_train(train, recipe.data)} ({left_out})"}
    for split, name in (("dev", recipe.data.dev), ("test", recipe.data.test)):
        facts[f"{split} examples"] = "none"
        if name is not None:
            size = len(prepared.dev) if split == "dev" else len(read_split(recipe, "test"))
            facts[f"{split} examples"] = f"{size:,} of {name}"
    served = labelled.sequences.decoding.engine == "server"
    if labelled.sequences.decoded_by_teacher and (served or prepared.teacher is not None):
        planned = []
        for one, part in asked_of(labelled, prepared.train_examples):
            teacher = build_teacher(one) if recipe.teacher.members else prepared.teacher
            teacher = None if served else teacher
            planned.append(planned_labels(wanted_corpus(one, teacher, part)))
        facts["teacher's labels"] = "; ".join(planned)
    facts |= dict(shown_row(prepared, train))
    return {**facts, "source tokens": f"{int(train.lengths.source.sum()):,}"}


def _model_facts(prepared: Prepared) -> dict[str, str]:
    recipe, teacher, mask = prepared.recipe, prepared.teacher, prepared.mask
    facts = {
        "judged by": str(prepared.judging),
        "student parameters": f"{parameter_count(prepared.student.model):,}",
    }
    if recipe.pruning.sparsity is not None:
        kept = f"{mask.num_kept:,} of {mask.num_weights:,} weights are kept"
        facts["pruning"] = f"{recipe.pruning.scheme}, {kept}"
    sizes = {id(one.model): f"{parameter_count(one.model):,}" for one in prepared.teachers}
    on_server = "on a server, whose time is not in the plan" if recipe.teacher.on_server else "none"
    facts["teacher parameters"] = " + ".join(sizes.values()) or on_server
    if recipe.teacher.keeps_scores:
        form, num_bytes = scores_bytes(prepared)
        made = f"at most {size(num_bytes)} on disk, made once"
        facts["teacher's scores"] = f"{form}: {made if teacher else 'on disk'}"
    if device_of(recipe.training.device).type == "cuda":
        facts["GPU memory"] = f"{torch.cuda.max_memory_reserved() / 2**20:,.0f} MB"
    return facts


def _plan_of_chain(recipe: Recipe) -> Plan:
    """All stages as one plan; the first of them describes the data.

    Every stage starts from the chain's first weights, which have the same shape and vocabulary.
    """
    stages = trainings(recipe)
    plans = [_plan_of_one(stage) for stage in stages]
    updates = sum(planned.updates for planned in plans)
    tokens = sum(planned.updates * planned.tokens_per_update for planned in plans)
    models = {label: text for label, text in plans[0].models.items() if label != "pruning"}
    sized = []
    for stage in stages:
        share = stage.pruning.sparsity
        pruned = "" if share is None else f", {share:.1%} of the weights pruned"
        others = "" if stage.data.unlabelled is None else ", data.unlabelled among its examples"
        sized.append(f"{stage.method}: {stage.training.steps:,} updates{pruned}{others}")
    return dataclasses.replace(
        plans[0],
        methods=(recipe.method,),
        updates=updates,
        tokens_per_update=tokens / updates,
        memory_mb=max(planned.memory_mb for planned in plans),
        seconds_per_method=sum(planned.seconds_per_method for planned in plans),
        models=models,  # pruning is said of each stage
        stages=tuple(sized),
    )


def _batches(prepared: Prepared) -> EpochBatches:
    return EpochBatches(
        prepared.train,
        prepared.student.kind,
        batch_tokens=prepared.recipe.training.batch_tokens,
        seed=prepared.recipe.seed,
    )


def _tokens_per_update(prepared: Prepared) -> float:
    """The mean number of tokens that an update learns, over the first batches."""
    batches = _batches(prepared)
    counted = prepared.train.lengths.counted
    sizes = [int(counted[batches.next()].sum()) for _ in range(50)]
    return prepared.recipe.training.gradient_accumulation_steps * sum(sizes) / len(sizes)


def _dev_seconds(prepared: Prepared) -> float:
    """How long one score on dev takes: a fixed part and one for each example."""
    if not (size := len(prepared.dev)):
        return 0.0
    seconds = [_seconds_of_dev(prepared, count) for count in (_FIRST, _NUM_SCORED)]
    each = max(0.0, (seconds[1] - seconds[0]) / (_NUM_SCORED - _FIRST))
    return seconds[1] + each * max(0, size - _NUM_SCORED)


def _dev_scores(prepared: Prepared, once: float) -> str:
    training, size = prepared.recipe.training, len(prepared.dev)
    times = math.ceil(training.steps / training.eval_every) if training.eval_every else 1
    return (
        f"{times:,} times about {once:.0f} seconds, so about {times * once / 60:.1f} minutes, from "
        f"{min(size, _NUM_SCORED)} examples that were timed"
    )


def _seconds_of_dev(prepared: Prepared, count: int) -> float:
    part = dataclasses.replace(
        prepared,
        dev=EncodedDataset.of(spread(prepared.dev, count)),
        dev_references=tuple(spread(prepared.dev_references, count)),
    )
    score = dev_scorer(part, dev_generator(part), Ranks())
    began = time.perf_counter()
    prepared.adapted.eval()
    if score is not None:
        score(prepared.adapted.module)
    return time.perf_counter() - began


def _training_seconds(prepared: Prepared, device: torch.device) -> float:
    """Seconds of all batches; of kept scores the teacher makes each example's once."""
    training = prepared.recipe.training
    teacher, student = _seconds_a_batch(prepared, device)
    num_batches = training.steps * training.gradient_accumulation_steps
    if not prepared.recipe.teacher.keeps_scores:
        return num_batches * (teacher + student)
    num_tokens = int(prepared.train.lengths.counted.sum())
    batches_an_epoch = (
        training.gradient_accumulation_steps * num_tokens / _tokens_per_update(prepared)
    )
    return num_batches * student + batches_an_epoch * teacher


def _largest_batches(prepared: Prepared) -> list[EncodedDataset]:
    """Of an epoch's batches the one with most tokens, padding included, and the longest."""
    batches, lengths = _batches(prepared), prepared.train.lengths
    wide, long = ((0, 0), [0]), ((0, 0), [0])
    while batches.epoch == 0:
        found = list(batches.next())
        source = int(max(lengths.source[found].max(), lengths.teacher_source[found].max()))
        target = int(lengths.target[found].max())
        tokens = len(found) * (source + target)
        wide = max(wide, ((tokens, source + target), found))
        long = max(long, ((source + target, tokens), found))
    return [prepared.train.select(found) for _, found in (wide, long)]


def _at_once(prepared: Prepared) -> Prepared:
    """With sequences that training waits for, where a process would write them ahead: at most as
    fast. Where a server would, which is not asked, with those of transformers."""
    recipe = prepared.recipe
    if recipe.sequences.rollouts.engine == "vllm":
        prepared = with_rollout_engine(prepared, "transformers")
    if recipe.sequences.origin == "near_policy":
        sequences = prepared.recipe.sequences.model_copy(update={"origin": "student"})
        recipe = prepared.recipe.model_copy(update={"sequences": sequences})
        prepared = dataclasses.replace(prepared, recipe=recipe)
    return prepared


def _seconds_a_batch(prepared: Prepared, device: torch.device) -> tuple[float, float]:
    """Seconds of the teacher's scores, and of the student's passes with what it writes: of each the
    fastest of some batches of the epoch. The largest come first, for the memory that they take."""
    loss = StudentLoss(prepared.adapted, prepared.objective).to(device)
    teacher = live_teacher(prepared, device)
    # Its moments take memory; the rate is 0, so that what is measured stays the student.
    optimizer = make_optimizer(loss, prepared.recipe.training)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    updates = prepared.recipe.training.steps
    bf16 = prepared.precision == "bf16"
    fastest = (math.inf, math.inf)
    every = [*_largest_batches(prepared), prepared.train]
    sources = [build_source(prepared, examples) for examples in every]
    loss.train()
    for number, source in enumerate((*sources, sources[-1], sources[-1]), start=1):
        began = time.perf_counter()
        source.begin_update(number, updates)
        batch = source.next_batch().to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            started = time.perf_counter()
            scores = teacher.score(batch)
            scored = time.perf_counter()
            if prepared.recipe.teacher.sparse_form is not None:
                scores = stand_in_scores(prepared, batch)
            weights = None
            if over_update := prepared.objective.over_update:
                (weights,) = weights_of_update(over_update, [loss.measured(batch, scores)])
            total, *_ = loss(batch, scores, weights)
        torch.autograd.backward(total)
        total.item()  # waits for a GPU
        ended = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if source is sources[-1]:
            writes = prepared.recipe.sequences.rolls_out
            student = ended - scored + (started - began if writes else 0)
            fastest = (min(fastest[0], scored - started), min(fastest[1], student))
    # As saving does: a state is copied whole before it is written.
    moments = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*loss.parameters(), *(m for m in moments if isinstance(m, Tensor))]
    _ = [tensor.detach().cpu().clone() for tensor in kept]
    return fastest
