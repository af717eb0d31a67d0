"""Trains one student from a recipe: reads, checks, labels where a teacher writes, trains, saves.

Everything that can be refused is refused before the run directory exists.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from seqdistill.assembly.data import collator_for
from seqdistill.assembly.decoding import engine_name, evaluation_engine, generator_factory
from seqdistill.assembly.models import teaches_without_adapters
from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import (
    build_source,
    training_sequences,
    with_rollout_engine,
)
from seqdistill.assembly.teachers import Publication, build_teacher_scores, teacher_facts
from seqdistill.compression.pruning import PruningMask, prunable_weights
from seqdistill.core.errors import UserError
from seqdistill.core.phases import PhaseClock
from seqdistill.core.progress import Progress
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.cache import content_of
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.unlabelled import num_unlabelled
from seqdistill.evaluation.dev import DevScorer, GeneratorFactory, Ranks
from seqdistill.evaluation.likelihood import reference_nats
from seqdistill.jobs.inputs import INPUTS, check_inputs, inputs_of, sequences_of
from seqdistill.jobs.logs import RolloutLog, check_trackers, note_seconds, timed, trackers_started
from seqdistill.jobs.preflight import preflight, shown_row
from seqdistill.jobs.rollout_engine import rollout_engine_for
from seqdistill.jobs.run_folders import only_writer, open_run
from seqdistill.metrics.diversity import outputs_in_tokens
from seqdistill.models.lora import LoraAdapter
from seqdistill.models.placement import (
    Precision,
    device_of,
    set_attention,
    use_fast_attention,
)
from seqdistill.models.proof import probe_logits
from seqdistill.models.saving import save_pair
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.recipe.writing import write_recipe
from seqdistill.records.checksums import damage
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import TENSORBOARD, Resume, RunDirectory
from seqdistill.sources.stored import PrefetchedSource, StoredSequences
from seqdistill.sources.watched import WatchedSource
from seqdistill.teachers.in_process import InProcessTeacher, Teacher
from seqdistill.teachers.kept_scores import SCORES, KeptScoresTeacher
from seqdistill.teachers.on_server import ServerTeacher
from seqdistill.teachers.published import Change, PublishedTeacher
from seqdistill.training.loop import TrainingLoop
from seqdistill.training.optimization import check_trainable
from seqdistill.training.processes import (
    all_gather_object,
    broadcast_from_main,
    make_accelerator,
    shard_frozen,
)

_LOG = logging.getLogger(__name__)
_LOOKED_AT = 256
"""Targets whose length and repetition are taken for all."""
_PRUNED_SHARE = 0.05
"""A random or trained weight is exactly zero about never: more than this were pruned."""


def train_student(
    recipe: Recipe, *, progress: Progress, resume: Resume = False, until: int | None = None
) -> RunDirectory:
    """Trains the recipe's student and saves it. Returns its run directory.

    With `until` it pauses after that update, at a checkpoint and without a student to be used.

    Under `torchrun` or `accelerate launch` every process trains, and the first one writes. Raises
    UserError while another one trains in the run directory.
    """
    with only_writer(recipe):
        return train_as_only_writer(recipe, progress=progress, resume=resume, until=until)


def train_as_only_writer(
    recipe: Recipe, *, progress: Progress, resume: Resume = False, until: int | None = None
) -> RunDirectory:
    """As `train_student`, for callers that keep others away from the run directory.

    A run that is finished is left as it is, unless its student was damaged since: it is made again
    from the checkpoints.
    """
    training = recipe.training
    check_trackers(training.trackers)
    accelerator = make_accelerator(
        training.parallel,
        on_cpu=device_of(recipe.training.device).type == "cpu",
        trackers=training.trackers,
        folder=output_folder(recipe) / TENSORBOARD,
    )
    if accelerator.is_fsdp2 and recipe.teacher.is_student and recipe.teacher.average_decay < 1.0:
        raise UserError(
            "teacher.average_decay must be 1 where the student is trained in shards (FSDP2), which "
            "are not gathered for its teacher, got "
            f"{recipe.teacher.average_decay:g}; set training.parallel=ddp"
        )
    if accelerator.is_fsdp2 and teaches_without_adapters(recipe):
        raise UserError(
            "training.parallel must be fsdp2 where the student is trained in shards beside a copy "
            f"of its first weights, got {training.parallel}; set training.parallel=fsdp2"
        )
    if accelerator.is_fsdp2 and recipe.teacher.reload_every is not None:
        raise UserError(
            "teacher.reload_every must be left out where the teacher is in shards (FSDP2), got "
            f"{recipe.teacher.reload_every}; set training.parallel=ddp"
        )
    if accelerator.is_fsdp2 and recipe.objective.features:
        raise UserError(
            "objective.features must be left out where the student is trained in shards (FSDP2), "
            f"got {recipe.objective.features[0].match}; set training.parallel=ddp"
        )
    run = open_run(recipe, resume=resume)
    started = bool(resume) and run.is_begun
    if started and run.is_finished:
        if (found := damage(run.student_path)) is None:
            return run
        _LOG.warning("%s is damaged (%s) and is made again", run.student_path, found)
    inputs = inputs_of(recipe) if accelerator.is_main_process else {}
    if started:
        check_inputs(run, inputs)
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    prepared = prepare(recipe)
    begun = run.read_manifest() if started and run.manifest_path.is_file() else {}
    if training.precision == "auto":  # of a run that began, wherever that was
        precision = cast("Precision", begun.get("precision", prepared.precision))
        prepared = dataclasses.replace(prepared, precision=precision)
    check_trainable(prepared.adapted, prepared.mask, training, accelerator)
    if training.attention == "auto":
        use_fast_attention(prepared.student.model, accelerator.device)
    else:
        set_attention(prepared.student.model, training.attention)
    _warn_of_zeros(prepared.student.model, prepared.mask, prepared.lora)
    decode_dev, writes_with = dev_generator(prepared), None
    engines = _engines_of(begun, run, recipe)
    if not begun and accelerator.is_main_process:  # where CTranslate2 must run and cannot
        if prepared.dev:
            engines["evaluation"] = engine_name(decode_dev(prepared.student.model))
        if (writes_with := rollout_engine_for(prepared, accelerator.device)) is not None:
            engines["sequences.rollouts"] = writes_with.name
    engine = broadcast_from_main(engines.get("sequences.rollouts"), accelerator)
    looked_at = preflight(prepared) if accelerator.is_main_process else {}
    # Before the run directory exists: a corpus that is refused leaves nothing behind.
    labelled = time.perf_counter()
    examples, facts = training_sequences(prepared, progress)
    kept = time.perf_counter()
    publication = Publication(
        lambda own: broadcast_from_main(own, accelerator),
        lambda changes: _note_teachers(changes, run, accelerator, progress),
    )
    teacher = build_teacher_scores(prepared, examples, accelerator.device, progress, publication)
    if accelerator.is_main_process:
        inputs |= sequences_of(train=examples, dev=prepared.dev)
        if isinstance(teacher, KeptScoresTeacher):
            inputs |= {"teacher.kept_scores": {SCORES: content_of(teacher.folder / SCORES)}}
        if isinstance(teacher, PublishedTeacher):
            facts |= _teachers(teacher.changes)
        if started:
            check_inputs(run, inputs)
        facts |= {"processes": accelerator.num_processes, "warmup_steps": training.warmup}
        facts |= {INPUTS: inputs, "preflight": looked_at}
        facts |= {"engines": engines} if engines else {}
        facts |= {"teacher_server": teacher.facts} if isinstance(teacher, ServerTeacher) else {}
        said = shown_row(prepared, examples)
        said += [("judged by", str(prepared.judging))] if prepared.dev else []
        if writes_with is not None and writes_with.seconds:
            said.append(("rollouts by", str(writes_with)))
            facts |= {"rollout_engine_seconds": writes_with.seconds}
        _begin(run, prepared, facts, started=started)
        for label, text in said:
            progress.echo(f"{label:<12}{text}")
        if accelerator.num_processes > 1:
            progress.echo(f"{accelerator.num_processes} processes train one student together")
        if recipe.sequences.decoded_by_teacher:
            note_seconds(run, "labelling", kept - labelled)
        if recipe.teacher.keeps_scores:
            note_seconds(run, "teacher's scores", time.perf_counter() - kept)
    accelerator.wait_for_everyone()
    writes = accelerator.is_main_process
    with timed(run, "training") if writes else contextlib.nullcontext():
        ranks = Ranks(accelerator.process_index, accelerator.num_processes, all_gather_object)
        loop = _loop(
            prepared if engine is None else with_rollout_engine(prepared, engine),
            examples,
            teacher,
            run,
            accelerator,
            progress,
            score_dev=dev_scorer(prepared, decode_dev, ranks),
        )
        trackers = trackers_started(accelerator, recipe, run)
        with contextlib.closing(run), contextlib.closing(teacher), trackers:
            result = loop.run(resume=resume if started else False, until=until)
    ended = result.stopped_early or result.updates == training.steps
    if accelerator.is_main_process and ended:
        logs = run.logs_so_far()
        _save(prepared, run)
        run.update_manifest(
            {"training": dataclasses.asdict(result), "logs": logs, "finished": True}
        )
    run.close()
    return run


def _engines_of(begun: Mapping[str, object], run: RunDirectory, recipe: Recipe) -> dict[str, str]:
    """The engines of a run that began. Raises UserError where its manifest does not say them."""
    engines = begun.get("engines", {})
    if not isinstance(engines, dict):
        found: object = engines
    elif begun and recipe.sequences.rolls_out and recipe.sequences.rollouts.engine == "auto":
        found = engines.get("sequences.rollouts")
        if found in ("transformers", "ctranslate2"):
            return engines
    else:
        return engines
    raise UserError(
        f"{run.manifest_path} must say under engines which one sequences.rollouts began with, "
        f"transformers or ctranslate2, found {found!r}; restore the file"
    )


def _note_teachers(
    changes: Sequence[Change], run: RunDirectory, accelerator: Accelerator, progress: Progress
) -> None:
    """Says in the manifest and on screen which teachers a run has seen."""
    if accelerator.is_main_process:
        run.update_manifest(_teachers(changes))
        if changes[-1].since:
            last = changes[-1]
            progress.echo(f"another teacher after update {last.since:,}: {last.fingerprint[:12]}")


def _teachers(changes: Sequence[Change]) -> dict[str, object]:
    return {"teachers": [dataclasses.asdict(change) for change in changes]}


def _save(prepared: Prepared, run: RunDirectory) -> None:
    """The student as a plain model that says what the trained one does; adapters also alone."""
    student, said = prepared.student, probe_logits(prepared.student.model)
    if prepared.lora is not None:
        prepared.lora.save(run.adapter_path)
        student = dataclasses.replace(student, model=prepared.lora.merge())
    save_pair(student, run.student_path, save_dtype=prepared.recipe.student.save_dtype, said=said)


def _begin(
    run: RunDirectory, prepared: Prepared, facts: dict[str, object], *, started: bool
) -> None:
    """Makes the run directory, unless it was started before, and notes what is known."""
    if not started:
        RunDirectory.create(run.path)
        run.write_recipe(write_recipe(prepared.recipe))
    run.update_manifest(
        {
            "environment": environment_facts(),
            "train_examples": len(prepared.train),
            "train_examples_unlabelled": num_unlabelled(prepared.train),
            "train_examples_too_long": prepared.num_too_long,
            "precision": prepared.precision,
            **prepared.judging.facts(),
            **_pruning_facts(prepared.mask),
            **({"teacher": taught} if (taught := teacher_facts(prepared.recipe)) else {}),
            **facts,
        }
    )


def _pruning_facts(mask: PruningMask) -> dict[str, object]:
    """What the manifest says of a pruned student; nothing of one that is not."""
    if mask.num_weights == 0:
        return {}
    facts = {"weights": mask.num_weights, "kept": mask.num_kept, "density": mask.density}
    return {"pruning": {**facts, "densities": mask.densities()}}


def _warn_of_zeros(model: PreTrainedModel, mask: PruningMask, lora: LoraAdapter | None) -> None:
    """Warns once when training is about to fill the zeros of a student that was pruned before.

    Only matrices are looked at: biases that start from zero are many, and were never pruned. Nor
    were adapters, which also start from zero, but they fill the matrices that they are merged into.
    """
    if mask.num_weights > 0:
        return
    weights = (prunable_weights(model) if lora is None else lora.joined_weights()).values()
    num_weights = sum(weight.numel() for weight in weights)
    num_zeros = num_weights - sum(int(weight.count_nonzero()) for weight in weights)
    if num_zeros > _PRUNED_SHARE * num_weights:
        _LOG.warning(
            "%d of the student's %d weights in matrices are exactly zero, as after pruning, and "
            "training will fill them; set pruning.sparsity=0%s to keep them zero",
            num_zeros,
            num_weights,
            "" if lora is None else " and leave student.lora out",
        )


def dev_generator(prepared: Prepared) -> GeneratorFactory:
    """What decodes dev with the student's present weights, adapters included."""
    evaluation, lora = prepared.recipe.evaluation, prepared.lora
    make = generator_factory(
        prepared.student,
        evaluation_engine(prepared.recipe),
        examples=prepared.dev,
        max_new_tokens=evaluation.max_new_tokens,
    )
    return make if lora is None else lambda _model: make(lora.merged_copy())


