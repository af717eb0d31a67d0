"""Measures what a run made: teacher and students of one run directory, on its test set.

Writes results.json, samples.jsonl, outputs.jsonl and the timings; trains nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from seqdistill.assembly.data import chat_settings, read_split
from seqdistill.assembly.judging import check_judging, judging_of, warn_of_cut_outputs
from seqdistill.core.errors import EngineError, RecipeError
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.encoding import Kind
from seqdistill.data.examples import Example
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.evaluation.speed import Decoder, speeds_of
from seqdistill.evaluation.systems import (
    SystemResult,
    SystemUnderTest,
    compare_systems,
    curves,
    evaluate_system,
    evaluate_translations,
)
from seqdistill.jobs.exporting import INT8_FOLDER, export_int8
from seqdistill.jobs.systems import START, exported_system, systems_of
from seqdistill.jobs.timings import timed
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.soundness import faults_of
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import environment_facts
from seqdistill.records.locks import held
from seqdistill.records.run_directory import RunDirectory

_LOG = logging.getLogger(__name__)
# Enough for a stable median; slow systems decode fewer.
_SPEED_SENTENCES = 128


def evaluation_settings(
    recipe: Recipe, examples: Sequence[Example], kind: Kind
) -> EvaluationSettings:
    """How test numbers of systems of that kind are measured: as the recipe and the targets say.

    Raises DataError for targets that a metric cannot compare with.
    """
    section, judging = recipe.evaluation, judging_of(recipe, examples, kind)
    check_judging(judging, examples, "test")
    return EvaluationSettings(
        metrics=judging.metrics,
        units=judging.units,
        beam_size=section.beam_size,
        length_penalty=section.length_penalty,
        max_new_tokens=section.max_new_tokens,
        bootstrap_resamples=section.bootstrap_resamples,
        confidence=section.confidence,
        seed=recipe.seed,
        sampling_temperatures=section.sampling_temperatures,
        samples_per_source=section.samples_per_source,
        calculator=section.calculator,
    )


def best_student(rows: Sequence[Mapping[str, object]], metric: str) -> str:
    """The name of the student that is best by the metric with beam search, distilled or not.

    One whose row names faults is best only where all do. A teacher that was trained alone counts as
    its own student.
    """
    students = _students(rows) or [row for row in rows if row["method"] != START]
    sound = [row for row in students if not row.get("faults")] or students
    score_key = CORPUS_METRICS[metric].score_key
    best = max(sound, key=lambda row: score_key(cast("float", row[f"{metric}_beam"])))
    return str(best["name"])


def recommended_student(rows: Sequence[Mapping[str, object]], metric: str) -> str | None:
    """The best student where there is a choice and it is sound; else None."""
    if len(_students(rows)) < 2:
        return None
    best = best_student(rows, metric)
    faults = next(row.get("faults") for row in rows if row["name"] == best)
    return None if faults else best


def _students(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [row for row in rows if row["method"] not in ("teacher", START)]


def evaluate_run(
    run: RunDirectory,
    overrides: Sequence[str] = (),
    *,
    progress: Progress,
    export: bool = False,
    measured_teacher: SystemResult | None = None,
    trust_remote_code: bool = False,
) -> dict[str, object]:
    """The results of a run directory, also written to it.

    `overrides` are settings of the sections data and evaluation that take the place of the run's
    own; they are noted in the results. Raises RecipeError for settings of other sections, and
    UserError while another process writes into the run directory. Code that comes with the models
    is run with `trust_remote_code` only, whatever the run's recipe says: the directory may be
    someone else's.

    The teacher comes first where the recipe names one, then the student before its first update,
    then every student; the first student is the baseline of the paired tests when there are
    several, else the teacher is. Rows name the `faults` of their systems. With `export`
    the best student's int8 copy is written and measured like the rest, its speed in the same turns;
    its row stands under `exports`. A copy that is there already is written anew and measured.

    `measured_teacher` is what `evaluate_system` found of this teacher on this test set under these
    settings, where that is known: only its speed is measured again, beside the students'.
    """
    _check_overrides(overrides)
    with held(run.path, "evaluating"):
        return _evaluate(
            run,
            overrides,
            progress=progress,
            export=export,
            measured_teacher=measured_teacher,
            trust_remote_code=trust_remote_code,
        )


def _evaluate(
    run: RunDirectory,
    overrides: Sequence[str],
    *,
    progress: Progress,
    export: bool,
    measured_teacher: SystemResult | None,
    trust_remote_code: bool,
) -> dict[str, object]:
    recipe = load_recipe(str(run.whole(run.recipe_path)), overrides)
    examples = read_split(recipe, "test")
    references = [example.target or "" for example in examples]
    systems = systems_of(run, recipe, examples, overrides, trust_remote_code=trust_remote_code)
    settings = evaluation_settings(recipe, examples, systems[-1].model.kind)
    warn_of_cut_outputs(systems[-1].examples, settings.max_new_tokens, "test")
    exported = exported_system(run, overrides)
    progress.start("evaluating", len(systems) + 1 + (export or exported is not None))
    results: list[SystemResult] = []
    for system in systems:
        teacher = _teacher(recipe, results)
        with timed(run, f"evaluate {system.name}"):
            if (
                not results
                and recipe.teacher.model is not None
                and measured_teacher is not None
                and measured_teacher.row["engine"] == system.engine
            ):
                known = dataclasses.replace(measured_teacher, row=dict(measured_teacher.row))
                results.append(known)
            else:
                results.append(evaluate_system(system, references, settings, teacher=teacher))
        progress.advance(1, system.name)
    teacher = _teacher(recipe, results)
    for result in results:
        _note_faults(result, teacher, settings)
    rows = [result.row for result in results]
    best = best_student(rows, settings.metrics[0])
    original = best if export else exported
    copies: list[tuple[SystemUnderTest, SystemResult]] = []
    if original is not None:
        system = next(system for system in systems if system.name == original)
        with timed(run, "export and evaluate int8"):
            copy = _exported(system, run, recipe)
            if copy is not None:
                result = evaluate_translations(copy, references, settings, teacher=teacher)
                _note_faults(result, teacher, settings)
                result.row.update(system=original, format="ctranslate2 int8", folder=INT8_FOLDER)
                copies.append((copy, result))
        progress.advance(1, f"{original} int8")
    with timed(run, "measure speed"):
        measured = [*zip(systems, results, strict=True), *copies]
        # The start is slow where it does not know yet when to stop, and nobody will use it.
        measure_speed([pair for pair in measured if pair[0].method != START], settings)
    progress.advance(1, "speed")
    progress.finish()
    report = _report(results, settings)
    if overrides:
        report["overrides"] = list(overrides)
    report |= {
        "student": best,
        "units": dataclasses.asdict(settings.units),
        "recommended": recommended_student(rows, settings.metrics[0]),
        "exports": [result.row for _, result in copies],
    }
    run.write_results(report)
    run.write_samples(_samples(recipe, examples, results, systems[-1].tokenizer))
    run.write_outputs(_outputs(examples, [*results, *(result for _, result in copies)]))
    run.update_manifest({"environment_of_evaluation": environment_facts()})
    return report


def _exported(system: SystemUnderTest, run: RunDirectory, recipe: Recipe) -> SystemUnderTest | None:
    """The system's int8 copy; None where `auto` may do without CTranslate2 and it cannot run it.

    A copy from before goes then: it would be taken for this student's.
    """
    folder = run.path / INT8_FOLDER
    try:
        return export_int8(
            system,
            folder,
            max_new_tokens=recipe.evaluation.max_new_tokens,
            threads=recipe.training.threads,
        )
    except EngineError as error:
        if recipe.evaluation.engine == "ctranslate2":
            raise
        _LOG.warning("there is no int8 copy of %s. %s", system.name, error.problem)
        if folder.is_dir():
            _LOG.warning("%s, which was made before, is removed", folder)
            shutil.rmtree(folder)
        return None


def _teacher(recipe: Recipe, results: Sequence[SystemResult]) -> SystemResult | None:
    """The result that the others are held against: the first, where the recipe names a teacher."""
    return results[0] if results and recipe.teacher.model is not None else None


def _note_faults(
    result: SystemResult, teacher: SystemResult | None, settings: EvaluationSettings
) -> None:
    """Adds to a row what is wrong with its system: none of the start, which has learned nothing."""
    if result.row["method"] == START:
        return
    metric = settings.main_metric
    found = faults_of(
        result.row,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        teacher=None if teacher is None or teacher is result else teacher.row,
    )
    result.row["faults"] = found
    if found:
        _LOG.warning("%s is broken: %s", result.row["name"], "; ".join(found))


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith(("data.", "evaluation.", "plugins=")):
            raise RecipeError(
                "evaluate must be given settings of the sections data and evaluation only, or "
                f"plugins, got {text!r}: what is trained cannot be changed afterwards; remove it."
            )


def measure_speed(
    measured: Sequence[tuple[SystemUnderTest, SystemResult]], settings: EvaluationSettings
) -> None:
    """Adds words and sentences per second, greedy and by beam, to the rows, measured in turns."""
    decoders = {
        system.name: Decoder(
            system.generator,
            [example.prompt_ids for example in system.examples[:_SPEED_SENTENCES]],
            system.tokenizer,
        )
        for system, _ in measured
    }
    for key, decoding in (("greedy", settings.greedy), ("beam", settings.beam)):
        speeds = speeds_of(decoders, decoding)
        for system, result in measured:
            speed = speeds[system.name]
            for unit, rate in (("words", speed.words), ("sentences", speed.sentences)):
                column = f"{unit}_per_second_{key}"
                result.row.update(
                    {
                        column: rate.median,
                        f"{column}_low": rate.slowest,
                        f"{column}_high": rate.fastest,
                    }
                )
            result.row[f"words_per_second_{key}_sentences"] = speed.num_sentences


def _report(results: Sequence[SystemResult], settings: EvaluationSettings) -> dict[str, object]:
    tested = [result for result in results if result.row["method"] != START]
    students = [result for result in tested if result.row["method"] != "teacher"]
    baseline = students[0] if len(students) > 1 else tested[0]
    tests = [
        row
        for result in tested
        if result is not baseline
        for row in compare_systems(result, baseline, settings)
    ]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "metrics": [
            {"name": name, "higher_is_better": CORPUS_METRICS[name].higher_is_better}
            for name in settings.metrics
        ],
        "systems": [result.row for result in results],
        "baseline": baseline.row["name"],
        "paired_tests": tests,
        "analyses": curves(results),
    }


def _samples(
    recipe: Recipe,
    examples: Sequence[Example],
    results: Sequence[SystemResult],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, object]]:
    """Evenly spaced test sentences, with every system's beam output.

    The source of a conversation is all of it up to the answer, as `tokenizer` renders it.
    """
    chat = chat_settings(recipe.data)
    wanted = min(recipe.evaluation.num_samples, len(examples))
    chosen = [i * len(examples) // wanted for i in range(wanted)]
    return [
        {
            "id": examples[i].id,
            "source": prompt_text(examples[i], tokenizer, chat),
            "reference": examples[i].target,
            "outputs": {str(r.row["name"]): r.beam.texts[i] for r in results},
        }
        for i in chosen
    ]


def _outputs(
    examples: Sequence[Example], results: Sequence[SystemResult]
) -> list[dict[str, object]]:
    """Every test sentence with what each system wrote, greedily and by beam."""
    return [
        {
            "id": example.id,
            "reference": example.target,
            "greedy": {str(r.row["name"]): r.greedy.texts[i] for r in results},
            "beam": {str(r.row["name"]): r.beam.texts[i] for r in results},
            **_sampled(results, i),
        }
        for i, example in enumerate(examples)
    ]


def _sampled(results: Sequence[SystemResult], place: int) -> dict[str, dict[str, list[str]]]:
    """The samples of one test sentence: temperature -> system -> texts."""
    return {
        f"sample_t{sampled.temperature:g}": {
            str(r.row["name"]): list(r.sampled[at].texts[place]) for r in results
        }
        for at, sampled in enumerate(results[0].sampled)
    }
