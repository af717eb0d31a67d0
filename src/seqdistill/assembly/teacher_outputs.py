"""What a student learns of a teacher's corpus: which outputs, in the student's own token ids."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from seqdistill.assembly.corpus import asked_of, label_with_teacher, wanted_corpus
from seqdistill.assembly.data import (
    chat_settings,
    encode_for,
    without_references,
)
from seqdistill.assembly.judging import text_units
from seqdistill.assembly.models import build_teacher
from seqdistill.core.errors import ModelError, StaleCorpusError
from seqdistill.core.progress import Progress
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.examples import Example
from seqdistill.generation.model_facts import pair_facts
from seqdistill.generation.text_server import text_of
from seqdistill.metrics.similarity import similarity_of
from seqdistill.models.identity import tokenizer_fingerprint
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.error_filter import within_error_rate
from seqdistill.sources.interpolation import interpolate
from seqdistill.sources.pool import Pool
from seqdistill.sources.shards import TeacherOutput
from seqdistill.sources.teacher_corpus import (
    TeacherCorpus,
    in_step,
)

Kept = Iterable[tuple[str, Sequence[TeacherOutput]]]
"""Each example's id, in order, with the teacher's outputs to use."""
_ENCODED_TOGETHER = 1024
Outputs = Iterator[tuple[str, Sequence[tuple[int, ...]]]]
"""Each example's id, in order, with its outputs' token ids, best first."""


def teacher_outputs(
    recipe: Recipe,
    teacher: LoadedModel | None,
    student: LoadedModel,
    examples: Sequence[Example],
    progress: Progress,
) -> tuple[Outputs, dict[str, object]]:
    """The teacher's outputs in the student's token ids, and how they were chosen: of an
    interpolation the one output of each example most like its target, or those within a word error
    rate.

    With one tokenizer these are the very ids that the teacher wrote; otherwise its texts are
    encoded anew.
    """
    kept: Kept
    facts: dict[str, object] = {}
    if recipe.teacher.members:
        assert teacher is not None
        corpus: TeacherCorpus = _pool(recipe, teacher, examples, progress)
    else:
        corpus = label_with_teacher(wanted_corpus(recipe, teacher, examples), progress)
    references = [(example.id, example.target or "") for example in examples]
    if recipe.sequences.origin == "interpolation":
        decode = text_of if teacher is None else TextDecoder(teacher.tokenizer).text
        progress.start("choosing by similarity to the targets", len(examples))
        kept, summary = interpolate(
            corpus,
            references,
            similarity=similarity_of(recipe.sequences.similarity, text_units(recipe, examples)),
            decode=lambda ids: decode(ids).strip(),
            on_progress=progress.advance,
        )
        progress.finish()
        facts = {"interpolation": dataclasses.asdict(summary)}
    else:
        num_outputs = recipe.sequences.decoding.n_best

        def best() -> Iterator[tuple[str, Sequence[TeacherOutput]]]:
            for name, outputs in corpus.by_example():
                yield name, corpus.best(outputs, num_outputs)

        kept = best()
        if (most := recipe.sequences.max_word_error_rate) is not None:
            kept, left = within_error_rate(best, references, most=most)
            facts = {"error_filter": dataclasses.asdict(left)}
    if teacher is not None and tokenizer_fingerprint(teacher.tokenizer) == tokenizer_fingerprint(
        student.tokenizer
    ):
        return _known_to(student, teacher, kept, corpus.folder), facts
    return _encoded(kept, recipe, teacher, student, examples), facts


def _pool(
    recipe: Recipe, teacher: LoadedModel, examples: Sequence[Example], progress: Progress
) -> Pool:
    """What all teachers write, one after the other in memory; `teacher` is the first.

    Raises ModelError for one that has another tokenizer or ends otherwise.
    """
    corpora = []
    for one, part in asked_of(recipe, examples):
        pair = build_teacher(one)
        facts = [
            (tokenizer_fingerprint(p.tokenizer), pair_facts(p).end_ids) for p in (teacher, pair)
        ]
        if facts[0] != facts[1]:
            raise ModelError(
                "Teachers whose outputs are one pool must have one tokenizer and end alike, but "
                f"{teacher.name!r} and {pair.name!r} do not; label with each, and train on the one "
                "corpus after the other"
            )
        if len(part):
            corpora.append(label_with_teacher(wanted_corpus(one, pair, part), progress))
    return Pool.of(corpora, [example.id for example in examples])


def _known_to(student: LoadedModel, teacher: LoadedModel, kept: Kept, folder: Path) -> Outputs:
    """The outputs, whose every id the student has a row for, ended as the student ends its own.

    What ends the teacher's and not the student's becomes the student's first end token. Raises
    StaleCorpusError for ids that the student has no row for.
    """
    rows: int = student.model.get_output_embeddings().weight.shape[0]
    own = pair_facts(student)
    foreign = set(pair_facts(teacher).end_ids) - set(own.end_ids)
    for name, outputs in kept:
        found = [output.token_ids for output in outputs]
        highest = max((token_id for ids in found for token_id in ids), default=0)
        if highest >= rows:
            raise StaleCorpusError(
                f"{folder} must hold outputs of ids below the student's {rows}, but one of example "
                f"{name!r} has {highest}, from the teacher's padded rows; delete the folder to "
                "label again"
            )
        yield name, [(*ids[:-1], own.end_id) if ids[-1] in foreign else ids for ids in found]


def _as_written(
    kept: Sequence[TeacherOutput], recipe: Recipe, teacher: LoadedModel, asked: Sequence[Example]
) -> list[str]:
    """The texts of outputs as they follow their prompts, with the blank that an LLM writes first.

    Those of conversations and of encoder-decoders stand alone, and have no blanks around them.
    """
    plain = [example for example in asked if teacher.kind == "causal" and example.messages is None]
    prompts = {e.id: e.prompt_ids for e in encode_for(teacher, plain, chat_settings(recipe.data))}
    decoder = TextDecoder(teacher.tokenizer)
    found = []
    for output in kept:
        text = output.text
        if output.id in prompts:
            ids = output.token_ids[:-1] if output.finished else output.token_ids
            before, whole = decoder.texts([prompts[output.id], (*prompts[output.id], *ids)])
            text = whole[len(before) :] if whole.startswith(before) else text
        # A cut may fall into a character of several bytes.
        found.append(text if output.finished else text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return found


def _encoded(
    kept: Kept,
    recipe: Recipe,
    teacher: LoadedModel | None,
    student: LoadedModel,
    examples: Sequence[Example],
) -> Outputs:
    """The outputs in the student's ids: each as the answer to its prompt, with which it is one
    text."""
    asked = in_step(((e.id, e) for e in without_references(examples)), kept)
    ends = pair_facts(student).end_ids
    while chunk := list(itertools.islice(asked, _ENCODED_TOGETHER)):
        outputs = [output for _, found in chunk for output in found]
        read = [example.for_teacher() for example, _ in chunk]
        if teacher is not None:
            texts = _as_written(outputs, recipe, teacher, read)
        elif student.kind == "causal" and recipe.teacher.server.api == "completions":
            texts = [output.text for output in outputs]  # with the blank that follows a prompt
        else:
            texts = [output.text.strip() for output in outputs]
        asking = (example for example, found in chunk for _ in found)
        answered = [
            dataclasses.replace(example, target=text)
            for example, text in zip(asking, texts, strict=True)
        ]
        encoded = iter(encode_for(student, answered, chat_settings(recipe.data)))
        for example, found in chunk:
            ids = [next(encoded).target_ids for _ in found]
            yield (
                example.id,
                [
                    # A cut sample has no end, and none is made up.
                    one[:-1] if not output.finished and len(one) > 1 and one[-1] in ends else one
                    for one, output in zip(ids, found, strict=True)
                ],
            )
