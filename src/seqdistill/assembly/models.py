"""From a recipe's teacher and student sections to models and tokenizers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.assembly.data import chat_settings, collator_for, encode_for, within_limits
from seqdistill.compression.layers import keep_layers
from seqdistill.compression.width import Width, keep_width
from seqdistill.core.errors import DataError, ModelError, RecipeError, did_you_mean, named_as
from seqdistill.data.batching import in_length_order
from seqdistill.data.bundled import SCHEME, bundled_folder
from seqdistill.data.examples import Example
from seqdistill.generation.model_facts import declare_ends
from seqdistill.models.adapters import begin_like, kind_of
from seqdistill.models.dropout import set_dropout
from seqdistill.models.hearing import new_extractor
from seqdistill.models.languages import with_languages
from seqdistill.models.loading import (
    LoadedModel,
    fitting,
    load_config,
    load_extractor,
    load_pair,
    load_tokenizer,
    with_adapters,
)
from seqdistill.models.placement import Placement, device_of
from seqdistill.models.places import base_of
from seqdistill.models.scratch import configuration, random_model, train_vocabulary
from seqdistill.recipe.schema import EvaluationSection, Recipe, TeacherSection

_LOOKED_AT = 256
"""Rows on which the importance of neurons, heads and channels is measured."""


def model_folder(name: str) -> str:
    """The folder or hub name that a recipe's model name stands for: `bundled:` is in the package.

    Raises ModelError for a bundled name that does not exist.
    """
    if not name.startswith(SCHEME):
        return name
    bundled = bundled_folder()
    folder = bundled / name.removeprefix(SCHEME) / "teacher"
    if not (folder / "config.json").is_file():
        known = [SCHEME + path.parent.parent.name for path in bundled.glob("*/teacher/config.json")]
        raise ModelError(
            f"A bundled model must be one of {known}, but found {name!r}."
            f"{did_you_mean(name, known)}"
        )
    return str(folder)


def trusts_code(recipe: Recipe) -> bool:
    """Whether whoever gives the recipe trusts code of its models, which the student's may be of."""
    return recipe.teacher.trust_remote_code or recipe.student.trust_remote_code


def without_trust(recipe: Recipe) -> Recipe:
    """The recipe with no code trusted."""
    return recipe.model_copy(
        update={
            name: section.model_copy(update={"trust_remote_code": False})
            for name, section in (("teacher", recipe.teacher), ("student", recipe.student))
        }
    )


def teacher_placement(recipe: Recipe) -> Placement:
    """Where the recipe's teacher runs, and in what."""
    return _placement(recipe.teacher, recipe, "teacher.device")


def evaluation_placement(recipe: Recipe) -> Placement:
    """Where every system is measured, and in what."""
    return _placement(recipe.evaluation, recipe, "evaluation.device")


def _placement(section: TeacherSection | EvaluationSection, recipe: Recipe, key: str) -> Placement:
    if section.device == "auto":
        device = device_of(recipe.training.device)
    else:
        device = device_of(section.device, key=key)
    return Placement(device, section.dtype, section.attention)


def named_model(name: str, recipe: Recipe, placement: Placement, *, trusted: bool) -> LoadedModel:
    """The model of that folder or hub name, with the languages of the recipe's data."""
    pair = load_pair(model_folder(name), trust_remote_code=trusted, placement=placement)
    return with_languages(dataclasses.replace(pair, name=name), *recipe.data.model_languages)


def build_teacher(recipe: Recipe, placement: Placement | None = None) -> LoadedModel:
    """The teacher that the recipe names, where the recipe has it unless `placement` says otherwise;
    the student's first weights where it is its own.

    Raises RecipeError where several are named and one is needed.
    """
    section = recipe.student if recipe.teacher.is_student else recipe.teacher
    if not isinstance(section.model, str):
        raise RecipeError(
            "teacher.model must name one teacher here, got a list of "
            f"{len(recipe.teacher.members)}; name one of them as teacher.model=..."
        )
    placement = placement or teacher_placement(recipe)
    if recipe.teacher.is_student:  # in the dtype in which it is trained
        placement = dataclasses.replace(placement, dtype="fp32")
    with named_as("student.model" if recipe.teacher.is_student else "teacher.model"):
        return named_model(section.model, recipe, placement, trusted=section.trust_remote_code)


def each_teacher(recipe: Recipe) -> list[Recipe]:
    """The recipe with each of its teachers alone, and a folder for the labels of each."""
    if not recipe.teacher.members:
        return [recipe]
    found, corpus = [], recipe.sequences.corpus
    for number, member in enumerate(recipe.teacher.members, start=1):
        one = {"model": member.model, "mixture": "probabilities", "route_by": None}
        folder = corpus and str(Path(corpus) / f"teacher-{number}")
        sections = {
            "teacher": recipe.teacher.model_copy(update=one),
            "sequences": recipe.sequences.model_copy(update={"corpus": folder}),
        }
        found.append(recipe.model_copy(update=sections))
    return found


def build_teachers(recipe: Recipe, *, asked: bool) -> tuple[LoadedModel, ...]:
    """The teachers that the recipe names: of several the first, or all where they are `asked` at
    every update. Adapters over one base, and the base itself, share its weights."""
    alone = each_teacher(recipe)
    if len(alone) == 1 or not asked:
        return (build_teacher(alone[0]),)
    names = [model_folder(one) for one in recipe.teacher.other_models]
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        base = base_of(name)
        key = str(Path(base).resolve()) if Path(base).is_dir() else base
        groups.setdefault(key, []).append(place)
    found: dict[int, LoadedModel] = {}
    for places in groups.values():
        if len({names[place] for place in places}) == 1:  # one model, perhaps named twice
            found |= dict.fromkeys(places, build_teacher(alone[places[0]]))
            continue
        base = base_of(names[places[0]])
        section = alone[places[0]].teacher.model_copy(update={"model": base})
        pair = build_teacher(recipe.model_copy(update={"teacher": section}))
        found |= zip(places, with_adapters(pair, [names[p] for p in places]), strict=True)
    return tuple(found[place] for place in range(len(names)))


