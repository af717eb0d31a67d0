"""How teacher and student are compared: symbol by symbol, or, of other tokens, in chunks of text.

The models themselves say which; what a recipe asks for decides whether that will do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from seqdistill.assembly.data import chat_settings, collator_for
from seqdistill.core.errors import ModelError, RecipeError, UserError
from seqdistill.core.terms import OF_STUDENT_ALONE
from seqdistill.data.aligning import aligned
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.examples import ExampleTable
from seqdistill.data.rereading import Rereader, Speaker
from seqdistill.data.row_encoders import row_encoder
from seqdistill.generation.model_facts import pair_facts
from seqdistill.models.adapters import decoder_prefix_ids
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import (
    check_ends,
    check_starts,
    num_known_ids,
    shared_vocab_size,
)
from seqdistill.recipe.schema import Recipe


def shared_symbols(
    recipe: Recipe, student: LoadedModel, teachers: Sequence[LoadedModel]
) -> int | None:
    """How many symbols all models know; None where the teacher has other tokens than the student
    and the recipe asks for nothing but what compares texts.

    Raises UserError for models that do not compare in the way that the recipe asks for.
    """
    try:
        return check_vocabularies(student, *teachers)
    except UserError as error:
        terms = recipe.objective.built_terms()
        plain = [t.name for t in terms if not t.divergence.member.crosses_tokenizers]
        if plain:
            raise type(error)(
                f"{error} Of the divergences chunk_likelihood and uld compare texts, too (presets "
                f"alm and uld), in the place of the objective's {plain[0]}."
            ) from error
        if len(teachers) > 1 or not terms:
            raise
    _check_crossing(recipe, student, teachers[0])
    return None


def _check_crossing(recipe: Recipe, student: LoadedModel, teacher: LoadedModel) -> None:
    """Raises UserError for what needs tokens that both models have."""
    for key, found, off in _shared_tokens_needed(recipe):
        raise RecipeError(
            f"{key} must be {off} where teacher and student have other tokens, since it compares "
            f"token by token, got {found}; change it, or give the student the teacher's tokenizer"
        )
    for whose, pair in (("student", student), ("teacher", teacher)):
        if not pair_facts(pair).reads_text:
            raise UserError(
                "Teacher and student must read text where they have other tokens, but the "
                f"{whose} hears recordings; use method seq_kd"
            )
        rows = pair.model.get_output_embeddings().weight.shape[0]
        if rows < (known := num_known_ids(pair.tokenizer)):
            raise ModelError(
                f"The {whose}'s output head must have a row for each of its tokenizer's {known} "
                f"tokens, but it has {rows}; resize its embeddings."
            )


def _shared_tokens_needed(recipe: Recipe) -> Iterator[tuple[str, object, str]]:
    """Keys that ask for it, what they say, and what they must be."""
    teacher, sequences, objective = recipe.teacher, recipe.sequences, recipe.objective
    for place, term in enumerate(objective.built_terms()):
        for weight in term.token_weights:
            if weight.member.needs_teacher:
                key = f"objective.terms.{place}.token_weights"
                yield key, weight.member.name, "without it"
    if objective.features:
        yield "objective.features", objective.features[0].match, "[]"
    for name in objective.monitors:
        if name != OF_STUDENT_ALONE:
            yield "objective.monitors", name, "without it"
    if teacher.keeps_scores:
        kept = teacher.sparse_form is not None
        key, found = (
            ("scores", teacher.scores)
            if kept
            else (
                "cache_hidden_states",
                teacher.cache_hidden_states,
            )
        )
        yield f"teacher.{key}", found, "dense" if kept else "none"
    if teacher.reload_every is not None:
        yield "teacher.reload_every", teacher.reload_every, "null"
    if sequences.rollouts.teacher_fraction > 0.0:
        yield "sequences.rollouts.teacher_fraction", sequences.rollouts.teacher_fraction, "0"
    ahead = sequences.near_policy
    if sequences.origin == "near_policy" and ahead.keep_quantiles is not None:
        yield "sequences.near_policy.keep_quantiles", list(ahead.keep_quantiles), "null"


def rereader_of(
    recipe: Recipe,
    student: LoadedModel,
    teacher: LoadedModel,
    examples: ExampleTable,
    references: EncodedDataset,
) -> Rereader:
    """What makes the teacher's batches of the student's, in the teacher's own tokens."""
    facts = pair_facts(teacher)
    encode = row_encoder(
        teacher.tokenizer,
        teacher.kind,
        chat_settings(recipe.data),
        decoder_prefix_ids(teacher.model),
        facts.end_ids,
    )
    return Rereader(
        _speaker(student),
        _speaker(teacher),
        encode,
        collator_for(teacher),
        examples,
        references,
        max_positions=facts.max_positions,
    )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two models cut the same texts."""

    aligned_fraction: float
    """Of the student's tokens those in chunks that both cover exactly."""
    student_tokens: float
    """In a chunk, on average."""
    teacher_tokens: float
    """Likewise."""


