"""Contradictions inside a recipe: settings that are each right by themselves but not together.

Every one is reported, as a key and a sentence: what must hold, what was found, what to do. Files
and models are not looked at; what they lack is found by the packages that read them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from seqdistill.recipe.contradictions import Findings
from seqdistill.recipe.model_checks import student_findings, teacher_findings
from seqdistill.recipe.objective_checks import objective_findings
from seqdistill.recipe.rollout_checks import rollout_findings
from seqdistill.recipe.schema import PruningSection, Recipe
from seqdistill.recipe.sequences_schema import DecodingSection, SequencesSection

_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]"
_TOO_LARGE = 10**18
FILE_SUFFIXES = (".tsv", ".txt", ".jsonl", ".parquet", ".gz")
"""One file holds one set of examples."""


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """`key`, as users write it, and a sentence that goes on from it."""

    key: str
    sentence: str


def contradictions(recipe: Recipe) -> list[Contradiction]:
    """Everything in one system's recipe that does not go together; nothing when it can be trained.

    The members of a comparison are systems of their own: see `systems.comparison_contradictions`.
    """
    return _found_by(
        _characters,
        _names,
        _data,
        teacher_findings,
        student_findings,
        _sequences,
        rollout_findings,
        objective_findings,
        _pruning,
        _training,
        _evaluation,
        recipe=recipe,
    )


def label_contradictions(recipe: Recipe) -> list[Contradiction]:
    """As `contradictions`, of what a teacher needs that writes: data, itself, how it decodes."""
    return _found_by(_characters, _names, _train, _decoding, _labelling_teacher, recipe=recipe)


def measured_contradictions(recipe: Recipe) -> list[Contradiction]:
    """What lacks for the numbers at the end of a run that trains and measures in one go."""
    return _found_by(_test, recipe=recipe)


def _found_by(*checks: Callable[[Recipe], Findings], recipe: Recipe) -> list[Contradiction]:
    return [Contradiction(key, sentence) for check in checks for key, sentence in check(recipe)]


def _characters(recipe: Recipe) -> Findings:
    """Texts that no file's name can hold, and numbers that no counter can."""
    for key, value in _leaves("", recipe.model_dump()):
        if isinstance(value, str) and (bad := re.search(_CONTROL, value)) is not None:
            yield key, f"must be plain text, got one with {bad[0]!a} in it; remove the character"
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            yield key, "must be a number of at most 18 digits, got a larger one; lower it"


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    inner: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    else:
        yield key, value
    for name, item in inner:
        yield from _leaves(f"{key}.{name}" if key else str(name), item)


def _names(recipe: Recipe) -> Findings:
    if recipe.method == "start":
        yield (
            "method",
            "must not be start, which names the student before its first update, got 'start'; "
            "rename it",
        )
    if not re.fullmatch(r"[\w.+-]+", recipe.method):
        yield (
            "method",
            "must be a name of letters, digits and _ . + -, since folders are named after it, "
            f"got {recipe.method!r}; rename it",
        )
    for name in re.findall(r"\{(.*?)\}", recipe.output_dir):
        if name not in ("method", "seed"):
            yield (
                "output_dir",
                f"must have no braces but {{method}} and {{seed}}, got {{{name}}}; write it out",
            )


def _train(recipe: Recipe) -> Findings:
    if recipe.data.train is None:
        yield "data.train", "must name the training examples, got none; add data.train=..."


def _test(recipe: Recipe) -> Findings:
    if recipe.data.test is None:
        yield (
            "data.test",
            "must name the examples that students are measured on, got none; add data.test=..., "
            "or train alone, by the command train",
        )


def _labelling_teacher(recipe: Recipe) -> Findings:
    if recipe.teacher.model is None:
        yield "teacher.model", "must name the model that writes, got none; add teacher.model=..."
    if recipe.stages:
        yield (
            "stages",
            "must be left out of a recipe to label, since stages label while they train, each "
            f"its own, got {len(recipe.stages)}; label {recipe.stages[0].preset} instead",
        )


def _data(recipe: Recipe) -> Findings:
    data = recipe.data
    yield from _train(recipe)
    if data.train is not None and ("," in data.train or data.train.endswith(FILE_SUFFIXES)):
        # All else is bundled, a folder or a hub name, which can hold a split of its own.
        for name, held_out in (("dev", data.dev), ("test", data.test)):
            if held_out == data.train:
                yield (
                    f"data.{name}",
                    f"must be held out from data.train, got the same {held_out!r}; "
                    f"give another file or leave data.{name} out",
                )
    if data.source_column is not None and data.source_column == data.target_column:
        yield (
            "data.target_column",
            f"must be another column than data.source_column, got {data.target_column!r} twice; "
            "name the column of the targets",
        )
    if (data.source_language is None) != (data.target_language is None):
        given, lacking = ("source", "target") if data.source_language else ("target", "source")
        yield (
            f"data.{lacking}_language",
            f"must be given together with data.{given}_language, got none; add it",
        )
    elif data.source_language is not None and data.source_language == data.target_language:
        yield (
            "data.target_language",
            f"must be another language than data.source_language, got {data.target_language!r} "
            "twice; name the language of the targets",
        )


def _sequences(recipe: Recipe) -> Findings:
    yield from _decoding(recipe)
    if recipe.sequences.corpus is not None and not recipe.sequences.decoded_by_teacher:
        yield (
            "sequences.corpus",
            "must be left out unless the teacher's outputs are decoded beforehand "
            "(sequences.origin teacher or interpolation, or mixture.others teacher), got "
            f"{recipe.sequences.corpus!r}; remove it, or set sequences.origin=teacher",
        )
    yield from _interpolation(recipe)


