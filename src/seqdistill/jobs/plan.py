"""What a recipe would do, before it does it: data, sizes, and measured memory and times.

`measuring` does a little of everything; the memory is then the peak of this very process, libraries
included. Nothing is written.
"""

from __future__ import annotations

import dataclasses

import torch

from seqdistill.assembly.corpus import wanted_corpus
from seqdistill.assembly.data import read_split
from seqdistill.assembly.preparing import Prepared, asks_teacher, prepare
from seqdistill.assembly.teacher_states import states_bytes
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

    output_dir: str
    methods: tuple[str, ...]
    train_examples: int
    left_out: int
    source_tokens: int
    target_tokens: int
    updates: int
    tokens_per_update: float
    student_parameters: int
    teacher_parameters: int
    memory_mb: float
    """The peak of this process after it has done a little of everything."""
    seconds_per_method: float
    warmup_steps: int = 0
    held_out: tuple[tuple[str, str], ...] = ()
    """Name and size of dev and test, in words."""
    labels: str = "none"
    """What of the teacher's labels is there, and how long the others would take, in words."""
    dev_scores: str = "none"
    """How often dev is scored, and how long that takes, in words."""
    gpu_memory_mb: float = 0.0
    train_name: str = ""
    teacher_states: str = "none"
    """What the teacher's hidden states will take on disk, in words."""
    pruning: str = "none"
    """How many weights the student keeps, in words."""
    stages: tuple[str, ...] = ()
    """What each stage of a chain will be, in words."""
    judging: str = ""
    """What chooses checkpoints and what is measured, in words."""
    row: tuple[tuple[str, str], ...] = ()
    """One training row as the student sees it."""
    guessed_targets: int = 0
    """How many examples have no target yet, so that its length is guessed."""

    @property
    def epochs(self) -> float:
        """How often each example is seen."""
        return self.updates * self.tokens_per_update / self.target_tokens

    @property
    def _guess(self) -> str:
        if not self.guessed_targets:
            return ""
        return f" (estimated for {self.guessed_targets:,} without a target yet)"

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) pairs for display."""
        teacher = f"{self.teacher_parameters:,}" if self.teacher_parameters else "none"
        minutes = self.seconds_per_method * len(self.methods) / 60
        return [
            ("would write to", self.output_dir),
            ("methods", ", ".join(self.methods)),
            *((f"stage {number}", words) for number, words in enumerate(self.stages, start=1)),
            (
                "train examples",
                f"{self.train_examples:,} ({self.left_out:,} left out as too long) of "
                f"{self.train_name}",
            ),
            *((f"{split} examples", words) for split, words in self.held_out),
            *([] if self.labels == "none" else [("teacher's labels", self.labels)]),
            *self.row,
            ("source tokens", f"{self.source_tokens:,}"),
            ("target tokens", f"{self.target_tokens:,}{self._guess}"),
            ("updates", f"{self.updates:,} of about {self.tokens_per_update:,.0f} target tokens"),
            ("warm-up", f"{self.warmup_steps:,} updates"),
            ("epochs", f"{self.epochs:.2f}"),
            ("judged by", self.judging),
            ("student parameters", f"{self.student_parameters:,}"),
            *([] if self.pruning == "none" else [("pruning", self.pruning)]),
            ("teacher parameters", teacher),
            *([] if self.teacher_states == "none" else [("teacher's states", self.teacher_states)]),
            (
                "memory",
                f"about {self.memory_mb / 1024:.1f} GiB, measured: this process did the largest "
                "batches, libraries and dev scores included",
            ),
            *([] if not self.gpu_memory_mb else [("GPU memory", f"{self.gpu_memory_mb:,.0f} MB")]),
            (
                "training time",
                f"about {minutes:.1f} minutes on this machine, from timed batches; without "
                "labelling, dev scores and evaluation",
            ),
            *([] if self.dev_scores == "none" else [("dev scores", self.dev_scores)]),
        ]


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe, chain or comparison. Raises UserError for whatever would not work."""
    run = open_run(recipe, resume=False)
    run.check_free()
    if recipe.stages:
        return _plan_of_chain(recipe)
    members = [compare_member(recipe, preset) for preset in recipe.compare] or [recipe]
    # The most expensive member speaks for all: one whose student writes, or that asks the teacher.
    chosen = next(
        (m for m in members if m.sequences.rolls_out),
        next((m for m in members if asks_teacher(m)), members[0]),
    )
    labelled = next((m for m in members if m.sequences.decoded_by_teacher), chosen)
    planned = _plan_of_one(chosen, labelled=labelled)
    return dataclasses.replace(
        planned,
        output_dir=str(output_folder(recipe)),
        methods=tuple(member.method for member in members),
    )


