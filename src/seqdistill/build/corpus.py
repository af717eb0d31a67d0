"""The teacher's corpus of a recipe: where it lies, what it depends on, and its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqdistill.build.data import encode_for, encode_for_evaluation, without_references
from seqdistill.build.decoding import build_decoding, build_generator, engine_name
from seqdistill.core.errors import StaleCorpusError
from seqdistill.core.progress import Progress
from seqdistill.data.encoding import with_stand_in_targets
from seqdistill.data.examples import Example, fingerprint_examples
from seqdistill.generation.model_facts import facts_of
from seqdistill.metrics.similarity import SIMILARITIES
from seqdistill.models.identity import model_fingerprint, tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens, num_known_ids
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import output_folder
from seqdistill.records.fingerprint import of_settings
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.interpolation import InterpolationSummary
from seqdistill.sources.kept_choices import kept_interpolation
from seqdistill.sources.teacher_corpus import TeacherCorpus, label


def label_with_teacher(
    recipe: Recipe, teacher: LoadedModel, examples: Sequence[Example], progress: Progress
) -> TeacherCorpus:
    """The teacher's outputs for these examples, made now where they do not exist yet."""
    section = recipe.sequences.decoding
    decoding = build_decoding(section)
    facts = facts_of(teacher.model, teacher.tokenizer, kind=teacher.kind)
    # Where its outputs start and end need not be in the configuration.
    teacher_name = of_settings(
        [model_fingerprint(teacher.model), facts.start_id, facts.prefix_ids, facts.end_ids]
    )
    data_name = fingerprint_examples(without_references(examples))
    tokenizer_name = tokenizer_fingerprint(teacher.tokenizer)
    seed = recipe.seed if section.mode == "sample" else 0
    # Neither the batches nor the workers change an output.
    settings = section.model_dump(exclude={"batch_tokens", "threads"})
    named = [teacher_name, data_name, tokenizer_name, settings, seed]
    folder = Path(
        recipe.sequences.corpus
        or output_folder(recipe).parent / "teacher-corpora" / of_settings(named)[:16]
    )
    encoded = encode_for_evaluation(examples, teacher, recipe.data)
    progress.start("labelling with the teacher", len(examples))
    generator = build_generator(
        teacher,
        engine=section.engine,
        engine_key="sequences.decoding.engine",
        compute_type=section.compute_type,
        threads=section.threads,
        examples=with_stand_in_targets(encoded.examples),
        max_new_tokens=section.max_new_tokens,
        # Whatever student the corpus is for: it knows these ids if it has this tokenizer, and what
        # is written with others is no text.
        vocab_size=num_known_ids(teacher.tokenizer),
    )
    corpus = label(
        [(example.id, example.source_ids) for example in encoded.examples],
        generator,
        decoding,
        folder,
        teacher_fingerprint=teacher_name,
        data_fingerprint=data_name,
        tokenizer_fingerprint=tokenizer_name,
        decode=lambda ids: teacher.tokenizer.decode(ids, skip_special_tokens=True).strip(),
        engine=engine_name(generator),
        ends=named_tokens(teacher.tokenizer, facts.end_ids),
        seed=seed,
        on_progress=progress.advance,
    )
    progress.finish()
    return corpus


def teacher_outputs(
    recipe: Recipe,
    teacher: LoadedModel,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Example id -> the teacher's outputs in the student's token ids, best first.

    With one tokenizer these are the very ids that the teacher wrote; otherwise its texts are
    encoded anew.
    """
    corpus = label_with_teacher(recipe, teacher, examples, progress)
    num_outputs = recipe.sequences.decoding.n_best
    if _same_tokenizer(teacher, student):
        return _known_to(student, teacher, corpus.best(num_outputs), corpus.folder)
    return _encoded([output for output in corpus if output.rank < num_outputs], student)


def interpolated_outputs(
    recipe: Recipe,
    teacher: LoadedModel,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> tuple[dict[str, tuple[tuple[int, ...], ...]], InterpolationSummary]:
    """As `teacher_outputs`, but of each example the one output most like its target."""
    corpus = label_with_teacher(recipe, teacher, examples, progress)
    progress.start("choosing by similarity to the targets", len(examples))
    found = kept_interpolation(
        corpus,
        {example.id: example.target or "" for example in examples},
        similarity=SIMILARITIES[recipe.sequences.similarity](),
        decode=lambda ids: teacher.tokenizer.decode(ids, skip_special_tokens=True).strip(),
        on_progress=progress.advance,
    )
    progress.finish()
    if _same_tokenizer(teacher, student):
        return _known_to(student, teacher, found.targets, corpus.folder), found.summary
    return _encoded(list(found.outputs.values()), student), found.summary


def _same_tokenizer(teacher: LoadedModel, student: LoadedModel) -> bool:
    return tokenizer_fingerprint(teacher.tokenizer) == tokenizer_fingerprint(student.tokenizer)


def _known_to(
    student: LoadedModel,
    teacher: LoadedModel,
    outputs: dict[str, tuple[tuple[int, ...], ...]],
    folder: Path,
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The outputs, whose every id the student has a row for, ended as the student ends its own.

    What ends the teacher's and not the student's becomes the student's first end token. Raises StaleCorpusError for a corpus of before padded rows were cut off.
    """
    rows: int = student.model.get_output_embeddings().weight.shape[0]
    for example_id, written in outputs.items():
        highest = max((token_id for ids in written for token_id in ids), default=0)
        if highest >= rows:
            raise StaleCorpusError(
                f"{folder} must hold outputs of ids below the student's {rows}, but one of example "
                f"{example_id!r} has {highest}, from the teacher's padded rows; delete the folder "
                "to label again"
            )
    own = facts_of(student.model, student.tokenizer, kind=student.kind)
    others = facts_of(teacher.model, teacher.tokenizer, kind=teacher.kind)
    foreign = set(others.end_ids) - set(own.end_ids)
    if not foreign:
        return outputs
    return {
        example_id: tuple((*ids[:-1], own.end_id) if ids[-1] in foreign else ids for ids in written)
        for example_id, written in outputs.items()
    }


def _encoded(
    kept: Sequence[TeacherOutput], student: LoadedModel
) -> dict[str, tuple[tuple[int, ...], ...]]:
    encoded = encode_for(student, [Example(output.id, "", output.text) for output in kept])
    outputs: dict[str, tuple[tuple[int, ...], ...]] = {}
    for example in encoded:
        outputs[example.id] = (*outputs.get(example.id, ()), example.target_ids)
    return outputs