def dev_scorer(
    prepared: Prepared,
    decode_dev: GeneratorFactory,
    ranks: Ranks,
) -> DevScorer | None:
    """What scores the live student on dev, shared by `ranks`; None without dev."""
    if not prepared.dev:
        return None
    evaluation = prepared.recipe.evaluation
    collator = collator_for(prepared.student)
    longest = prepared.recipe.data.max_target_tokens

    def loss(examples: Sequence[EncodedExample]) -> TokenSum:
        fitting = [example for example in examples if len(example.target_ids) <= longest]
        return reference_nats(prepared.adapted, fitting, collator)

    return DevScorer(
        examples=prepared.dev,
        references=prepared.dev_references,
        tokenizer=prepared.student.tokenizer,
        generator=decode_dev,
        metrics=prepared.judging.dev_metrics,
        units=prepared.judging.units,
        chooses=prepared.judging.dev_score,
        loss=loss,
        max_new_tokens=evaluation.max_new_tokens,
        ranks=ranks,
    )


def _loop(
    prepared: Prepared,
    examples: Sequence[EncodedExample],
    teacher: Teacher,
    run: RunDirectory,
    accelerator: Accelerator,
    progress: Progress,
    *,
    score_dev: DevScorer | None,
) -> TrainingLoop:
    recipe, rank = prepared.recipe, accelerator.process_index
    if not accelerator.is_fsdp2:  # which is sharded from where it lies
        prepared.adapted.to(accelerator.device)  # where rollouts are to run, too
    clock = PhaseClock(accelerator.device.type)
    source = build_source(
        prepared,
        examples,
        rank=rank,
        world_size=accelerator.num_processes,
        gather=all_gather_object,
        on_completions=RolloutLog(prepared, run) if accelerator.is_main_process else None,
        clock=clock,
    )
    if isinstance(source, StoredSequences):
        source = PrefetchedSource(source, accelerator.device, teacher.ahead)
    elif recipe.training.alarms.action != "none":
        source = WatchedSource(source, every=recipe.training.log_every)
    if accelerator.is_fsdp2 and isinstance(teacher, InProcessTeacher):
        if recipe.sequences.rollouts.teacher_fraction > 0.0:
            _LOG.warning("the teacher takes part in sampling, so every process keeps it whole")
        else:
            shard_frozen(teacher.model)
    return TrainingLoop(
        model=prepared.adapted,
        source=source,
        teacher=teacher,
        objective=prepared.objective,
        mask=prepared.mask,
        settings=recipe.training,
        precision=prepared.precision,
        eval_metric=prepared.judging.dev_score,
        seed=recipe.seed,
        accelerator=accelerator,
        run_directory=run,
        progress=progress,
        score_dev=score_dev,
        samples_student=recipe.sequences.rolls_out,
        references=_references(prepared, examples),
        clock=clock,
    )


def _references(prepared: Prepared, examples: Sequence[EncodedExample]) -> dict[str, float]:
    """What collapse alarms compare the student's outputs with: dev's targets, all of them; where it
    samples some of the sequences that exist, of which `distinct_2` says nothing of a micro-batch.
    """
    if not prepared.recipe.sequences.rolls_out:
        targets = [example.target_ids for example in prepared.dev]
        return outputs_in_tokens(targets, [True] * len(targets))
    written = (example.target_ids for example in examples if example.target_ids)
    targets = list(itertools.islice(written, _LOOKED_AT))
    found = outputs_in_tokens(targets, [True] * len(targets))
    return {name: value for name, value in found.items() if name != "distinct_2"}
