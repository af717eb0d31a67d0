"""Measures what a run made: teacher and students of one run directory, on its test set.

Writes results.json, samples.jsonl, outputs.jsonl and the timings.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import functools
import logging
import mimetypes
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from seqdistill.assembly.comparing import check_vocabularies
from seqdistill.assembly.data import chat_settings, read_split
from seqdistill.assembly.decoding import TRANSFORMERS
from seqdistill.assembly.judging import check_judging, judging_of, warn_of_cut_outputs
from seqdistill.core.batch import Kind
from seqdistill.core.errors import EngineError, RecipeError, UserError
from seqdistill.core.progress import Progress
from seqdistill.data.conversations import prompt_text
from seqdistill.data.examples import Example
from seqdistill.evaluation.analyses import entropy_curve
from seqdistill.evaluation.on_policy import ToTeacher, compared_on_own_samples
from seqdistill.evaluation.settings import EvaluationSettings, described
from seqdistill.evaluation.speed import measure_speed
from seqdistill.evaluation.systems import (
    Measured,
    SystemResult,
    SystemSource,
    SystemUnderTest,
    compare_systems,
    evaluate_outputs,
    evaluate_system,
)
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.jobs.export import INT8_FOLDER, export_int8
from seqdistill.jobs.logs import timed
from seqdistill.jobs.systems import exported_system, on_transformers, systems_of
from seqdistill.models.loading import LoadedModel, load_config, load_tokenizer
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import environment_facts
from seqdistill.records.locks import held
from seqdistill.records.results import (
    START,
    PairedTest,
    Results,
    Sample,
    best_student,
    recommended_student,
)
from seqdistill.records.run_directory import RunDirectory

_LOG = logging.getLogger(__name__)
_MAX_PLAYED = 2 * 2**20
"""Bytes of recordings that come with the examples shown."""


def evaluation_settings(
    recipe: Recipe, examples: Sequence[Example], kind: Kind
) -> EvaluationSettings:
    """How systems of that kind are measured, from the recipe and the targets.

    Raises DataError for targets that a metric cannot compare with.
    """
    section, judging = recipe.evaluation, judging_of(recipe, examples, kind)
    check_judging(judging, examples, "test")
    return EvaluationSettings(section, judging.metrics, judging.units, recipe.seed)


def evaluate_run(
    run: RunDirectory,
    overrides: Sequence[str] = (),
    *,
    progress: Progress,
    export: bool = False,
    measured_teacher: SystemResult | None = None,
    trust_remote_code: bool = False,
) -> Results:
    """The results of a run directory, also written to it.

    `overrides` are settings of the sections data and evaluation that take the place of the run's
    own; they are noted in the results. Raises RecipeError for settings of other sections, and
    UserError while another process writes into the run directory. Code that comes with the models
    is run with `trust_remote_code` only, whatever the run's recipe says: the directory may be
    someone else's.

    The teacher comes first where the recipe names one, then the student before its first update,
    then every student; the first student is the baseline of the paired tests when there are
    several, else the teacher is. With `export` the best student's int8 copy is written and measured
    like the rest, its speed in the same turns. A copy that exists already is made and measured
    again.

    `measured_teacher` is what `evaluate_system` found of this teacher on this test set under these
    settings, where that is known: only its speed is measured again, beside the students'.
    """
    for text in overrides:
        if not text.startswith(("data.", "evaluation.", "plugins=")):
            raise RecipeError(
                "evaluate must be given settings of the sections data and evaluation only, or "
                f"plugins, got {text!r}: what is trained cannot be changed afterwards; remove it."
            )
    with held(run.path, "evaluating"):
        recipe = load_recipe(str(run.whole(run.recipe_path)), overrides)
        examples = read_split(recipe, "test")
        systems = systems_of(run, recipe, examples, overrides, trust_remote_code=trust_remote_code)
        config = load_config(systems[-1].folder, trust_remote_code=trust_remote_code)
        kind: Kind = "seq2seq" if config.is_encoder_decoder else "causal"
        settings = evaluation_settings(recipe, examples, kind)
        if settings.section.on_policy and recipe.teacher.other_model is None:
            _LOG.warning(
                "evaluation.on_policy finds the recovery rate alone, since the recipe names no "
                "other model as teacher.model to compare with"
            )
        exported = exported_system(run, overrides)
        progress.start("evaluating", len(systems) + 1 + (export or exported is not None))
        evaluation = _Evaluation(run, recipe, examples, settings, progress)
        measured = evaluation.measured(systems, measured_teacher)
        best = best_student([result.row for _, result in measured], described(settings.main_metric))
        original = best if export else exported
        num_systems = len(measured)
        if original is not None:
            source = next(source for source, _ in measured if source.name == original)
            measured += evaluation.copied(source, measured)
        with timed(run, "measure speed"):
            results = measure_speed(measured, settings)
        progress.advance(1, "speed")
        progress.finish()
        systems_alone, copies = results[:num_systems], results[num_systems:]
        found = _results(systems_alone, copies, settings, overrides)
        run.write_results(found)
        tokenizer = load_tokenizer(systems[-1].folder, trust_remote_code=trust_remote_code)
        run.write_samples(_samples(recipe, examples, systems_alone, tokenizer))
        run.write_outputs(_outputs(examples, results))
        run.update_manifest({"environment_of_evaluation": environment_facts()})
        return found


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """One test set, and how systems are measured on it."""

    run: RunDirectory
    recipe: Recipe
    examples: Sequence[Example]
    settings: EvaluationSettings
    progress: Progress

    @property
    def references(self) -> list[str]:
        return [example.target or "" for example in self.examples]

    def measured(
        self, sources: Sequence[SystemSource], known_teacher: SystemResult | None
    ) -> list[Measured]:
        """Every system, loaded in its turn, the students beside the teacher; each with its faults.

        All decode with one engine, so that their speeds compare: where `auto` takes transformers
        for one of them, those measured before are measured again.
        """
        found = self._measured(sources, known_teacher)
        lacking = [s.name for s, result in found if result.row.engine == TRANSFORMERS]
        if not lacking:
            return found
        sources = [on_transformers(source) for source, _ in found]
        if len(lacking) == len(found):
            return list(zip(sources, (result for _, result in found), strict=True))
        _LOG.warning(
            "all systems decode with transformers, as %s must, so that their speeds compare",
            " and ".join(lacking),
        )
        return self._measured(sources, known_teacher)

    def _measured(
        self, sources: Sequence[SystemSource], known_teacher: SystemResult | None
    ) -> list[Measured]:
        found: list[Measured] = []
        beside: SystemUnderTest | None = None
        for source in sources:
            teacher = self._teacher(found)
            with timed(self.run, f"evaluate {source.name}"):
                try:
                    system = source.load()
                except UserError as error:
                    if source.name != START:
                        raise
                    _LOG.warning("the student before its first update is left out: %s", error)
                    continue
                if source is sources[-1]:
                    warn_of_cut_outputs(
                        system.examples, self.settings.section.max_new_tokens, "test"
                    )
                result = known_teacher if self.recipe.teacher.other_model and not found else None
                if result is None or result.row.engine != system.engine:
                    result = evaluate_system(
                        system, self.references, self.settings, teacher=teacher
                    )
                if self.settings.section.on_policy and teacher is not None:
                    beside = beside or sources[0].load(engine="transformers")
                    result = result.with_row(**self._to_teacher(system, beside))
                del system  # before the next is loaded
            found.append((source, result))
            self.progress.advance(1, source.name)
        return found

    def _to_teacher(self, system: SystemUnderTest, teacher: SystemUnderTest) -> ToTeacher:
        """How far it is on the system's samples; nothing, with a warning, for other token ids."""
        student, other = (
            LoadedModel(each.model.module, each.tokenizer, each.name) for each in (system, teacher)
        )
        try:
            vocab_size = check_vocabularies(student, other)
        except UserError as error:
            _LOG.warning(
                "%s is not compared with the teacher on its own samples: %s", system.name, error
            )
            return {}
        return compared_on_own_samples(
            system.generator,
            system.model,
            teacher.model,
            system.examples,
            system.collator,
            self.settings,
            vocab_size=vocab_size,
        )

    def copied(self, source: SystemSource, measured: Sequence[Measured]) -> list[Measured]:
        """The system's int8 copy, written and measured.

        None where `auto` may go without what CTranslate2 cannot run; an older copy goes then: it
        would be taken for this student's.
        """
        evaluation, folder, found = self.recipe.evaluation, self.run.path / INT8_FOLDER, []
        threads = self.recipe.training.threads
        with timed(self.run, "export and evaluate int8"):
            try:
                copy = export_int8(
                    source.load(),
                    folder,
                    max_new_tokens=evaluation.max_new_tokens,
                    threads=threads,
                )
            except EngineError as error:
                if evaluation.engine == "ctranslate2":
                    raise
                _LOG.warning("there is no int8 copy of %s. %s", source.name, error.problem)
                if folder.is_dir():
                    _LOG.warning("%s, which was made before, is removed", folder)
                    shutil.rmtree(folder)
            else:
                teacher = self._teacher(measured)
                result = evaluate_outputs(copy, self.references, self.settings, teacher=teacher)
                result = result.with_row(
                    copy_of=source.name, format="ctranslate2 int8", folder=INT8_FOLDER
                )
                read = functools.partial(self._stored_copy, source, copy.name)
                found.append((SystemSource(copy.name, source.folder, read), result))
        self.progress.advance(1, f"{source.name} int8")
        return found

    def _stored_copy(self, source: SystemSource, name: str) -> SystemUnderTest:
        system, threads = source.load(engine="transformers"), self.recipe.training.threads
        generator = CTranslate2Generator.open(
            self.run.path / INT8_FOLDER, threads=threads, device=system.model.module.device
        )
        return dataclasses.replace(system, name=name, generator=generator)

    def _teacher(self, measured: Sequence[Measured]) -> SystemResult | None:
        """What the others are compared with: the first, where the recipe names a teacher."""
        return measured[0][1] if measured and self.recipe.teacher.other_model is not None else None


