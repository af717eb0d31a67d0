"""What is wrong with a recipe whose values are each right by themselves, but not together.

Every finding is a key and a sentence: what must hold, what was found, what to do. A setting that
would not be read is one row of `_READ_WITH`, one that another needs a row of `_NEEDED_WITH`. Files
and models are not looked at; what they lack is found by the packages that read them.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator

from seqdistill.recipe.objective_checks import objective_findings, reward_findings
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Finding, Findings, Section, shown
from seqdistill.recipe.server_checks import label_server_findings, server_findings
from seqdistill.recipe.teacher_checks import teacher_findings

FILE_SUFFIXES = (".tsv", ".txt", ".jsonl", ".parquet", ".gz")
"""One file holds one set of examples."""
_GIVEN: tuple[object, ...] = ()
"""Stands for any value but null."""
_SAMPLER = "sampling_temperature", "top_k", "top_p"

# Settings (with * all of a section), and the setting and its values under which they are read.
_READ_WITH: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    ("teacher.cache_hidden_states", "teacher.scores", ("dense",)),
    *(
        (f"teacher.{name}", "teacher.scores", ("top_k",))
        for name in ("top_k", "top_k_mass", "tail")
    ),
    ("teacher.samples_per_token", "teacher.scores", ("sampled",)),
    ("teacher.average_decay", "teacher.model", ("student",)),
    ("student.model", "student.init", ("pretrained", "scratch")),
    *(
        (f"student.{name}", "student.init", ("teacher_layers",))
        for name in (
            *("encoder_layers", "decoder_layers"),
            *("ffn_size", "attention_heads", "hidden_size"),
        )
    ),
    ("student.architecture", "student.init", ("scratch",)),
    ("student.architecture", "student.model", (None,)),
    ("student.vocab_size", "student.init", ("scratch",)),
    ("student.vocab_size", "teacher.model", (None,)),
    ("student.lora.*", "student.lora.rank", _GIVEN),
    ("student.lora.rank", "student.init", ("pretrained", "teacher_layers")),
    ("student.lora.rank", "pruning.sparsity", (None,)),
    ("sequences.similarity", "sequences.origin", ("interpolation",)),
    ("sequences.max_word_error_rate", "sequences.origin", ("teacher",)),
    *((f"sequences.decoding.{name}", "sequences.decoding.mode", ("sample",)) for name in _SAMPLER),
    ("sequences.decoding.beam_size", "sequences.decoding.mode", ("beam",)),
    ("sequences.decoding.length_penalty", "sequences.decoding.mode", ("beam",)),
    ("sequences.decoding.compute_type", "sequences.decoding.engine", ("ctranslate2", "auto")),
    ("sequences.rollouts.*", "sequences.origin", ("student", "near_policy", "mixture", "replay")),
    ("sequences.mixture.*", "sequences.origin", ("mixture", "replay")),
    ("sequences.replay.*", "sequences.origin", ("replay",)),
    ("sequences.near_policy.*", "sequences.origin", ("near_policy",)),
    *(
        (f"sequences.rollouts.{name}", "sequences.rollouts.mode", ("sample",))
        for name in (*_SAMPLER, "samples_per_prompt", "teacher_fraction")
    ),
    ("sequences.rollouts.teacher_fraction", "sequences.origin", ("student", "mixture")),
    ("sequences.rollouts.engine", "sequences.rollouts.teacher_fraction", (0.0,)),
    ("sequences.rollouts.top_k", "sequences.rollouts.teacher_fraction", (0.0,)),
    ("sequences.rollouts.top_p", "sequences.rollouts.teacher_fraction", (0.0,)),
    ("sequences.rollouts.engine", "student.lora.rank", (None,)),
    ("sequences.rollouts.server.*", "sequences.rollouts.engine", ("vllm",)),
    ("pruning.*", "pruning.sparsity", _GIVEN),
    ("training.final_rate_fraction", "training.schedule", ("linear", "cosine")),
    ("training.keep_best", "training.eval_every", _GIVEN),
    ("training.patience", "training.eval_every", _GIVEN),
    ("training.average_best", "training.eval_every", _GIVEN),
    ("evaluation.compute_type", "evaluation.engine", ("ctranslate2", "auto")),
)
# Settings that must be given, and the setting and its values under which they must.
_NEEDED_WITH: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    ("data.target_language", "data.source_language", _GIVEN),
    ("data.dev", "training.eval_every", _GIVEN),
    ("student.model", "student.init", ("pretrained",)),
    ("sequences.mixture.student_fraction", "sequences.origin", ("mixture",)),
    ("training.eval_every", "sequences.mixture.student_fraction.shape", ("adaptive",)),
)


def contradictions(recipe: Recipe) -> list[Finding]:
    """Everything in one system's recipe that does not go together; nothing when it can be trained.

    The members of a comparison are systems of their own: see `systems.all_contradictions`.
    """
    checks = (_names, _train, _data, _unread, _needed, teacher_findings, server_findings)
    others = (_scratch, _sequences, objective_findings, _training, _metrics)
    return _found_by(*checks, *others, recipe=recipe)


def label_contradictions(recipe: Recipe) -> list[Finding]:
    """As `contradictions`, of what labelling needs: data, a teacher, how it decodes."""
    checks = (_names, _train, _unread, _n_best, _labelling, label_server_findings)
    found = _found_by(*checks, recipe=recipe)
    models = ("teacher.model", "teacher.server")
    read = ("method", "output_dir", "data", *models, "sequences.decoding", "stages")
    return [(key, sentence) for key, sentence in found if key.startswith(read)]


def score_contradictions(recipe: Recipe) -> list[Finding]:
    """As `contradictions`, of what pass rates need: data, a reward, a sampler."""
    return _found_by(_names, _train, _scoring, recipe=recipe)


def _scoring(recipe: Recipe) -> Findings:
    reward, rollouts = recipe.objective.reward, recipe.sequences.rollouts
    if recipe.data.unlabelled is not None:
        yield (
            "data.unlabelled",
            "must be left out of a recipe to score, whose rows of data.train are written again, "
            f"got {recipe.data.unlabelled!r}; remove it, or score it as data.train",
        )
    if rollouts.mode != "sample":
        yield (
            "sequences.rollouts.mode",
            "must be sample for pass rates, which are fractions of samples, got "
            f"{rollouts.mode}; remove it",
        )
    if reward.function is None:
        yield (
            "objective.reward.function",
            "must say which rollouts pass, got none; name one, such as exact_answer, or your own",
        )
    if rollouts.engine == "vllm":
        yield (
            "sequences.rollouts.engine",
            "must not be vllm for pass rates, whose rollouts are kept with their probabilities, "
            "got vllm; use ctranslate2 or transformers",
        )
    yield from reward_findings(reward)


def _found_by(*checks: Callable[[Recipe], Findings], recipe: Recipe) -> list[Finding]:
    return [finding for check in checks for finding in check(recipe)]


def value_at(recipe: Recipe, key: str) -> object:
    """What stands at a dotted key; None also where a section on the way is not given."""
    found: object = recipe
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


def _changed(recipe: Recipe, keys: str) -> Iterator[tuple[str, object]]:
    """The settings that are not at their defaults, of one key or of all in a section."""
    section, _, only = keys.rpartition(".")
    values = value_at(recipe, section)
    for name, value in values.changed().items() if isinstance(values, Section) else ():
        if only in ("*", name):
            yield f"{section}.{name}", value


def _holds(found: object, values: tuple[object, ...]) -> bool:
    return found in values if values else found is not None


def without_unread(recipe: Recipe) -> Recipe:
    """The recipe without what it says of data, teacher and sequences and does not read."""
    data, needed = recipe.data, recipe.sequences.needs_references
    if data.unlabelled is not None and needed is not None:
        recipe = recipe.model_copy(update={"data": data.model_copy(update={"unlabelled": None})})
    while keys := [key for key, _ in _unread(recipe) if key.startswith(("teacher.", "sequences."))]:
        values = recipe.model_dump(mode="json", exclude_unset=True)
        for *sections, name in (key.split(".") for key in keys):
            functools.reduce(operator.getitem, sections, values).pop(name, None)
        recipe = Recipe.model_validate(values)
    return recipe


def _unread(recipe: Recipe) -> Findings:
    """Settings that were changed and that nothing reads; each for the first reason."""
    told: set[str] = set()
    for keys, reader, values in _READ_WITH:
        found = value_at(recipe, reader)
        if _holds(found, values):
            continue
        names = ["left out" if value is None else shown(value) for value in values] or ["given"]
        for key, value in _changed(recipe, keys):
            if key != reader and key not in told:
                told.add(key)
                yield (
                    key,
                    f"must be left out unless {reader} is {' or '.join(names)}, got "
                    f"{shown(value)} with {shown(found) if found is not None else 'none'}; "
                    f"remove it, or change {reader}",
                )
    sequences = recipe.sequences
    if sequences.corpus is not None and not sequences.decoded_by_teacher:
        yield (
            "sequences.corpus",
            "must be left out unless the teacher's outputs are decoded beforehand, got "
            f"{sequences.corpus!r}; remove it, or set sequences.origin=teacher",
        )
    prompts = recipe.teacher.prompt_column
    if prompts is not None and recipe.teacher.scores == "none" and not sequences.decoded_by_teacher:
        yield (
            "teacher.prompt_column",
            f"must be left out where the teacher neither scores nor labels, got {prompts!r}; "
            "remove it, or set teacher.scores=dense",
        )
    keeps = recipe.teacher.keeps_scores or recipe.teacher.on_server
    if recipe.teacher.kept_scores is not None and not keeps:
        yield (
            "teacher.kept_scores",
            "must be left out where nothing of the teacher is kept, got "
            f"{recipe.teacher.kept_scores!r}; remove it, or set teacher.scores=top_k, or "
            "teacher.cache_hidden_states",
        )


def _needed(recipe: Recipe) -> Findings:
    for key, reader, values in _NEEDED_WITH:
        found = value_at(recipe, reader)
        if _holds(found, values) and value_at(recipe, key) is None:
            yield key, f"must be given with {reader} {shown(found)}, got none; add {key}=..."


def _names(recipe: Recipe) -> Findings:
    if recipe.method == "start" or not re.fullmatch(r"[\w.+-]+", recipe.method):
        yield (
            "method",
            "must be a name of letters, digits and _ . + - other than start (the student before "
            f"its first update), got {recipe.method!r}; rename it",
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


def _labelling(recipe: Recipe) -> Findings:
    if recipe.teacher.model is None and recipe.sequences.decoding.engine != "server":
        yield "teacher.model", "must name the model that labels, got none; add teacher.model=..."
    if recipe.teacher.is_student and recipe.student.model is None:
        yield (
            "teacher.model",
            "must be student only beside a student.model, whose weights label, got none; add "
            "student.model=...",
        )
    if recipe.stages:
        yield (
            "stages",
            "must be left out of a recipe to label, since stages label while they train, each "
            f"its own, got {len(recipe.stages)}; label {recipe.stages[0].preset} instead",
        )


def _data(recipe: Recipe) -> Findings:
    data = recipe.data
    if data.train is not None and ("," in data.train or data.train.endswith(FILE_SUFFIXES)):
        # All else is bundled, a folder or a hub name, which can hold a split of its own.
        for name, held_out in (("dev", data.dev), ("test", data.test)):
            if held_out == data.train:
                yield (
                    f"data.{name}",
                    f"must be held out from data.train, got the same {held_out!r}; "
                    f"give another file or leave data.{name} out",
                )
            if held_out is not None and held_out == data.unlabelled:
                yield (
                    f"data.{name}",
                    f"must be held out from data.unlabelled, got the same {held_out!r}; "
                    "give another file to one of them",
                )
    learned = recipe.sequences.needs_references
    if data.unlabelled is not None and learned is not None:
        yield (
            "data.unlabelled",
            f"must be left out where targets in the data are learned from ({learned}), since its "
            f"sources have none, got {data.unlabelled!r}; remove it, or take a method that needs "
            "prompts alone: seq_kd, on_policy_kd, or gkd with sequences.mixture.others=teacher",
        )
    for what in ("column", "language"):
        source, target = (value_at(recipe, f"data.{side}_{what}") for side in ("source", "target"))
        if source is not None and source == target:
            yield (
                f"data.target_{what}",
                f"must be another {what} than data.source_{what}, got {target!r} twice; name the "
                f"{what} of the targets",
            )


def _scratch(recipe: Recipe) -> Findings:
    """A student from random weights without a shape or a vocabulary, or with two."""
    student = recipe.student
    if student.init != "scratch":
        return
    if student.model is None and student.architecture is None:
        yield (
            "student.architecture",
            "must be given with student.init: scratch, unless student.model names a model whose "
            "configuration is taken, got none; add one of the two",
        )
    if student.architecture is not None:
        if not isinstance(student.architecture.get("model_type"), str):
            yield (
                "student.architecture",
                "must name its model_type, got none; add for example model_type: mbart",
            )
        if "vocab_size" in student.architecture:
            yield (
                "student.architecture.vocab_size",
                "must be left out, since the vocabulary decides it, got "
                f"{student.architecture['vocab_size']}; remove it, or set student.vocab_size",
            )
    if student.vocab_size is None and student.model is None and recipe.teacher.model is None:
        yield (
            "student.vocab_size",
            "must be given when neither a teacher nor student.model brings a vocabulary, got none; "
            "add for example student.vocab_size=8000",
        )


def _n_best(recipe: Recipe) -> Findings:
    decoding = recipe.sequences.decoding
    if decoding.mode == "beam" and decoding.n_best > decoding.beam_size:
        yield (
            "sequences.decoding.n_best",
            f"must be at most sequences.decoding.beam_size, got {decoding.n_best} with a beam of "
            f"{decoding.beam_size}; raise the beam or lower n_best",
        )


def _sequences(recipe: Recipe) -> Findings:
    sequences = recipe.sequences
    yield from _n_best(recipe)
    if sequences.origin == "interpolation":
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
    if not sequences.can_roll_out:
        return
    share, key = sequences.mixture.student_fraction, "sequences.mixture.student_fraction"
    if share is not None and sequences.mixture.coin == "both" and share.ends != (0.5,):
        yield (
            key,
            "must be 0.5 with sequences.mixture.coin: both, where every prompt is answered by "
            f"both, got {share}; set it to 0.5, or sequences.mixture.coin=batch",
        )
    needed, capacity = sequences.rollouts.samples_per_prompt, sequences.replay.capacity
    if sequences.origin == "replay" and capacity < needed:
        yield (
            "sequences.replay.capacity",
            f"must be at least the {needed} sequences that a single prompt gets "
            f"(sequences.rollouts.samples_per_prompt), since a batch is drawn whole, got "
            f"{capacity}; raise it",
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
    if training.eval_every is not None and training.average_best and training.keep_best < 2:
        yield (
            "training.average_best",
            f"must have at least 2 checkpoints to average, got training.keep_best "
            f"{training.keep_best}; raise training.keep_best",
        )


def _metrics(recipe: Recipe) -> Findings:
    metrics = recipe.evaluation.metrics
    if len(set(metrics)) < len(metrics) or ("auto" in metrics and len(metrics) > 1):
        yield (
            "evaluation.metrics",
            f"must be auto alone, or name each metric once, got {', '.join(metrics)}; leave the "
            "others out",
        )
