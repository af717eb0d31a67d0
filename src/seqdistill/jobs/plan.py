"""What a recipe would do, before it does it: data, sizes, and measured memory and times.

A little of everything is done, see `costs`. The memory is the peak of this very process before
systems are evaluated, libraries included. Nothing is learned and no run is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch

from seqdistill.assembly.corpus import asked_of, wanted_corpus
from seqdistill.assembly.data import counted_train, epoch_batches, read_split
from seqdistill.assembly.models import build_teacher
from seqdistill.assembly.preparing import Prepared, prepare, teacher_is_asked
from seqdistill.assembly.sequences import with_rollout_engine
from seqdistill.assembly.teachers import check_kept_scores, scores_bytes
from seqdistill.compression.layers import parameter_count
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.jobs.costs import (
    RunSeconds,
    dev_seconds,
    evaluation_seconds,
    score_seconds,
    update_seconds,
)
from seqdistill.jobs.label import planned_labels
from seqdistill.jobs.logs import peak_memory_mb
from seqdistill.jobs.preflight import preflight, shown_row
from seqdistill.jobs.rollout_engine import rollout_engine_for
from seqdistill.jobs.run_folders import open_run
from seqdistill.models.placement import device_of, use_fast_attention
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder, trainings
from seqdistill.report.numbers import size

_NUM_BATCHES = 50
"""By which a mean update is told."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe would do. Seconds are extrapolated from what was timed on this machine."""

    methods: tuple[str, ...]
    target_tokens: int
    updates: int
    warmup: int
    tokens_per_update: float
    """That are learned, of all that answers a prompt."""
    epochs: float
    """How often an example comes, on average."""
    memory_mb: float
    """The peak of this process after it has done a little of everything."""
    seconds: RunSeconds
    guessed_targets: int
    """How many examples have no target yet, so that its length is guessed."""
    data: Mapping[str, str]
    """Facts about the data, by their labels."""
    models: Mapping[str, str]
    """Facts about the models, by their labels."""
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
        lines = {
            "would write to": self.output_dir,
            "methods": ", ".join(self.methods),
            **{f"stage {number}": words for number, words in enumerate(self.stages, start=1)},
            **self.data,
            "target tokens": f"{self.target_tokens:,}{guessed if self.guessed_targets else ''}",
            "updates": f"{self.updates:,} of about {self.tokens_per_update:,.0f} target tokens",
            "warm-up": f"{self.warmup:,} updates",
            "epochs": f"{self.epochs:.2f}",
            **self.models,
            "memory": f"about {self.memory_mb / 1024:.1f} GiB, measured: this process did the "
            "largest batches, libraries and dev scores included",
            "time": str(self.seconds),
        }
        if self.seconds.evaluation:
            minutes = self.seconds.evaluation / 60
            lines["evaluation"] = f"about {minutes:.1f} minutes more, of `evaluate`"
        return list(lines.items())

    @property
    def update_seconds(self) -> float:
        """Of a mean update of one method, on this machine."""
        return sum(self.seconds.updates.values()) / len(self.methods) / self.updates


def plan(recipe: Recipe, *, evaluated: bool = True) -> Plan:
    """The plan of a recipe, chain or comparison, and of its evaluation if there is a test set.

    Raises UserError for whatever would not work.
    """
    open_run(recipe, resume=False)
    if recipe.stages:
        planned = _plan_of_chain(recipe, evaluated=evaluated)
    else:
        members = trainings(recipe)
        # The most expensive member speaks for all: one whose student writes, or asks the teacher.
        chosen = max(members, key=lambda m: (m.sequences.rolls_out, teacher_is_asked(m)))
        labelled = next((m for m in members if m.sequences.decoded_by_teacher), chosen)
        planned = _plan_of_one(chosen, labelled=labelled, trained=len(members), evaluated=evaluated)
        planned = dataclasses.replace(planned, methods=tuple(m.method for m in members))
    return dataclasses.replace(planned, output_dir=str(output_folder(recipe)))


def _plan_of_one(
    recipe: Recipe, *, labelled: Recipe | None = None, trained: int = 1, evaluated: bool
) -> Plan:
    """The plan of so many trainings of one student each, of which this is the most expensive.

    Outputs not yet written are as long as their sources, or as they may get. `labelled` is the
    recipe whose teacher writes, if another.
    """
    prepared = prepare(recipe)
    preflight(prepared)  # for what it refuses and warns of
    check_kept_scores(prepared)
    data, label_time = _data_facts(prepared, labelled or recipe)
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
    training = recipe.training
    updates = {phase: trained * s for phase, s in update_seconds(prepared, device).items()}
    scores, once = score_seconds(prepared), dev_seconds(prepared)
    num_scores = math.ceil(training.steps / training.eval_every) if training.eval_every else 1
    seconds = RunSeconds(label_time, scores, updates, trained * num_scores * once)
    memory_mb = peak_memory_mb()
    if evaluated:
        evaluation = evaluation_seconds(prepared, trained)
        seconds = dataclasses.replace(seconds, evaluation=evaluation)
    tokens, share = _update(prepared)
    return Plan(
        methods=(recipe.method,),
        target_tokens=int(prepared.train.lengths.counted.sum()),
        updates=recipe.training.steps,
        warmup=recipe.training.warmup,
        tokens_per_update=tokens,
        epochs=training.steps * share,
        memory_mb=memory_mb,
        seconds=seconds,
        guessed_targets=num_guessed,
        data=data,
        models=_model_facts(prepared),
        dev_seconds=once,
        main_metric=prepared.judging.metrics[0],
    )


def _data_facts(prepared: Prepared, labelled: Recipe) -> tuple[dict[str, str], float]:
    """Facts about the data, by their labels, and the seconds of labels to be made."""
    seconds, recipe, train = 0.0, prepared.recipe, prepared.train
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
            told, of_teacher = planned_labels(wanted_corpus(one, teacher, part))
            planned.append(told)
            seconds += of_teacher
        facts["teacher's labels"] = "; ".join(planned)
    facts |= dict(shown_row(prepared, train))
    return {**facts, "source tokens": f"{int(train.lengths.source.sum()):,}"}, seconds


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


def _plan_of_chain(recipe: Recipe, *, evaluated: bool) -> Plan:
    """All stages as one plan; the first of them describes the data.

    Every stage starts from the chain's first weights, which have the same shape and vocabulary.
    """
    stages = trainings(recipe)
    plans = [_plan_of_one(s, evaluated=evaluated and s is stages[-1]) for s in stages]
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
        epochs=sum(planned.epochs for planned in plans),
        memory_mb=max(planned.memory_mb for planned in plans),
        seconds=RunSeconds.summed([planned.seconds for planned in plans]),
        models=models,  # pruning is said of each stage
        stages=tuple(sized),
    )


def _update(prepared: Prepared) -> tuple[float, float]:
    """The tokens that an update learns, and its share of an epoch: means of the first ones."""
    recipe, train = prepared.recipe, prepared.train
    batches = epoch_batches(recipe, train, prepared.student.kind)
    first = [batches.next() for _ in range(_NUM_BATCHES)]
    each = recipe.training.gradient_accumulation_steps / len(first)
    tokens = sum(int(train.lengths.counted[batch].sum()) for batch in first)
    return each * recipe.sequences.answers_per_prompt * tokens, each * sum(map(len, first)) / len(
        train
    )


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