def _plan_of_one(recipe: Recipe, *, labelled: Recipe | None = None) -> Plan:
    """The plan of one training of one student; outputs not yet written are as long as their
    sources, or as they may get. `labelled` is the recipe whose teacher writes, if another."""
    prepared = prepare(recipe)
    preflight(prepared)  # for what it refuses and warns of
    row = tuple(shown_row(prepared, prepared.train))
    labels = _labels(dataclasses.replace(prepared, recipe=labelled or recipe))
    num_guessed = int((prepared.train.lengths.target == 0).sum())
    prepared = dataclasses.replace(prepared, train=_with_guessed_targets(prepared))
    training = recipe.training
    student, teacher = prepared.student.model, prepared.teacher
    device = device_of(training.device)
    seconds = training_seconds(prepared, device)
    scores = dev_scores(prepared)
    return Plan(
        output_dir=str(output_folder(recipe)),
        methods=(recipe.method,),
        train_examples=len(prepared.train),
        left_out=prepared.num_too_long,
        source_tokens=int(prepared.train.lengths.source.sum()),
        target_tokens=int(prepared.train.lengths.counted.sum()),
        updates=training.steps,
        tokens_per_update=tokens_per_update(prepared),
        student_parameters=parameter_count(student),
        teacher_parameters=parameter_count(teacher.model) if teacher else 0,
        memory_mb=peak_memory_mb(),
        seconds_per_method=seconds,
        warmup_steps=training.warmup,
        held_out=_held_out(prepared),
        labels=labels,
        dev_scores=scores,
        gpu_memory_mb=torch.cuda.max_memory_reserved() / 2**20 if device.type == "cuda" else 0.0,
        train_name=str(recipe.data.train),
        teacher_states=_teacher_states(prepared),
        pruning=_pruned(prepared),
        judging=str(prepared.judging),
        row=row,
        guessed_targets=num_guessed,
    )


def _with_guessed_targets(prepared: Prepared) -> EncodedDataset:
    sequences = prepared.recipe.sequences
    writing = sequences.rollouts if sequences.rolls_out else sequences.decoding
    return with_placeholder_targets(prepared.train, max_tokens=writing.max_new_tokens)


def _pruned(prepared: Prepared) -> str:
    mask, section = prepared.mask, prepared.recipe.pruning
    if section.sparsity is None:
        return "none"
    return f"{section.scheme}, {mask.num_kept:,} of {mask.num_weights:,} weights are kept"


def _teacher_states(prepared: Prepared) -> str:
    keep = prepared.recipe.teacher.cache_hidden_states
    if keep == "none" or prepared.teacher is None:
        return "none"
    num_bytes = states_bytes(prepared.teacher, prepared.train, keep)
    return f"about {num_bytes / 1e6:,.0f} MB on disk in {keep}, made once"


def _plan_of_chain(recipe: Recipe) -> Plan:
    """All stages as one plan; the first of them describes the data.

    Every stage starts from the chain's first weights, which have the same shape and vocabulary.
    """
    stages = [stage_recipe(recipe, n, start_from=None) for n in range(len(recipe.stages))]
    plans = [_plan_of_one(stage) for stage in stages]
    updates = sum(planned.updates for planned in plans)
    tokens = sum(planned.updates * planned.tokens_per_update for planned in plans)
    return dataclasses.replace(
        plans[0],
        output_dir=str(output_folder(recipe)),
        methods=(recipe.method,),
        updates=updates,
        tokens_per_update=tokens / updates,
        memory_mb=max(planned.memory_mb for planned in plans),
        seconds_per_method=sum(planned.seconds_per_method for planned in plans),
        pruning="none",  # said of each stage
        stages=tuple(_sized(stage) for stage in stages),
    )


def _sized(stage: Recipe) -> str:
    share = stage.pruning.sparsity
    pruned = "" if share is None else f", {share:.1%} of the weights pruned"
    return f"{stage.method}: {stage.training.steps:,} updates{pruned}"


def _held_out(prepared: Prepared) -> tuple[tuple[str, str], ...]:
    recipe, found = prepared.recipe, []
    for split, name in (("dev", recipe.data.dev), ("test", recipe.data.test)):
        if name is None:
            found.append((split, "none"))
            continue
        size = len(prepared.dev) if split == "dev" else len(read_split(recipe, "test"))
        found.append((split, f"{size:,} of {name}"))
    return tuple(found)


def _labels(prepared: Prepared) -> str:
    """Whether the teacher's labels are there; of those that are not, how long they would take."""
    recipe, teacher = prepared.recipe, prepared.teacher
    if not recipe.sequences.decoded_by_teacher or teacher is None:
        return "none"
    wanted = wanted_corpus(recipe, teacher, prepared.train_examples)
    return planned_labels(recipe, teacher, wanted)