def _results(
    results: Sequence[SystemResult],
    copies: Sequence[SystemResult],
    settings: EvaluationSettings,
    overrides: Sequence[str],
) -> Results:
    tested = [result for result in results if result.row.method != START]
    students = [result for result in tested if result.row.is_student]
    baseline = students[0] if len(students) > 1 else tested[0]
    tests: list[PairedTest] = []
    for result in tested:
        if result is not baseline:
            tests += compare_systems(result, baseline, settings)
    rows = [result.row for result in results]
    metrics = tuple(described(settings.metric(name)) for name in settings.metrics)
    return Results(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metrics=metrics,
        units=dataclasses.asdict(settings.units),
        overrides=tuple(overrides),
        systems=tuple(rows),
        exports=tuple(copy.row for copy in copies),
        baseline=baseline.row.name,
        student=best_student(rows, metrics[0]),
        recommended=recommended_student(rows, metrics[0]),
        paired_tests=tuple(tests),
        entropy_by_position={
            result.row.name: entropy_curve(result.predictions)
            for result in results
            if result.predictions is not None
        },
    )


def _samples(
    recipe: Recipe,
    examples: Sequence[Example],
    results: Sequence[SystemResult],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Sample]:
    """Evenly spaced test examples, with every system's beam output.

    The source of a conversation is all of it up to the answer, as `tokenizer` renders it. The first
    few recordings come with what is heard.
    """
    chat = chat_settings(recipe.data)
    wanted = min(recipe.evaluation.num_samples, len(examples))
    shown = [examples[place * len(examples) // wanted] for place in range(wanted)]
    heard = _recordings([example.audio for example in shown])
    return [
        Sample(
            id=example.id,
            source=prompt_text(example, tokenizer, chat),
            reference=example.target,
            outputs={
                result.row.name: result.beam.texts[place * len(examples) // wanted]
                for result in results
            },
            audio=audio,
        )
        for place, (example, audio) in enumerate(zip(shown, heard, strict=True))
    ]


def _recordings(files: Sequence[str | None]) -> list[str | None]:
    """Each file as a data URI, as long as there is room for it; None for the others."""
    found: list[str | None] = []
    room = _MAX_PLAYED
    for file in files:
        if file is None or (room := room - Path(file).stat().st_size) < 0:
            found.append(None)
            continue
        content = base64.b64encode(Path(file).read_bytes()).decode()
        found.append(f"data:{mimetypes.guess_type(file)[0] or 'audio/wav'};base64,{content}")
    return found


def _outputs(
    examples: Sequence[Example], results: Sequence[SystemResult]
) -> list[dict[str, object]]:
    """Every test example with each system's outputs: greedy, beam search, sampled, forced."""
    forced = {r.row.name: r.forced_texts for r in results if r.forced_texts is not None}
    return [
        {
            "id": example.id,
            "reference": example.target,
            "greedy": {result.row.name: result.greedy.texts[i] for result in results},
            "beam": {result.row.name: result.beam.texts[i] for result in results},
            **{
                f"sample_t{sampled.temperature:g}": {
                    result.row.name: list(result.sampled[at].texts[i]) for result in results
                }
                for at, sampled in enumerate(results[0].sampled)
            },
            **({"forced": {name: texts[i] for name, texts in forced.items()}} if forced else {}),
        }
        for i, example in enumerate(examples)
    ]
