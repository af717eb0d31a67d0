"""Examples -> token ids: checked, encoded by as many processes as they are worth, and cached."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError
from seqdistill.core.version import __version__
from seqdistill.data.cache import CACHED_FROM_BYTES, content_of, stored
from seqdistill.data.conversations import (
    PLAIN_CHAT,
    ChatSettings,
    check_options,
    check_read,
)
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.marks import end_ids
from seqdistill.data.row_encoders import RowEncoder, row_encoder
from seqdistill.data.tables import ROWS_PER_BATCH, Notes
from seqdistill.data.tokenizing import MARK
from seqdistill.records.environment import usable_cores

_LOG = logging.getLogger(__name__)
_RECORDINGS_PER_BATCH = 64
"""Features take a megabyte for each half minute."""


_NOTED = {
    "across": "%d prompts end otherwise alone than before their answers, as a token lies across "
    "the border (a blank at a prompt's end, perhaps) or the chat template opens an answer "
    "otherwise than it shows one: learned as in the whole text, generated from the prompt alone",
    "composed": "the chat template drops a part of %d answers (a thought, perhaps): they are "
    "learned as they stand after the prompt",
    "call alone": "the chat template drops what %d answers say beside their calls: the calls "
    "alone are learned",
    "unseen": "%d earlier turns of the assistant are not found in the rendered conversations: they "
    "do not count",
}


def _log(notes: Notes) -> None:
    marks = [name.removeprefix(MARK) for name in notes if name.startswith(MARK)]
    if marks:
        count = sum(notes[MARK + mark] for mark in marks)
        _LOG.warning(
            "%d texts hold marks of the model such as %r: they are read as text", count, marks[0]
        )
    for name, sentence in _NOTED.items():
        if notes.get(name):
            _LOG.warning(sentence, notes[name])


def _rows_per_batch(examples: ExampleTable) -> int:
    return _RECORDINGS_PER_BATCH if examples.has_audio else ROWS_PER_BATCH


def _batch(examples: ExampleTable, encoder: RowEncoder, start: int) -> tuple[Any, Notes]:
    """The encoded rows of one batch, and what was noticed of them."""
    encoder.noted.clear()
    rows = list(examples[start : start + _rows_per_batch(examples)])
    encoded = encoder(rows)
    noted = dict(encoder.noted)
    if any(row.has_teacher_prompt for row in rows):
        encoder.noted.clear()
        read = encoder([row.for_teacher() for row in rows])
        noted = {n: count for n, count in encoder.noted.items() if n.startswith(MARK)} | noted
        encoded = [
            _with_teacher_prompt(*each) if row.has_teacher_prompt else each[0]
            for row, each in zip(rows, zip(encoded, read, strict=True), strict=True)
        ]
    return EncodedDataset.batch_of(encoded), noted


def _with_teacher_prompt(own: EncodedExample, read: EncodedExample) -> EncodedExample:
    """The example with what the teacher reads before the same target.

    That is the prompt as it is before this answer, or, where a token across the border makes other
    ids of the answer, as it is alone.
    """
    if own.counted_spans:
        raise DataError(
            "The last answer alone must be learned where the teacher reads another prompt, but "
            f"example {own.id!r} has {len(own.counted_spans)} earlier turns of the assistant that "
            "are learned, too; set data.assistant_turns=last"
        )
    if read.target_ids != own.target_ids:
        return dataclasses.replace(own, teacher_source_ids=read.prompt_ids)
    return dataclasses.replace(
        own,
        teacher_source_ids=read.source_ids,
        teacher_own_prompt_ids=read.own_prompt_ids,
    )


def _batches(examples: ExampleTable, encoder: RowEncoder) -> Iterator[tuple[Any, Notes]]:
    """All batches, by as many processes as the data are worth; features of audio by the threads
    of this one."""
    starts = range(0, len(examples), _rows_per_batch(examples))
    num_processes = min(len(starts), usable_cores(), 16)
    is_large = examples.num_bytes >= CACHED_FROM_BYTES
    make = functools.partial(_batch, examples, encoder)
    if (
        examples.has_audio
        or num_processes < 2
        or not is_large
        or not sys.platform.startswith("linux")
    ):
        yield from map(make, starts)
        return
    # Forked, so that models, tokenizer and rows are shared and a caller's script runs once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which no child uses
        pool = multiprocessing.get_context("fork").Pool(num_processes, _begin_work, (make,))
    with pool:
        yield from pool.imap(_work, starts)


_make: Callable[[int], tuple[Any, Notes]]


def _begin_work(make: Callable[[int], tuple[Any, Notes]]) -> None:
    global _make
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _make = make


def _work(start: int) -> tuple[Any, Notes]:
    return _make(start)


def _described(tokenizer: PreTrainedTokenizerBase) -> object:
    """All of a tokenizer that decides ids, as JSON."""
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {**backend, "truncation": None, "padding": None}  # states of the last call
    else:
        rules = {"vocabulary": tokenizer.get_vocab(), "options": repr(tokenizer)}
    return [
        type(tokenizer).__name__,
        rules,
        tokenizer.chat_template,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [str(getattr(tokenizer, name, None)) for name in ("src_lang", "tgt_lang")],
        [transformers.__version__, tokenizers.__version__, __version__],
    ]


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    chat: ChatSettings = PLAIN_CHAT,
    *,
    prefix_ids: Sequence[int] = (),
    declared_ends: int | Sequence[int] | None = None,
    extractor: WhisperFeatureExtractor | None = None,
) -> EncodedDataset:
    """Token ids of every example, in order; `chat` says how conversations are rendered.

    Many examples are tokenized once, by several processes, and kept in the cache.

    `prefix_ids` are those that the model's decoder is given after its start token: targets that
    the tokenizer begins with them (a language code, <s>) lose them. `declared_ends` are what the
    model's generation config says that sequences end with: where one closes a turn it is learned.

    Of decoder-only models source and target together are the ids of the whole text, prompt and
    answer as they stand (a blank between them is the user's), up to the answer's end. A token that
    lies across the border belongs to the answer; then `prompt_ids` are those of the prompt alone.

    Recordings become features by the model's own `extractor`, in 32 bits; of a longer one than the
    model reads its beginning does, with a step more.

    What the teacher reads is encoded as the student's prompt is. Raises DataError where earlier
    turns are to be learned beside it, for recordings that cannot be read, and for sources of
    another kind than the model's.
    """
    table = ExampleTable.of(examples)
    if not table:
        return EncodedDataset.of([])
    if table.has_audio != (extractor is not None):
        reads = "text" if extractor is None else "audio"
        given = "a column audio" if table.has_audio else "texts"
        raise DataError(
            f"Rows must hold what the model is given, but it is given {reads} and the rows have "
            f"{given}; give other data, or a model such as {'Whisper' if table.has_audio else 'T5'}"
        )
    ends: tuple[int, ...] = ()
    if kind == "causal":
        ends = end_ids(tokenizer, declared_ends)
        if table.has_chats:
            check_options(tokenizer, chat)
    elif table.has_chats:
        raise DataError(
            "Rows with messages (or with columns system, tools or reasoning_content) are for "
            "decoder-only models, but the model is an encoder-decoder; give source and target "
            "columns, or name what can be left out in data.ignore_columns."
        )
    encoder = row_encoder(tokenizer, kind, chat, prefix_ids, ends, extractor)

    def make() -> Iterator[tuple[Any, Notes]]:
        if table.has_chats and tokenizer.chat_template is not None:
            check_read(table, tokenizer, chat)
            check_read((e.for_teacher() for e in table if e.has_teacher_prompt), tokenizer, chat)
        return _batches(table, encoder)

    files = [Path(example.audio or "") for example in table] if extractor is not None else []

    def key() -> object:
        if extractor is not None:
            sounds = [
                extractor.to_dict(),
                [content_of(file) if file.is_file() else "" for file in files],
            ]
            return [table.fingerprint, _described(tokenizer), sounds]
        settings = [kind, chat.template_options, chat.assistant_turns, prefix_ids, ends]
        return [table.fingerprint, _described(tokenizer), *settings]

    # Of 16-bit samples at 16 kHz the features take as many bytes.
    num_bytes = table.num_bytes + sum(file.stat().st_size for file in files if file.is_file())
    found = stored("tokenized", key, make, EncodedDataset.schema, num_bytes=num_bytes)
    _log(found.notes)
    return EncodedDataset(found)
