"""What a recipe would do, before it does it: data, sizes, and measured memory and times.

`measuring` does a little of everything; the memory is then the peak of this very process, libraries
included. Nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from seqdistill.assembly.corpus import wanted_corpus
from seqdistill.assembly.data import read_split
from seqdistill.assembly.objective import build_objective
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.teachers import states_bytes
from seqdistill.compression.layers import parameter_count
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.jobs.measuring import (
    dev_scores,
    planned_labels,
    tokens_per_update,
    training_seconds,
)
from seqdistill.jobs.preflight import preflight, shown_row
from seqdistill.jobs.timings import peak_memory_mb
from seqdistill.jobs.training import open_run
from seqdistill.models.placement import device_of
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import stage_recipe
from seqdistill.recipe.systems import compare_member, output_folder


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
        members = [compare_member(recipe, preset) for preset in recipe.compare] or [recipe]
        # The most expensive member speaks for all: one whose student writes, or asks the teacher.
        chosen = max(members, key=lambda m: (m.sequences.rolls_out, _asks_teacher(m)))
        labelled = next((m for m in members if m.sequences.decoded_by_teacher), chosen)
        planned = _plan_of_one(chosen, labelled=labelled)
        planned = dataclasses.replace(planned, methods=tuple(m.method for m in members))
    return dataclasses.replace(planned, output_dir=str(output_folder(recipe)))


def _asks_teacher(recipe: Recipe) -> bool:
    return recipe.teacher.scores != "none" or build_objective(recipe).needs_teacher


def _plan_of_one(recipe: Recipe, *, labelled: Recipe | None = None) -> Plan:
    """The plan of one training of one student; outputs not yet written are as long as their
    sources, or as they may get. `labelled` is the recipe whose teacher writes, if another."""
    prepared = prepare(recipe)
    preflight(prepared)  # for what it refuses and warns of
    data = _data_facts(prepared, labelled or recipe)
    num_guessed = int((prepared.train.lengths.target == 0).sum())
    prepared = dataclasses.replace(prepared, train=_with_guessed_targets(prepared))
    seconds = training_seconds(prepared, device_of(recipe.training.device))
    scores = dev_scores(prepared)
    return Plan(
        methods=(recipe.method,),
        target_tokens=int(prepared.train.lengths.counted.sum()),
        updates=recipe.training.steps,
        warmup=recipe.training.warmup,
        tokens_per_update=tokens_per_update(prepared),
        memory_mb=peak_memory_mb(),
        seconds_per_method=seconds,
        guessed_targets=num_guessed,
        data=data,
        models=_model_facts(prepared),
        dev_scores=scores,
    )


def _data_facts(prepared: Prepared, labelled: Recipe) -> dict[str, str]:
    recipe, train = prepared.recipe, prepared.train
    left_out = f"{prepared.num_too_long:,} left out as too long"
    facts = {"train examples": f"{len(train):,} ({left_out}) of {recipe.data.train}"}
    for split, name in (("dev", recipe.data.dev), ("test", recipe.data.test)):
        facts[f"{split} examples"] = "none"
        if name is not None:
            size = len(prepared.dev) if split == "dev" else len(read_split(recipe, "test"))
            facts[f"{split} examples"] = f"{size:,} of {name}"
    if labelled.sequences.decoded_by_teacher and prepared.teacher is not None:
        wanted = wanted_corpus(labelled, prepared.teacher, prepared.train_examples)
        facts["teacher's labels"] = planned_labels(labelled, prepared.teacher, wanted)
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
    facts["teacher parameters"] = f"{parameter_count(teacher.model):,}" if teacher else "none"
    keep = recipe.teacher.cache_hidden_states
    if keep != "none" and teacher is not None:
        megabytes = states_bytes(teacher, prepared.train, keep) / 1e6
        facts["teacher's states"] = f"about {megabytes:,.0f} MB on disk in {keep}, made once"
    if device_of(recipe.training.device).type == "cuda":
        facts["GPU memory"] = f"{torch.cuda.max_memory_reserved() / 2**20:,.0f} MB"
    return facts


def _with_guessed_targets(prepared: Prepared) -> EncodedDataset:
    sequences = prepared.recipe.sequences
    writing = sequences.rollouts if sequences.rolls_out else sequences.decoding
    return with_placeholder_targets(prepared.train, max_tokens=writing.max_new_tokens)


def _plan_of_chain(recipe: Recipe) -> Plan:
    """All stages as one plan; the first of them describes the data.

    Every stage starts from the chain's first weights, which have the same shape and vocabulary.
    """
    stages = [stage_recipe(recipe, n, start_from=None) for n in range(len(recipe.stages))]
    plans = [_plan_of_one(stage) for stage in stages]
    updates = sum(planned.updates for planned in plans)
    tokens = sum(planned.updates * planned.tokens_per_update for planned in plans)
    models = {label: text for label, text in plans[0].models.items() if label != "pruning"}
    return dataclasses.replace(
        plans[0],
        methods=(recipe.method,),
        updates=updates,
        tokens_per_update=tokens / updates,
        memory_mb=max(planned.memory_mb for planned in plans),
        seconds_per_method=sum(planned.seconds_per_method for planned in plans),
        models=models,  # pruning is said of each stage
        stages=tuple(_sized(stage) for stage in stages),
    )


def _sized(stage: Recipe) -> str:
    share = stage.pruning.sparsity
    pruned = "" if share is None else f", {share:.1%} of the weights pruned"
    return f"{stage.method}: {stage.training.steps:,} updates{pruned}"
