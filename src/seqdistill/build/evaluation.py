"""Measures what a run made: teacher and students of one run directory, on its test set.

Writes results.json, samples.jsonl, outputs.jsonl and the timings; trains nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import cast

from seqdistill.build.data import read_split
from seqdistill.build.exporting import INT8_FOLDER, export_int8
from seqdistill.build.systems import exported_system, systems_of
from seqdistill.build.timings import timed
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import Progress
from seqdistill.data.examples import Example
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.evaluation.speed import Decoder, words_per_second
from seqdistill.evaluation.systems import (
    SystemResult,
    SystemUnderTest,
    compare_systems,
    curves,
    evaluate_system,
    evaluate_translations,
)
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import RunDirectory

# Enough for a stable median; slow systems decode fewer.
_SPEED_SENTENCES = 128


def evaluation_settings(recipe: Recipe) -> EvaluationSettings:
    """How the recipe says that test numbers are measured."""
    section = recipe.evaluation
    return EvaluationSettings(
        metrics=section.metrics,
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

    A teacher that was trained alone counts as its own student.
    """
    students = [row for row in rows if row["method"] != "teacher"] or rows
    worth = CORPUS_METRICS[metric].worth
    best = max(students, key=lambda row: worth(cast("float", row[f"{metric}_beam"])))
    return str(best["name"])


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
    own; they are noted in the results. Raises RecipeError for settings of other sections. Code that
    comes with the models is run with `trust_remote_code` only, whatever the run's recipe says: the
    directory may be someone else's.

    The teacher comes first where the recipe names one, then every student; the first student is
    the baseline of the paired tests when there are several, else the teacher is. With `export`
    the best student's int8 copy is written and measured like the rest, its speed in the same turns;
    its row stands under `exports`. A copy that is there already is written anew and measured.

    `measured_teacher` is what `evaluate_system` found of this teacher on this test set under these
    settings, where that is known: only its speed is measured again, beside the students'.
    """
    _check_overrides(overrides)
    recipe = load_recipe(str(run.recipe_path), overrides)
    settings = evaluation_settings(recipe)
    examples = read_split(recipe, "test")
    references = [example.target or "" for example in examples]
    systems = systems_of(run, recipe, examples, overrides, trust_remote_code=trust_remote_code)
    exported = exported_system(run, overrides)
    progress.start("evaluating", len(systems) + 1 + (export or exported is not None))
    results: list[SystemResult] = []
    for system in systems:
        teacher = _teacher(recipe, results)
        with timed(run, f"evaluate {system.name}"):
            if not results and recipe.teacher.model is not None and measured_teacher is not None:
                known = dataclasses.replace(measured_teacher, row=dict(measured_teacher.row))
                results.append(known)
            else:
                results.append(evaluate_system(system, references, settings, teacher=teacher))
        progress.advance(1, system.name)
    best = best_student([result.row for result in results], settings.metrics[0])
    original = best if export else exported
    copies: list[tuple[SystemUnderTest, SystemResult]] = []
    if original is not None:
        system = next(system for system in systems if system.name == original)
        with timed(run, "export and evaluate int8"):
            copy = export_int8(system, run.path / INT8_FOLDER, threads=recipe.training.threads)
            teacher = _teacher(recipe, results)
            result = evaluate_translations(copy, references, settings, teacher=teacher)
            result.row.update(system=original, format="ctranslate2 int8", folder=INT8_FOLDER)
        copies.append((copy, result))
        progress.advance(1, copy.name)
    with timed(run, "measure speed"):
        measure_speed([*zip(systems, results, strict=True), *copies], settings)
    progress.advance(1, "speed")
    progress.finish()
    report = _report(results, settings)
    if overrides:
        report["overrides"] = list(overrides)
    report |= {"student": best, "exports": [result.row for _, result in copies]}
    run.write_results(report)
    run.write_samples(_samples(recipe, examples, results))
    run.write_outputs(_outputs(examples, [*results, *(result for _, result in copies)]))
    run.update_manifest({"environment_of_evaluation": environment_facts()})
    return report


def _teacher(recipe: Recipe, results: Sequence[SystemResult]) -> SystemResult | None:
    """The result that the others are held against: the first, where the recipe names a teacher."""
    return results[0] if results and recipe.teacher.model is not None else None


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith(("data.", "evaluation.")):
            raise RecipeError(
                "evaluate must be given settings of the sections data and evaluation only, got "
                f"{text!r}: what is trained cannot be changed afterwards; leave it out."
            )


def measure_speed(
    measured: Sequence[tuple[SystemUnderTest, SystemResult]], settings: EvaluationSettings
) -> None:
    """Adds words per second, greedy and by beam, to the results' rows, all measured in turns."""
    decoders = {
        system.name: Decoder(
            system.generator,
            [example.source_ids for example in system.examples[:_SPEED_SENTENCES]],
            system.tokenizer,
        )
        for system, _ in measured
    }
    for key, decoding in (("greedy", settings.greedy), ("beam", settings.beam)):
        rates = words_per_second(decoders, decoding)
        for system, result in measured:
            rate = rates[system.name]
            result.row.update(
                {
                    f"words_per_second_{key}": rate.median,
                    f"words_per_second_{key}_low": rate.slowest,
                    f"words_per_second_{key}_high": rate.fastest,
                    f"words_per_second_{key}_sentences": rate.num_sentences,
                }
            )


def _report(results: Sequence[SystemResult], settings: EvaluationSettings) -> dict[str, object]:
    students = [result for result in results if result.row["method"] != "teacher"]
    baseline = students[0] if len(students) > 1 else results[0]
    tests = [
        row
        for result in results
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
    recipe: Recipe, examples: Sequence[Example], results: Sequence[SystemResult]
) -> list[dict[str, object]]:
    """Evenly spaced test sentences, with every system's beam output."""
    wanted = min(recipe.evaluation.num_samples, len(examples))
    chosen = [i * len(examples) // wanted for i in range(wanted)]
    return [
        {
            "id": examples[i].id,
            "source": examples[i].source,
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
