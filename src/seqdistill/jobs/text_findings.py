"""What `doctor` finds of tokenizers, ends of sequences, chat templates, lengths and splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from seqdistill.assembly.comparing import agreement, shared_symbols
from seqdistill.assembly.feasibility import learns_from_references
from seqdistill.assembly.preparing import teacher_is_asked
from seqdistill.core.errors import ModelError
from seqdistill.data.marks import end_ids, turn_end_id
from seqdistill.data.templates import render
from seqdistill.generation.model_facts import declared_ends, pair_facts
from seqdistill.jobs.findings import Case, Finding
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens, num_known_ids
from seqdistill.recipe.schema import Recipe

_NUM_COMPARED = 160
"""Rows of which tokens are compared one by one."""
_LITTLE = 0.8
"""A smaller share of tokens that can be compared leaves much of a text to chance."""
_MANY = 0.05
"""A larger share of rows that are left out or cut is no rest, but a limit that is too low."""


def tokenizers_found(case: Case) -> Iterator[Finding]:
    for role, pair in case.pairs.items():
        rows = pair.model.get_output_embeddings().weight.shape[0]
        known, added = num_known_ids(pair.tokenizer), len(pair.tokenizer.added_tokens_decoder)
        beyond = f", {rows - known:,} rows of padding behind them" if rows > known else ""
        words = f"{role}: {known:,} tokens, {added:,} of them added{beyond}"
        yield Finding("vocabularies", "ok", words)
    if case.student is None or not case.teachers:
        return
    for role, pair in case.pairs.items():
        if pair is not case.student:
            yield _compared(case, role, pair, case.student)
    if teacher_is_asked(case.recipe):
        shared_symbols(case.recipe, case.student, case.teachers)


def _compared(case: Case, role: str, teacher: LoadedModel, student: LoadedModel) -> Finding:
    """How the two tokenizers go together."""
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        return _other_tokens(case, role, teacher, student)
    texts = [example.source for example in case.train[:_NUM_COMPARED] if example.source]
    cut, cut_too = (
        [pair.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        for pair in (teacher, student)
    )
    num_other = sum(one != other for one, other in zip(cut, cut_too, strict=True))
    if num_other:
        return Finding(
            "tokenizers",
            "warning",
            f"{role} and student have one vocabulary, but cut "
            f"{num_other:,} of {len(texts):,} texts into other tokens",
            "the teacher scores cuts that it never saw, and is less sure of them than it is",
            "save the teacher's tokenizer in the student's folder",
        )
    return Finding("tokenizers", "ok", f"{role} and student have one vocabulary")


def _other_tokens(case: Case, role: str, teacher: LoadedModel, student: LoadedModel) -> Finding:
    """How much of the texts could be compared, and which way fits."""
    said = f"{role} and student have other vocabularies"
    texts = [e.target or e.source for e in case.train[:_NUM_COMPARED] if e.target or e.source]
    asked = [] if not teacher_is_asked(case.recipe) else case.recipe.objective.built_terms()
    soft = [term.name for term in asked if not term.divergence.member.takes_targets]
    ways = "seq_kd needs no alignment and comes first; then chunk_likelihood (alm); then uld"
    try:
        found = agreement(student, teacher, texts)
    except ModelError as error:
        return Finding("tokenizers", "note", f"{said}: {error}", "they cannot be aligned", ways)
    ends = [named_tokens(pair.tokenizer, pair_facts(pair).end_ids) for pair in (student, teacher)]
    said += (
        f": {found.aligned_fraction:.1%} of the student's tokens in {len(texts):,} texts of train "
        f"lie in chunks that both cover exactly, of {found.student_tokens:.2f} student and "
        f"{found.teacher_tokens:.2f} teacher tokens; the student ends with {ends[0]}, the teacher "
        f"with {ends[1]}"
    )
    if not soft:
        return Finding(
            "tokenizers", "note", said, "the teacher's outputs are compared and learned as texts"
        )
    little = found.aligned_fraction < _LITTLE
    happens = f"{soft[0]} compares those chunks, and nothing else of the text"
    return Finding("tokenizers", "warning" if little else "note", said, happens, ways)


def ends_found(case: Case) -> Iterator[Finding]:
    for role, pair in case.pairs.items():
        tokenizer, config = pair.tokenizer, pair.model.generation_config
        ends = end_ids(tokenizer, declared_ends(pair.model))
        named = None if config is None else config.eos_token_id
        listed = {named} if isinstance(named, int) else set(named or ())
        wanted = {tokenizer.eos_token_id, turn_end_id(tokenizer)} - {None}
        if not listed:
            found = f"the generation config of the {role} names no eos_token_id"
        elif missing := sorted(wanted - listed):
            found = f"the generation config of the {role} lacks {named_tokens(tokenizer, missing)}"
        else:
            yield Finding("ends", "ok", f"{role}: {named_tokens(tokenizer, ends)}")
            continue
        yield Finding(
            "ends",
            "warning",
            f"{found}; its sequences end with {named_tokens(tokenizer, ends)}",
            "here all of these end a sequence, but plain transformers and servers of that model "
            "write on behind them",
            f"set eos_token_id to {list(ends)} in its generation_config.json",
        )


def templates_found(case: Case) -> Iterator[Finding]:
    if not case.train.has_chats:
        return
    options, shown = case.recipe.data.template_options, dict[str, str]()
    turns = [{"role": "user", "content": "Hello"}]
    for role, pair in case.pairs.items():
        if pair.tokenizer.chat_template is None:
            # One that is asked reads the student's; the student's was told with the rows.
            if role != "student" and not teacher_is_asked(case.recipe):
                yield Finding(
                    "chat templates",
                    "error",
                    f"the rows are messages, and the {role} has no chat template",
                    "it cannot read them",
                    "add chat_template.jinja to its folder, or give prompt and completion columns",
                )
            continue
        opened, closed = (
            render(pair.tokenizer, turns, opens_answer=opens, options=options).text
            for opens in (True, False)
        )
        shown[role] = opened
        if opened == closed:
            yield Finding(
                "chat templates",
                "warning",
                f"the chat template of the {role} has no generation prompt",
                "it must write the answer's opening itself, which other programs do not expect",
                "let the template read add_generation_prompt",
            )
        else:
            yield Finding("chat templates", "ok", f"{role}: there, with a generation prompt")
    if teacher_is_asked(case.recipe) and len(set(shown.values())) > 1:
        yield Finding(
            "chat templates",
            "warning",
            "teacher and student have other chat templates",
            "the teacher scores conversations in the student's, in which it was not trained",
            "save the teacher's chat_template.jinja in the student's folder",
        )
    if case.encoded is not None:
        rows = case.encoded[:_NUM_COMPARED]
        other = sum(row.own_prompt_ids is not None for row in rows)
        if other:
            yield Finding(
                "chat templates",
                "note",
                f"{other:,} of {len(rows):,} prompts end otherwise when an answer is asked for "
                "than the whole conversation shows it",
                "what the template writes between is learned as a part of the answer",
            )


def lengths_found(case: Case) -> Iterator[Finding]:
    encoded, data = case.encoded, case.recipe.data
    if encoded is None or case.student is None:
        return
    lengths, unit = encoded.lengths, "tokens" if encoded.reads_text else "steps"
    positions = pair_facts(case.student).max_positions
    looked = "" if len(encoded) == len(case.train) else f" ({len(encoded):,} looked at)"
    words = f"{len(case.train):,} rows{looked}; source {unit}: {_distribution(lengths.source)}"
    answered = lengths.target[lengths.target > 0]
    if len(answered):
        words += f"; target tokens: {_distribution(answered)}"
    words += f"; the student has {positions or 'no limit of'} positions"
    yield Finding("lengths", "ok", words)
    limits = []
    if encoded.reads_text:
        limits.append(("data.max_source_tokens", data.max_source_tokens, lengths.source, _LEFT_OUT))
    if learns_from_references(case.recipe):
        limits.append(("data.max_target_tokens", data.max_target_tokens, lengths.target, _LEFT_OUT))
    else:
        for key, most in limits_of_outputs(case.recipe):
            limits.append(
                (key, most, answered, "outputs of their length are cut off without an end")
            )
    for key, most, found, happens in limits:
        num_over = int((found > most).sum())
        if num_over:
            yield Finding(
                "lengths",
                "warning" if num_over > _MANY * len(found) else "note",
                f"{num_over:,} of {len(found):,} rows are longer than {key}={most}",
                happens,
                f"set {key}={int(found.max())} for all, {int(np.quantile(found, 0.95))} for 95 %",
            )


_LEFT_OUT = "they are left out of training"


def limits_of_outputs(recipe: Recipe) -> Iterator[tuple[str, int]]:
    """The limits of what models write for training."""
    sequences = recipe.sequences
    if sequences.rolls_out:
        yield "sequences.rollouts.max_new_tokens", sequences.rollouts.max_new_tokens
    if sequences.decoded_by_teacher:
        yield "sequences.decoding.max_new_tokens", sequences.decoding.max_new_tokens


def _distribution(lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    half, most = np.quantile(lengths, (0.5, 0.95)).astype(int)
    return f"half up to {half:,}, 95 % up to {most:,}, longest {int(lengths.max()):,}"


def splits_found(case: Case) -> Iterator[Finding]:
    known = set(case.train.inputs)
    for split, rows in case.rows.items():
        if split == "train" or not known:
            continue
        shared = sum(text in known for text in rows.inputs)
        if shared:
            yield Finding(
                "splits",
                "warning",
                f"{shared:,} of {len(rows):,} rows of data.{split} are rows of data.train, too",
                f"numbers on data.{split} are better than they are on new texts",
                "take them out of data.train",
            )
        else:
            yield Finding("splits", "ok", f"data.{split}: {len(rows):,} rows, none of data.train")