def agreement(student: LoadedModel, teacher: LoadedModel, texts: Sequence[str]) -> Agreement:
    """How they cut these texts, ends left out. Raises ModelError for a tokenizer whose tokens
    cannot be told apart byte by byte."""
    count = num_own = inside = inside_teacher = 0
    own, other = _speaker(student), _speaker(teacher)
    for text in texts:
        cuts = [
            speaker.pieces(speaker.tokenizer(text, add_special_tokens=False).input_ids)
            for speaker in (own, other)
        ]
        chunks = aligned(*cuts)
        count, num_own = count + len(chunks), num_own + len(cuts[0])
        inside += sum(chunk.stop - chunk.start for chunk in chunks)
        inside_teacher += sum(chunk.other_stop - chunk.other_start for chunk in chunks)
    return Agreement(
        inside / max(1, num_own), inside / max(1, count), inside_teacher / max(1, count)
    )


def _speaker(pair: LoadedModel) -> Speaker:
    return Speaker(pair.tokenizer, pair.kind, pair_facts(pair).end_ids)


def check_vocabularies(student: LoadedModel, *teachers: LoadedModel) -> int:
    """How many symbols all models know. Raises UserError for models that do not compare."""
    sizes = []
    for teacher in teachers:
        try:
            sizes.append(_shared_size(student, teacher))
        except UserError as error:
            if len(teachers) == 1:
                raise
            raise type(error)(f"Of the teachers {teacher.name!r}: {error}") from error
    return min(sizes)


def _shared_size(student: LoadedModel, teacher: LoadedModel) -> int:
    if teacher.kind != student.kind:
        raise UserError(
            f"Teacher and student must be of one kind to be compared token by token, but the "
            f"teacher is {teacher.kind} and the student {student.kind}; use method seq_kd."
        )
    heard = [pair.extractor and pair.extractor.to_dict() for pair in (student, teacher)]
    if heard[0] != heard[1]:
        raise UserError(
            "Teacher and student must hear the same features of a recording to be compared token "
            f"by token, but the preprocessor_config.json of {teacher.name!r} is another than the "
            "student's; use method seq_kd."
        )
    size = shared_vocab_size(
        student.tokenizer,
        teacher.tokenizer,
        student_rows=student.model.get_output_embeddings().weight.shape[0],
        teacher_rows=teacher.model.get_output_embeddings().weight.shape[0],
    )
    of_student = pair_facts(student)
    of_teacher = pair_facts(teacher)
    check_ends(
        student.tokenizer,
        teacher.tokenizer,
        student_end_ids=[i for i in of_student.end_ids if i < size],
        teacher_end_ids=[i for i in of_teacher.end_ids if i < size],
    )
    check_starts(
        student.tokenizer,
        teacher.tokenizer,
        student_start=(of_student.start_id, *of_student.prefix_ids),
        teacher_start=(of_teacher.start_id, *of_teacher.prefix_ids),
    )
    return size