def _decoding(recipe: Recipe) -> Findings:
    decoding, key = recipe.sequences.decoding, "sequences.decoding"
    if decoding.mode == "beam":
        if decoding.n_best > decoding.beam_size:
            yield (
                f"{key}.n_best",
                f"must be at most {key}.beam_size, got {decoding.n_best} with a beam of "
                f"{decoding.beam_size}; raise the beam or lower n_best",
            )
        for name in ("sampling_temperature", "top_k", "top_p"):
            yield from _unused(decoding, name, "mode is sample", "mode=sample")
    else:
        for name in ("beam_size", "length_penalty"):
            yield from _unused(decoding, name, "mode is beam", "mode=beam")
    if decoding.engine == "transformers":
        yield from _unused(
            decoding, "compute_type", "engine is ctranslate2 or auto", "engine=ctranslate2"
        )


def _interpolation(recipe: Recipe) -> Findings:
    sequences = recipe.sequences
    if sequences.origin != "interpolation":
        default = SequencesSection.model_fields["similarity"].default
        if sequences.similarity != default:
            yield (
                "sequences.similarity",
                f"must be left at {default} unless sequences.origin is interpolation, got "
                f"{sequences.similarity}; remove it, or set sequences.origin=interpolation",
            )
        return
    if sequences.decoding.n_best < 2:
        yield (
            "sequences.decoding.n_best",
            "must be at least 2 for sequences.origin: interpolation, which chooses among the "
            f"teacher's outputs, got {sequences.decoding.n_best}; the paper keeps 35",
        )
    if recipe.student.init == "scratch":
        yield (
            "student.init",
            "must start from a trained student with sequences.origin: interpolation, which "
            "fine-tunes, got scratch; name the student's folder as student.model",
        )


def _unused(decoding: DecodingSection, name: str, condition: str, remedy: str) -> Findings:
    """A complaint when a setting that only counts under `condition` was changed."""
    found: object = getattr(decoding, name)
    default: object = DecodingSection.model_fields[name].default
    if found != default:
        yield (
            f"sequences.decoding.{name}",
            f"must be left at {default} unless {condition}, got {found}; "
            f"remove it, or set sequences.decoding.{remedy}",
        )


def _pruning(recipe: Recipe) -> Findings:
    if recipe.pruning.sparsity is not None:
        return
    for name, field in PruningSection.model_fields.items():
        found: object = getattr(recipe.pruning, name)
        if found != field.default:
            shown = list(found) if isinstance(found, tuple) else found
            yield (
                f"pruning.{name}",
                f"must be left out unless pruning.sparsity is given, got {shown}; remove it, or "
                "add for example pruning.sparsity=0.8",
            )


def _training(recipe: Recipe) -> Findings:
    training = recipe.training
    if training.warmup > training.steps:
        yield (
            "training.warmup_steps",
            f"must be at most training.steps, got {training.warmup} of "
            f"{training.steps}; lower the warm-up or train longer",
        )
    falls = training.schedule in ("linear", "cosine") and training.final_rate_fraction == 0.0
    if falls and training.steps == 1 and training.warmup == 0:
        yield (
            "training.steps",
            f"must be at least 2 with training.schedule: {training.schedule}, whose last update "
            "has training.final_rate_fraction of the peak rate, which is 0, got 1: nothing would "
            "be learned; train longer, or set training.schedule=constant",
        )
    if training.schedule in ("inverse_sqrt", "constant") and training.final_rate_fraction != 0.0:
        yield (
            "training.final_rate_fraction",
            f"must be left at 0 unless training.schedule is linear or cosine, got "
            f"{training.final_rate_fraction:g} with {training.schedule}; remove it",
        )
    for name, value in (
        ("adam_beta1", training.adam_beta1),
        ("adam_beta2", training.adam_beta2),
        ("dropout", training.dropout),
    ):
        if value == 1.0:
            yield f"training.{name}", "must be below 1, got 1; nothing would be learned, lower it"
    yield from _dev_scores(recipe)


def _dev_scores(recipe: Recipe) -> Findings:
    training = recipe.training
    if training.eval_every is not None and recipe.data.dev is None:
        yield (
            "data.dev",
            f"must be given with training.eval_every, got none with {training.eval_every}; "
            "add data.dev=... or remove training.eval_every",
        )
    if training.eval_every is None:
        wanting = {
            "keep_best": training.keep_best > 1,
            "patience": training.patience is not None,
            "average_best": training.average_best,
        }
        for name in (name for name, given in wanting.items() if given):
            yield (
                f"training.{name}",
                "must be left out without training.eval_every, since dev is then scored at the end "
                f"only, got {getattr(training, name)}; add training.eval_every=...",
            )
    elif training.average_best and training.keep_best < 2:
        yield (
            "training.average_best",
            f"must have at least 2 checkpoints to average, got training.keep_best "
            f"{training.keep_best}; raise training.keep_best",
        )


def _evaluation(recipe: Recipe) -> Findings:
    evaluation = recipe.evaluation
    repeated = [name for name in evaluation.metrics if evaluation.metrics.count(name) > 1]
    if repeated:
        yield (
            "evaluation.metrics",
            f"must name each metric once, got {repeated[0]} {len(repeated)} times; "
            "leave the repeats out",
        )
    elif "auto" in evaluation.metrics and len(evaluation.metrics) > 1:
        yield (
            "evaluation.metrics",
            f"must be auto alone or names of metrics, got {', '.join(evaluation.metrics)}; "
            "leave auto out, or the others",
        )
    if evaluation.engine == "transformers" and evaluation.compute_type != "float32":
        yield (
            "evaluation.compute_type",
            "must be left at float32 unless evaluation.engine is ctranslate2 or auto, got "
            f"{evaluation.compute_type}; remove it, or set evaluation.engine=ctranslate2",
        )
