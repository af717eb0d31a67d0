"""Measures what a run made: teacher and students of one run directory, on its test set.

Writes results.json, samples.jsonl and the timings; trains nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from seqdistill.build.data import collator_for, encode_for_evaluation, read_split
from seqdistill.build.decoding import build_generator
from seqdistill.build.exporting import export_int8
from seqdistill.build.models import model_folder
from seqdistill.build.timings import timed
from seqdistill.core.errors import RecipeError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.examples import Example
from seqdistill.evaluation.speed import Decoder, words_per_second
from seqdistill.evaluation.systems import (
    EvaluationSettings,
    SystemResult,
    SystemUnderTest,
    compare_systems,
    decodings,
    evaluate_system,
    evaluate_translations,
)
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.models.adapters import adapt
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import RunDirectory

# Enough for a stable median; every system decodes the same sentences in each round.
_SPEED_SENTENCES = 128


def weight_bytes(folder: str) -> int:
    """Bytes of the weight files in a model folder; 0 for a model that is not a local folder."""
    path = Path(folder)
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 0


def _under_test(
    name: str, folder: str, init: str, recipe: Recipe, examples: Sequence[Example]
) -> SystemUnderTest:
    trusted = recipe.teacher.trust_remote_code if name == "teacher" else False
    pair = load_pair(folder, trust_remote_code=trusted)
    encoded = encode_for_evaluation(examples, pair.tokenizer, pair.kind, recipe.data).examples
    generator = build_generator(
        pair,
        engine=recipe.evaluation.engine,
        compute_type=recipe.evaluation.compute_type,
        threads=recipe.training.threads,
        verify_on=encoded,
    )
    return SystemUnderTest(
        name=name,
        method=name,
        init=init,
        bytes=weight_bytes(folder),
        model=adapt(pair.model),
        tokenizer=pair.tokenizer,
        generator=generator,
        examples=encoded,
        collator=collator_for(pair),
    )


def _init_name(recipe: Recipe) -> str:
    student = recipe.student
    if student.init == "teacher_layers":
        kept = "+".join(str(n or "all") for n in (student.encoder_layers, student.decoder_layers))
        return f"teacher layers {kept}"
    return student.init if student.model is None else f"{student.init} {student.model}"


def _trained_runs(run: RunDirectory, overrides: Sequence[str]) -> list[tuple[Recipe, RunDirectory]]:
    """The students of a run directory: its own, or those of its members in the order compared."""
    recipe = load_recipe(str(run.recipe_path), overrides)
    if not recipe.compare:
        found = [(recipe, run)]
    else:
        members = [(load_recipe(str(m.recipe_path), overrides), m) for m in run.members()]
        order = {name: position for position, name in enumerate(recipe.compare)}
        found = sorted(members, key=lambda item: order.get(item[0].preset or "", len(order)))
    finished = [(r, m) for r, m in found if m.student_path.is_dir()]
    if not finished:
        raise UserError(
            f"A run must have a trained student to be evaluated, but {run.path} has none; finish "
            "it with `seqdistill train ... --resume`."
        )
    return finished


def _settings(recipe: Recipe) -> EvaluationSettings:
    section = recipe.evaluation
    return EvaluationSettings(
        metrics=section.metrics,
        beam_size=section.beam_size,
        length_penalty=section.length_penalty,
        max_new_tokens=section.max_new_tokens,
        bootstrap_resamples=section.bootstrap_resamples,
        confidence=section.confidence,
        seed=recipe.seed,
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
    int8_copy: Path | None = None,
) -> dict[str, object]:
    """The results of a run directory, also written to it.

    `overrides` are settings of the sections data and evaluation that take the place of the run's
    own; they are noted in the results. Raises RecipeError for settings of other sections.

    The teacher comes first where the recipe names one, then every student; the first student is
    the baseline of the paired tests when there are several, else the teacher is. With `int8_copy`
    the best student's int8 copy is written there and measured like the rest, its speed in the
    same turns; its row stands under `exports`.
    """
    _check_overrides(overrides)
    recipe = load_recipe(str(run.recipe_path), overrides)
    examples = read_split(recipe, "test")
    references = [example.target or "" for example in examples]
    systems = _systems(run, recipe, examples, overrides)
    settings = _settings(recipe)
    results: list[SystemResult] = []
    progress.start("evaluating", len(systems) + 1 + (int8_copy is not None))
    for system in systems:
        with timed(run, f"evaluate {system.name}"):
            results.append(evaluate_system(system, references, settings))
        progress.advance(1, system.name)
    best = best_student([result.row for result in results], settings.metrics[0])
    copies: list[SystemUnderTest] = []
    copied: list[SystemResult] = []
    if int8_copy is not None:
        with timed(run, "export and evaluate int8"):
            original = next(system for system in systems if system.name == best)
            copies.append(export_int8(original, int8_copy, threads=recipe.training.threads))
            copied.append(evaluate_translations(copies[0], references, settings))
            copied[0].row.update(system=best, format="ctranslate2 int8", folder=int8_copy.name)
        progress.advance(1, copies[0].name)
    with timed(run, "measure speed"):
        _measure_speed([*systems, *copies], [*results, *copied], settings)
    progress.advance(1, "speed")
    progress.finish()
    report = _report(results, settings)
    if overrides:
        report["overrides"] = list(overrides)
    report |= {"student": best, "exports": [result.row for result in copied]}
    run.write_results(report)
    run.write_samples(_samples(recipe, examples, results))
    run.update_manifest({"environment_of_evaluation": environment_facts()})
    return report


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith(("data.", "evaluation.")):
            raise RecipeError(
                "evaluate must be given settings of the sections data and evaluation only, got "
                f"{text!r}: what is trained cannot be changed afterwards; leave it out."
            )


def _systems(
    run: RunDirectory, recipe: Recipe, examples: Sequence[Example], overrides: Sequence[str]
) -> list[SystemUnderTest]:
    systems = []
    if recipe.teacher.model is not None:
        folder = model_folder(recipe.teacher.model)
        systems.append(_under_test("teacher", folder, "trained", recipe, examples))
    for member, trained in _trained_runs(run, overrides):
        folder = str(trained.student_path)
        systems.append(_under_test(member.method, folder, _init_name(member), member, examples))
    return systems


def _measure_speed(
    systems: Sequence[SystemUnderTest],
    results: Sequence[SystemResult],
    settings: EvaluationSettings,
) -> None:
    decoders = {
        system.name: Decoder(
            system.generator,
            [example.source_ids for example in system.examples[:_SPEED_SENTENCES]],
            system.tokenizer,
        )
        for system in systems
    }
    greedy, beam = decodings(settings)
    for key, decoding in (("greedy", greedy), ("beam", beam)):
        rates = words_per_second(decoders, decoding)
        for result in results:
            result.row[f"words_per_second_{key}"] = rates[str(result.row["name"])]


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
        "metrics": list(settings.metrics),
        "systems": [result.row for result in results],
        "baseline": baseline.row["name"],
        "paired_tests": tests,
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
            "outputs": {str(r.row["name"]): r.beam_texts[i] for r in results},
        }
        for i in chosen
    ]
