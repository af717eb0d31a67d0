"""A look at a few real rows before the first step: what the model reads, learns and stops at.

Between text and tokens errors are silent: a template that doubles an answer, a tokenizer that lacks
a script, an end that is never said. Each costs a second here, and a run later.
"""

from __future__ import annotations

import contextlib
import logging
import math
import unicodedata
from collections.abc import Sequence

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

from seqdistill.assembly.preparing import Prepared
from seqdistill.assembly.teachers import teacher_facts
from seqdistill.core.errors import DataError
from seqdistill.core.origins import ROUTE
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.model_facts import ModelFacts, pair_facts
from seqdistill.generation.scoring import token_log_probs
from seqdistill.models.loading import LoadedModel
from seqdistill.models.vocabulary import named_tokens

_LOG = logging.getLogger(__name__)
_NUM_ROWS = 8
_NUM_SHOWN = 24
"""Tokens shown at each end of what is read and of what is learned."""


def preflight(prepared: Prepared) -> dict[str, object]:
    """What the first few training rows say, for the manifest; before a teacher labels, too.

    Raises DataError for a target that goes on behind an end token, and for targets of which no text
    comes back. Warns of a chat template that no row goes through, of targets whose text changes
    between encoding and decoding, of unknown tokens and of a teacher to which the references are
    less likely than chance: it was trained for other texts, another template or another language.
    """
    tokenizer, facts = prepared.student.tokenizer, pair_facts(prepared.student)
    rows = prepared.train.answered(_NUM_ROWS)
    found: dict[str, object] = {
        "rows": len(rows),
        "end_tokens": named_tokens(tokenizer, facts.end_ids),
        "decoder_prefix": named_tokens(tokenizer, facts.prefix_ids),
    }
    is_chat_model = prepared.student.kind == "causal" and tokenizer.chat_template is not None
    if is_chat_model and not prepared.train_examples.has_chats:
        _LOG.warning(
            "the student has a chat template, but the rows of data.train are plain texts: they are "
            "read as they stand, prompt and answer without anything between; rows of messages go "
            "through the template"
        )
    if rows:
        for row in rows:
            _check_end(row, facts, tokenizer)
        found |= _check_texts(rows, prepared)
        found |= _teachers_facts(rows, prepared)
    return found


def shown_row(prepared: Prepared, examples: EncodedDataset) -> list[tuple[str, str]]:
    """(label, text) pairs: the first training sequence as the student sees it.

    How much of it is read and learned, its tokens in letters that people read, and what stops an
    output. Earlier turns that count stand in brackets.
    """
    tokenizer, facts = prepared.student.tokenizer, pair_facts(prepared.student)
    row = next(iter(examples.answered(1)), examples[0])
    sequences = prepared.recipe.sequences
    if sequences.rolls_out and not sequences.has_two_origins:  # no reference is learned
        row = row.answered(())
    words = f"{row.id}: {row.num_source:,} {'tokens' if row.source is None else 'steps'} read"
    heard = None if row.source is None else prepared.train_examples.named(row.id).audio
    words += f", {row.num_counted:,} learned" if row.target_ids else ""
    if row.counted_spans:
        words += f", earlier turns ⟦in brackets⟧ among them: {len(row.counted_spans)}"
    prefix = [("begins with", named_tokens(tokenizer, facts.prefix_ids))]
    taught = [f"{name}: {fact}" for name, fact in teacher_facts(prepared.recipe).items()]
    if row.teacher_source_ids is not None:
        prompt = _shown(row.teacher_source_ids, tokenizer)
        taught.append(f"here {len(row.teacher_source_ids):,} tokens: {prompt}")
    return [
        ("first row", words),
        ("reads", heard or _shown(row.source_ids, tokenizer, row.counted_spans)),
        *([("teacher", "; ".join(taught))] if taught else []),
        *(prefix if facts.prefix_ids else []),
        ("learns", _shown(row.target_ids, tokenizer) if row.target_ids else "what it samples"),
        ("stops at", named_tokens(tokenizer, facts.end_ids)),
    ]


