"""Texts -> token ids: where a source is over, and where a target begins and ends.

Of encoder-decoder models both are what the tokenizer makes of the two texts. Of decoder-only models
they are one text, split at the answer. Both end with an end token.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, ModelError
from seqdistill.core.version import __version__
from seqdistill.data.audio import AudioError, log_mel, read_audio
from seqdistill.data.cache import CACHED_FROM_BYTES, content_of, stored
from seqdistill.data.conversations import (
    PLAIN_CHAT,
    ChatSettings,
    check_options,
    check_read,
    converse,
)
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.marks import end_ids, end_token_id
from seqdistill.data.tables import ROWS_PER_BATCH, Notes
from seqdistill.data.tokenizing import MARK, TextTokenizer, Tokens
from seqdistill.records.environment import usable_cores

_LOG = logging.getLogger(__name__)
_NUM_SHOWN = 5
_RECORDINGS_PER_BATCH = 64
"""Features take a megabyte for each half minute."""


class _Seq2SeqEncoder:
    """Encodes for one encoder-decoder."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prefix_ids: Sequence[int]) -> None:
        self.noted: Counter[str] = Counter()
        self._end, self._special = end_token_id(tokenizer), frozenset(tokenizer.all_special_ids)
        self._has_no_target_language = getattr(tokenizer, "tgt_lang", "") is None
        self._prefix_ids = [*prefix_ids]
        self._texts = TextTokenizer(tokenizer, self.noted)

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        sources = self._texts.ids([example.source for example in examples])
        targets = sources
        if any(example.target is not None for example in examples):
            if self._has_no_target_language:
                raise ModelError(
                    "A multilingual tokenizer must know the language of the targets, but its "
                    "tgt_lang is None, which would be taken for the source's; set it."
                )
            targets = self._texts.ids([e.target or "" for e in examples], as_targets=True)
        return [
            EncodedExample(
                example.id,
                self._closed(source),
                () if example.target is None else self._closed(self._without_prefix(target)),
                extras=example.extras,
            )
            for example, source, target in zip(examples, sources, targets, strict=True)
        ]

    def _closed(self, ids: list[int]) -> tuple[int, ...]:
        """The ids with an end token, unless it is among the special tokens that close them already.

        mBART writes `X </s> en_XX`: a second end token there would be one that it has never seen.
        """
        closing = itertools.takewhile(self._special.__contains__, reversed(ids))
        return tuple(ids) if self._end in closing else (*ids, self._end)

    def _without_prefix(self, ids: list[int]) -> list[int]:
        """What the tokenizer wrote after the tokens that the decoder is given anyway."""
        length = len(self._prefix_ids)
        return ids[length:] if ids[:length] == self._prefix_ids else ids


