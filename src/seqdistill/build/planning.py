"""What a recipe would do, before it does it: sizes, tokens, memory and a time estimate.

Reads the data and the models' configurations; trains nothing, writes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time

import torch

from seqdistill.build.data import collator_for
from seqdistill.build.objective import build_objective
from seqdistill.build.preparing import Prepared, asks_teacher, prepare
from seqdistill.build.scoring import live_teacher
from seqdistill.build.sequences import build_source
from seqdistill.build.stage_runs import finished_stages, unfinished_recipes
from seqdistill.build.teacher_states import states_bytes
from seqdistill.build.training import open_run
from seqdistill.compression.layers import parameter_count
from seqdistill.data.batching import Collator, EpochBatches
from seqdistill.data.encoding import EncodedExample, with_stand_in_targets
from seqdistill.models.placement import use_fast_attention
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import compare_member, output_folder

# Weights, gradients and two Adam moments in fp32.
_BYTES_PER_TRAINED_PARAMETER = 16
_BYTES_PER_FROZEN_PARAMETER = 4
# Saved activations per token and layer, in units of the width, for a Transformer layer with a
# feed-forward block of four times the width: measured on small models, good to a factor of two.
_ACTIVATIONS_PER_TOKEN_LAYER = 34


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe would do. Seconds are an estimate from timed batches on this machine."""

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
    memory_bytes: int
    seconds_per_method: float
    teacher_states: str = "none"
    """What the teacher's hidden states will take on disk, in words."""
    pruning: str = "none"
    """How many weights the student keeps, in words."""
    stages: tuple[str, ...] = ()
    """What each stage of a chain will be, in words."""
    judging: str = ""
    """What chooses checkpoints and what is measured, in words."""
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
            ("train examples", f"{self.train_examples:,} ({self.left_out:,} left out as too long)"),
            ("source tokens", f"{self.source_tokens:,}"),
            ("target tokens", f"{self.target_tokens:,}{self._guess}"),
            ("updates", f"{self.updates:,} of about {self.tokens_per_update:,.0f} target tokens"),
            ("epochs", f"{self.epochs:.2f}"),
            ("judged by", self.judging),
            ("student parameters", f"{self.student_parameters:,}"),
            *([] if self.pruning == "none" else [("pruning", self.pruning)]),
            ("teacher parameters", teacher),
            *([] if self.teacher_states == "none" else [("teacher's states", self.teacher_states)]),
            ("memory", f"about {self.memory_bytes / 2**30:.1f} GiB (good to a factor of two)"),
            (
                "training time",
                f"about {minutes:.1f} minutes on this machine, from timed batches; without "
                "labelling and evaluation",
            ),
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
        (m for m in members if m.sequences.by_student),
        next((m for m in members if asks_teacher(m)), members[0]),
    )
    planned = _plan_of_one(chosen)
    return dataclasses.replace(
        planned,
        output_dir=str(output_folder(recipe)),
        methods=tuple(member.method for member in members),
    )


def _plan_of_one(recipe: Recipe) -> Plan:
    """The plan of one training of one student; outputs not yet written are as long as their
    sources, or as they may get."""
    prepared = prepare(recipe)
    num_guessed = sum(not example.target_ids for example in prepared.train)
    prepared = dataclasses.replace(prepared, train=_with_guessed_targets(prepared))
    training = recipe.training
    student, teacher = prepared.student.model, prepared.teacher
    return Plan(
        output_dir=str(output_folder(recipe)),
        methods=(recipe.method,),
        train_examples=len(prepared.train),
        left_out=prepared.num_too_long,
        source_tokens=sum(len(example.source_ids) for example in prepared.train),
        target_tokens=sum(example.num_counted for example in prepared.train),
        updates=training.updates,
        tokens_per_update=_tokens_per_update(prepared),
        student_parameters=parameter_count(student),
        teacher_parameters=parameter_count(teacher.model) if teacher else 0,
        memory_bytes=_memory_bytes(prepared),
        seconds_per_method=_seconds(prepared),
        teacher_states=_teacher_states(prepared),
        pruning=_pruned(prepared),
        judging=str(prepared.judging),
        guessed_targets=num_guessed,
    )


def _with_guessed_targets(prepared: Prepared) -> tuple[EncodedExample, ...]:
    sequences = prepared.recipe.sequences
    writing = sequences.rollouts if sequences.by_student else sequences.decoding
    return tuple(
        guessed
        if given.target_ids
        else dataclasses.replace(guessed, target_ids=guessed.target_ids[: writing.max_new_tokens])
        for given, guessed in zip(
            prepared.train, with_stand_in_targets(prepared.train), strict=True
        )
    )


def _pruned(prepared: Prepared) -> str:
    mask, section = prepared.mask, prepared.recipe.pruning
    if section.share is None:
        return "none"
    return f"{section.scheme}, {mask.num_kept:,} of {mask.num_weights:,} weights are kept"