def _check_end(row: EncodedExample, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> None:
    """An encoder-decoder's target may have a mark behind its end, such as mBART's language."""
    inner = [i for i in row.target_ids[:-1] if i in facts.end_ids]
    if inner and facts.kind == "causal":
        raise DataError(
            f"A target must stop where every output stops, but that of {row.id!r} goes on behind "
            f"{named_tokens(tokenizer, inner[:1])}; take it out of the data"
        )


def _check_texts(rows: Sequence[EncodedExample], prepared: Prepared) -> dict[str, object]:
    """Whether the texts of targets come back from their token ids."""
    tokenizer = prepared.student.tokenizer
    decoded = TextDecoder(tokenizer).texts(row.target_ids for row in rows)
    if not any(text.strip() for text in decoded):
        raise DataError(
            "Targets must come back as text from their token ids, but those of the first "
            f"{len(rows)} examples come back empty; give the student the tokenizer that it was "
            "trained with"
        )
    unknown = tokenizer.unk_token_id
    num_unknown = sum(row.target_ids.count(unknown) for row in rows) if unknown is not None else 0
    if num_unknown:
        _LOG.warning(
            "%d of %d tokens in the first %d targets are unknown to the student's tokenizer: it "
            "can neither read nor write what they stand for",
            num_unknown,
            sum(len(row.target_ids) for row in rows),
            len(rows),
        )
    texts = {row.id: prepared.train_examples.named(row.id).target or "" for row in rows}
    changed = [
        (row.id, texts[row.id], text)
        for row, text in zip(rows, decoded, strict=True)
        if texts[row.id] and _plain(text) != _plain(texts[row.id])
    ]
    added = {shown.removesuffix(text) for _, text, shown in changed if shown.endswith(text)}
    if changed and not num_unknown and len(added) == 1:
        _LOG.warning(
            "the chat template writes %r before the answers of %d of the first %d examples: it is "
            "learned, and outputs that begin so are compared with references that do not; a "
            "template option may put it into the prompt, such as "
            "data.template_options={enable_thinking: false}",
            *(*added, len(changed), len(rows)),
        )
    elif changed and not num_unknown:
        _LOG.warning(
            "%d of the first %d targets become other texts when their tokens are decoded, such as "
            "that of %r: %r comes back as %r",
            len(changed),
            len(rows),
            *(changed[0][0], changed[0][1][:80], changed[0][2][:80]),
        )
    return {"unknown_tokens": num_unknown, "texts_changed": len(changed)}


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _teachers_facts(rows: Sequence[EncodedExample], prepared: Prepared) -> dict[str, object]:
    """The mean nats of each teacher; of several under its name, and of the rows routed to it."""
    found: dict[str, object] = {}
    for number, teacher in enumerate(prepared.teachers):
        asked = [row for row in rows if row.extras.get(ROUTE, number) == number]
        with contextlib.nullcontext() if teacher.adapter is None else teacher.adapter.on():
            nats = _nats_of(asked, prepared, teacher) if asked else None
        if nats is not None:
            of = f" of {teacher.name}" if len(prepared.teachers) > 1 else ""
            found[f"teacher_nats_per_token{of}"] = nats
    return found


def _nats_of(
    rows: Sequence[EncodedExample], prepared: Prepared, teacher: LoadedModel
) -> float | None:
    """The mean nats that the teacher gives a token of the references.

    None for a teacher that reads other ids than the student, and for another kind of model.
    """
    student = prepared.student
    if (
        teacher.kind != student.kind
        or teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab()
    ):
        return None
    facts = pair_facts(teacher)
    scored = token_log_probs(
        teacher.model,
        [(row.source or row.for_teacher().source_ids, row.target_ids) for row in rows],
        facts=facts,
    )
    values = [value for row in scored for value in row]
    nats = -sum(values) / len(values)
    if nats > math.log(facts.vocab_size):
        _LOG.warning(
            "to the teacher %s the first references are less likely than chance (%.1f nats per "
            "token; an even guess has %.1f): was it trained for these texts, in this chat "
            "template and these languages?",
            teacher.name,
            nats,
            math.log(facts.vocab_size),
        )
    return nats


def _shown(
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    spans: Sequence[tuple[int, int]] = (),
) -> str:
    """The tokens, the middle of many left out."""
    tokens = spelled(ids, tokenizer)
    for start, stop in spans:
        tokens[start] = f"⟦{tokens[start]}"
        tokens[stop - 1] += "⟧"
    return joined(tokens, at_each_end=_NUM_SHOWN)


def joined(tokens: Sequence[str], *, at_each_end: int) -> str:
    """The tokens with blanks between, the middle of many left out."""
    if (hidden := len(tokens) - 2 * at_each_end) > 0:
        tokens = [*tokens[:at_each_end], f"... ({hidden} more) ...", *tokens[-at_each_end:]]
    return " ".join(tokens)


def spelled(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each token as the vocabulary spells it; of byte-level ones the letters that their bytes are.

    Spaces stay Ġ, and so does the spelling of line breaks and of parts of a letter.
    """
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if "ByteLevel(" not in str(getattr(backend, "decoder", None)):  # alone or among others
        return tokens
    texts = [ByteLevel().decode([token]) for token in tokens]
    return [
        text.replace(" ", "Ġ") if text.isprintable() and "\ufffd" not in text else token
        for token, text in zip(tokens, texts, strict=True)
    ]