class _SpeechEncoder(_Seq2SeqEncoder):
    """Encodes for one that hears."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, extractor: WhisperFeatureExtractor
    ) -> None:
        super().__init__(tokenizer, ())
        self._extractor = extractor
        # Whisper's tokenizer writes the decoder's whole prompt, its start token among it.
        opened = itertools.takewhile(lambda i: i != self._end, tokenizer(text_target="").input_ids)
        self._prefix_ids = [*opened]

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        targets = self._texts.ids([e.target or "" for e in examples], as_targets=True)
        sources, wrong = [], []
        for example in examples:
            try:
                samples = read_audio(str(example.audio), rate=self._extractor.sampling_rate)
                sources.append(log_mel(samples, self._extractor))
            except AudioError as error:
                wrong.append(f"  example {example.id!r}: {error}")
        if wrong:
            found = "recordings cannot be used, one or more; fix or remove them:"
            raise DataError("\n".join([found, *wrong[:_NUM_SHOWN]]))
        return [
            EncodedExample(
                example.id,
                (),
                () if example.target is None else self._closed(self._without_prefix(target)),
                extras=example.extras,
                source=source,
            )
            for example, source, target in zip(examples, sources, targets, strict=True)
        ]


class _CausalEncoder:
    """Encodes for one decoder-only model."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat: ChatSettings, ends: Sequence[int]
    ) -> None:
        self.noted: Counter[str] = Counter()
        self._tokenizer, self._chat = tokenizer, chat
        self._texts = TextTokenizer(tokenizer, self.noted, ends)
        self._end, self._ends = end_token_id(tokenizer), frozenset(ends)

    def __call__(self, examples: Sequence[Example]) -> list[EncodedExample]:
        plain = self._plain([e for e in examples if e.messages is None])
        encoded = (
            next(plain) if example.messages is None else self._conversation(example)
            for example in examples
        )
        return [
            dataclasses.replace(one, extras=example.extras) if example.extras else one
            for one, example in zip(encoded, examples, strict=True)
        ]

    def _plain(self, examples: Sequence[Example]) -> Iterator[EncodedExample]:
        prompts = self._texts.ids([example.source for example in examples])
        answered = [example for example in examples if example.target is not None]
        self._texts.note(example.target or "" for example in answered)
        wholes = self._texts.plain([e.source + (e.target or "") for e in answered])
        for example, prompt in zip(examples, prompts, strict=True):
            while len(prompt) > 1 and prompt[-1] == self._end:
                prompt.pop()  # some tokenizers close every text; a prompt is still open
            if example.target is None:
                yield EncodedExample(example.id, tuple(prompt), ())
                continue
            whole = next(wholes)
            first = whole.first_from(len(example.source))
            ids = list(whole.ids[first:])
            while ids and ids[-1] == self._end:
                ids.pop()
            yield self._split(example.id, whole, first, (*ids, self._end), tuple(prompt))

    def _conversation(self, example: Example) -> EncodedExample:
        found = converse(example, self._tokenizer, self._texts, self._chat)
        prompt = self._texts.rendered(found.prompt, is_spelled=found.is_spelled)
        if example.answer is None:
            return EncodedExample(example.id, prompt.ids, ())
        whole = self._texts.rendered(found.whole, is_spelled=found.is_spelled)
        self.noted.update(found.notes)
        start, stop = found.answer
        first = whole.first_from(start)
        after = range(whole.first_from(stop), len(whole.ids))
        closing = next((i for i in after if whole.ids[i] in self._ends), None)
        if closing is None:  # the template closes turns with text, or not at all
            target = whole.ids[first : whole.first_from(len(found.whole.rstrip("\n")))]
            if self._ends.isdisjoint(target[-1:]):
                target = (*target, self._end)
        else:
            target = whole.ids[first : closing + 1]
        encoded = self._split(example.id, whole, first, target, prompt.ids)
        spans = (self._span(found.whole, whole, span) for span in found.earlier)
        kept = tuple((a, b) for a, b in spans if a < b <= first)
        return dataclasses.replace(encoded, counted_spans=kept)

    def _span(self, text: str, whole: Tokens, span: tuple[int, int]) -> tuple[int, int]:
        """The tokens of an earlier turn with the mark that ends it, where one follows."""
        start, stop = (whole.first_from(place) for place in span)
        blanks = len(text) - len(text[span[1] :].lstrip())
        closing = whole.first_from(blanks)
        if closing < len(whole.ids) and whole.ids[closing] in self._ends:
            stop = closing + 1
        return max(1, start), stop  # nothing foretells the first token of all

    def _split(
        self,
        example_id: str,
        whole: Tokens,
        first: int,
        target: tuple[int, ...],
        prompt_ids: tuple[int, ...],
    ) -> EncodedExample:
        source = whole.ids[:first]
        if source == prompt_ids:
            return EncodedExample(example_id, source, target)
        self.noted["across"] += 1
        return EncodedExample(example_id, source, target, (), prompt_ids)


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


def _batch(
    examples: ExampleTable, encoder: _Seq2SeqEncoder | _CausalEncoder, start: int
) -> tuple[Any, Notes]:
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


def _batches(
    examples: ExampleTable, encoder: _Seq2SeqEncoder | _CausalEncoder
) -> Iterator[tuple[Any, Notes]]:
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


def row_encoder(
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    chat: ChatSettings = PLAIN_CHAT,
    prefix_ids: Sequence[int] = (),
    ends: Sequence[int] = (),
    extractor: WhisperFeatureExtractor | None = None,
) -> _Seq2SeqEncoder | _CausalEncoder:
    """What `encode` makes of a few rows at a time, unchecked; `ends` are a decoder-only model's."""
    if kind == "causal":
        return _CausalEncoder(tokenizer, chat, ends)
    if extractor is not None:
        return _SpeechEncoder(tokenizer, extractor)
    return _Seq2SeqEncoder(tokenizer, prefix_ids)


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