def teaches_without_adapters(recipe: Recipe) -> bool:
    """Whether the student's first weights, as its teacher, are those under its adapters: not where
    they label or are kept beforehand, nor where the student is in shards."""
    teacher, labels = recipe.teacher, recipe.sequences.decoded_by_teacher
    first = teacher.is_student and teacher.average_decay == 1.0
    only_scores = not (teacher.keeps_scores or labels)
    adapted = recipe.student.lora.rank is not None and recipe.training.parallel != "fsdp2"
    return first and only_scores and adapted


def own_teacher(recipe: Recipe, student: LoadedModel) -> LoadedModel:
    """The student, not trained yet, as its own teacher: a copy unless it is to be the live one, or
    its adapters are switched off for it."""
    if recipe.teacher.average_decay == 0.0 or teaches_without_adapters(recipe):
        return student
    # Pruned weights are not those of its folders.
    folders = student.folders if recipe.pruning.sparsity is None else ()
    return dataclasses.replace(student, model=copy.deepcopy(student.model), folders=folders)


def build_student(
    recipe: Recipe, teacher: LoadedModel | None, train_examples: Iterable[Example]
) -> LoadedModel:
    """The student before its first update.

    Its generation config says from now on where its sequences start and end, so that what plain
    transformers writes with the saved student is what it was trained to write. Raises ModelError
    for one that transformers would not save when it is trained.
    """
    pair = with_languages(
        _initial_student(recipe, teacher, train_examples), *recipe.data.model_languages
    )
    if recipe.training.dropout is not None:
        set_dropout(pair.model, recipe.training.dropout)
    declare_ends(pair.model, pair.tokenizer, kind=pair.kind)
    try:
        if pair.model.generation_config is not None:
            pair.model.generation_config.validate(strict=True)
    except ValueError as error:
        raise ModelError(
            "The student's generation_config.json must hold settings that go together, since "
            f"transformers saves no others, but: {' '.join(str(error).split())[:300]} Fix that "
            f"file of {pair.name!r}."
        ) from error
    return pair


def _initial_student(
    recipe: Recipe, teacher: LoadedModel | None, train_examples: Iterable[Example]
) -> LoadedModel:
    section = recipe.student
    if section.init == "scratch":
        return _from_scratch(recipe, teacher, train_examples)
    if section.init == "teacher_layers":
        assert teacher is not None
        model = keep_layers(
            _narrowed(recipe, teacher, train_examples),
            encoder_layers=section.encoder_layers,
            decoder_layers=section.decoder_layers,
        )
        # Whatever the teacher's dtype and device: the student's weights are trained in fp32.
        model.to("cpu", torch.float32)
        return LoadedModel(model, teacher.tokenizer, "student", extractor=teacher.extractor)
    assert section.model is not None
    with named_as("student.model"):
        pair = load_pair(model_folder(section.model), trust_remote_code=section.trust_remote_code)
    return dataclasses.replace(pair, name=section.model)


def _narrowed(
    recipe: Recipe, teacher: LoadedModel, train_examples: Iterable[Example]
) -> PreTrainedModel:
    """The teacher's model with what is kept of its width; itself where that is all."""
    if not (width := recipe.student.width):
        return teacher.model
    answered = (example for example in train_examples if example.target)
    rows = list(itertools.islice(answered, _LOOKED_AT))
    read = encode_for(teacher, rows, chat_settings(recipe.data))
    encoded = within_limits(read, teacher, recipe.data)
    examples, collator = encoded.examples, collator_for(teacher)
    if not examples:
        raise DataError(
            "data.train must have rows with targets, on which what the student keeps of the "
            "teacher's width is measured, but found none; add some, or remove student.ffn_size, "
            "student.attention_heads and student.hidden_size."
        )
    batches = in_length_order(examples, teacher.kind, recipe.training.batch_tokens)
    return keep_width(
        teacher.model, Width(**width), (collator([examples[i] for i in each]) for each in batches)
    )


def _from_scratch(
    recipe: Recipe, teacher: LoadedModel | None, train_examples: Iterable[Example]
) -> LoadedModel:
    tokenizer: PreTrainedTokenizerBase
    section = recipe.student
    if section.model is not None:
        with named_as("student.model"):
            folder, trust = model_folder(section.model), section.trust_remote_code
            config = load_config(folder, trust_remote_code=trust)
            tokenizer = load_tokenizer(folder, trust_remote_code=trust)
        model = random_model(config, seed=recipe.seed)
        extractor = load_extractor(folder, config)
        found = fitting(LoadedModel(model, tokenizer, section.model, extractor=extractor))
        return dataclasses.replace(found, name="student")
    assert section.architecture is not None
    if teacher is not None:
        tokenizer = teacher.tokenizer
    else:
        texts = (text for e in train_examples for text in (e.source, e.target or "") if text)
        tokenizer = train_vocabulary(texts, vocab_size=section.vocab_size or 8000)
    config = configuration(section.architecture, tokenizer)
    model = random_model(config, seed=recipe.seed)
    if teacher is not None and kind_of(model) == teacher.kind == "seq2seq":
        begin_like(model, teacher.model)
    return LoadedModel(model, tokenizer, "student", extractor=new_extractor(config))