def _teacher_states(prepared: Prepared) -> str:
    keep = prepared.recipe.teacher.keep_states
    if keep == "none" or prepared.teacher is None:
        return "none"
    num_bytes = states_bytes(prepared.teacher, prepared.train, keep)
    return f"about {num_bytes / 1e6:,.0f} MB on disk in {keep}, made once"


def _plan_of_chain(recipe: Recipe) -> Plan:
    """The stages that are not there yet as one plan; the first of them describes the data.

    With every stage there nothing is trained, and the last one is described.
    """
    done = finished_stages(recipe)
    ahead = unfinished_recipes(recipe)
    plans = [_plan_of_one(stage) for stage in ahead]
    described = plans[0] if plans else _plan_of_one(done[-1].recipe)
    updates = sum(planned.updates for planned in plans)
    tokens = sum(planned.updates * planned.tokens_per_update for planned in plans)
    return dataclasses.replace(
        described,
        output_dir=str(output_folder(recipe)),
        methods=(recipe.method,),
        updates=updates,
        tokens_per_update=tokens / updates if updates else 0.0,
        memory_bytes=max((planned.memory_bytes for planned in plans), default=0),
        seconds_per_method=sum((planned.seconds_per_method for planned in plans), start=0.0),
        pruning="none",  # said of each stage
        stages=(
            *(f"{_sized(stage.recipe)}, cached: {stage.run.path}" for stage in done),
            *(f"{_sized(stage)}, to be trained" for stage in ahead),
        ),
    )


def _sized(stage: Recipe) -> str:
    share = stage.pruning.share
    pruned = "" if share is None else f", {share:.1%} of the weights pruned"
    return f"{stage.method}: {stage.training.updates:,} updates{pruned}"


def _batches(prepared: Prepared) -> tuple[EpochBatches, Collator]:
    collator = collator_for(prepared.student)
    batches = EpochBatches(
        prepared.train,
        collator.kind,
        batch_tokens=prepared.recipe.training.batch_tokens,
        seed=prepared.recipe.seed,
    )
    return batches, collator


def _tokens_per_update(prepared: Prepared) -> float:
    batches, _ = _batches(prepared)
    sizes = [sum(prepared.train[i].num_counted for i in batches.next()) for _ in range(50)]
    return prepared.recipe.training.accumulation * sum(sizes) / len(sizes)


def _memory_bytes(prepared: Prepared) -> int:
    config = prepared.student.model.config
    layers = int(getattr(config, "num_hidden_layers", 1) or 1)
    if prepared.student.kind == "seq2seq":
        layers = int(getattr(config, "encoder_layers", layers)) + int(
            getattr(config, "decoder_layers", layers)
        )
    activations = (
        prepared.recipe.training.batch_tokens
        * int(config.hidden_size)
        * layers
        * _ACTIVATIONS_PER_TOKEN_LAYER
        * (2 if prepared.precision == "bf16" else 4)
    )
    teacher = parameter_count(prepared.teacher.model) if prepared.teacher else 0
    return int(
        parameter_count(prepared.student.model) * _BYTES_PER_TRAINED_PARAMETER
        + teacher * _BYTES_PER_FROZEN_PARAMETER
        + activations
    )


def _seconds(prepared: Prepared) -> float:
    """Seconds of all batches; of kept states the teacher makes each example's once."""
    training = prepared.recipe.training
    teacher, student = _seconds_a_batch(prepared)
    num_batches = training.updates * training.accumulation
    if prepared.recipe.teacher.keep_states == "none":
        return num_batches * (teacher + student)
    num_tokens = sum(example.num_counted for example in prepared.train)
    batches_an_epoch = training.accumulation * num_tokens / _tokens_per_update(prepared)
    return num_batches * student + batches_an_epoch * teacher


def _seconds_a_batch(prepared: Prepared) -> tuple[float, float]:
    """Seconds of the teacher's scores, and of the student's passes with what it writes: of each the
    fastest of three batches."""
    use_fast_attention(prepared.student.model, torch.device("cpu"))
    source = build_source(prepared, prepared.train)
    objective = build_objective(prepared.recipe)
    teacher = live_teacher(prepared, torch.device("cpu"))
    updates, bf16 = prepared.recipe.training.updates, prepared.precision == "bf16"
    fastest = (math.inf, math.inf)
    for update in range(1, 4):
        began = time.perf_counter()
        source.begin_update(update, updates)
        batch = source.next_batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            started = time.perf_counter()
            scores = teacher.score(batch)
            scored = time.perf_counter()
            loss, _ = objective(prepared.adapted.states(batch), scores, batch)
        torch.autograd.backward(loss.total)
        ended = time.perf_counter()
        student = ended - scored + (started - began if prepared.recipe.sequences.by_student else 0)
        fastest = (min(fastest[0], scored - started), min(fastest[1], student))
        prepared.adapted.zero_grad(set_to_none=True)
    return fastest
