"""Texts -> token ids: where a source is over, and where a target begins and ends.

For encoder-decoder models the source and the target are what the tokenizer makes of the two texts,
end token included. For decoder-only models prompt and answer are one text: its ids are split at the
answer, and end with an end token. Nothing is padded here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import DataError, ModelError
from seqdistill.core.source import Source, SourceInputs
from seqdistill.data.conversations import PLAIN_CHAT, ChatSettings, converse
from seqdistill.data.endings import end_ids, end_token_id
from seqdistill.data.examples import Example
from seqdistill.data.tokenizing import TextTokenizer, Tokens
from seqdistill.data.unread_keys import check_read

_LOG = logging.getLogger(__name__)
Kind = Literal["seq2seq", "causal"]


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of one example; `target_ids` ends with the end token, or is empty for prompts.

    A sequence that was cut off has no end token.
    """

    id: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    counted_spans: tuple[tuple[int, int], ...] = ()
    """Stretches [start, stop) of `source_ids` that are learned like `target_ids`: the assistant's
    earlier turns of a conversation. Of decoder-only models, and only where the data's own sequence
    is learned: whoever writes another target drops them."""
    own_prompt_ids: tuple[int, ...] | None = None
    """The tokens of the prompt alone, where they are not `source_ids`: a token of the whole text
    lies across the border, or the template opens an answer otherwise than it shows a finished one.
    """
    source: SourceInputs | None = None
    """What the encoder reads where that is no text; then `source_ids` are none."""
    extras: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The numeric columns of the data that the recipe names."""

    @property
    def prompt(self) -> Source:
        """What a model is given to write a target for, of whatever modality."""
        return self.prompt_ids if self.source is None else self.source

    @property
    def num_source(self) -> int:
        """Length of the source that is learned from: in tokens, or its modality's steps."""
        return len(self.source_ids) if self.source is None else len(self.source)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What is read where a target is to be written."""
        return self.source_ids if self.own_prompt_ids is None else self.own_prompt_ids

    @property
    def counted_ids(self) -> tuple[int, ...]:
        """Every token that is learned, in order: of the counted spans, then of the target."""
        earlier = (i for start, stop in self.counted_spans for i in self.source_ids[start:stop])
        return (*earlier, *self.target_ids)

    @property
    def num_counted(self) -> int:
        """How many tokens are learned."""
        return sum(stop - start for start, stop in self.counted_spans) + len(self.target_ids)

    def answered(self, target_ids: tuple[int, ...]) -> EncodedExample:
        """The prompt with a target that was written for it."""
        return dataclasses.replace(
            self,
            source_ids=self.prompt_ids,
            target_ids=target_ids,
            counted_spans=(),
            own_prompt_ids=None,
        )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples that fit, and how many were longer than the limits and left out or cut."""

    examples: tuple[EncodedExample, ...]
    num_too_long: int


def _closed(ids: list[int], end: int, special: frozenset[int]) -> tuple[int, ...]:
    """The ids with an end token, unless it is among the special tokens that close them already.

    mBART writes `X </s> en_XX`: a second end token there would be one that it has never seen.
    """
    for token_id in reversed(ids):
        if token_id == end:
            return tuple(ids)
        if token_id not in special:
            break
    return (*ids, end)


def _without_prefix(ids: list[int], prefix_ids: Sequence[int]) -> list[int]:
    """What the tokenizer wrote after the tokens that the decoder is given anyway."""
    return ids[len(prefix_ids) :] if ids[: len(prefix_ids)] == [*prefix_ids] else ids


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's search for cycles is put off: among millions of new lists it takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _encode_seq2seq(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, prefix_ids: Sequence[int]
) -> list[EncodedExample]:
    end, special = end_token_id(tokenizer), frozenset(tokenizer.all_special_ids)
    has_targets = any(example.target is not None for example in examples)
    if has_targets and getattr(tokenizer, "tgt_lang", "") is None:
        raise ModelError(
            "A multilingual tokenizer must know the language of the targets, but its tgt_lang is "
            "None, which would be taken for the source's; set it."
        )
    texts = TextTokenizer(tokenizer)
    with _no_garbage_collection():
        sources = texts.ids([example.source for example in examples])
        targets = sources
        if has_targets:
            targets = texts.ids([example.target or "" for example in examples], as_targets=True)
    texts.log_marks()
    return [
        EncodedExample(
            example.id,
            _closed(source, end, special),
            ()
            if example.target is None
            else _closed(_without_prefix(target, prefix_ids), end, special),
        )
        for example, source, target in zip(examples, sources, targets, strict=True)
    ]


class _CausalEncoder:
    """Encodes for one decoder-only model, and counts what it has to say of many examples."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat: ChatSettings, ends: Sequence[int]
    ) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self._texts = TextTokenizer(tokenizer, ends)
        self._end, self._ends = end_token_id(tokenizer), frozenset(ends)
        self._num_across = self._num_composed = self._num_unseen = self._num_calls_alone = 0

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        chats = [example for example in examples if example.messages is not None]
        if self._tokenizer.chat_template is not None:
            check_read(chats, self._tokenizer, self._chat)
        with _no_garbage_collection():
            plain = iter(self._plain([e for e in examples if e.messages is None]))
            encoded = [
                next(plain) if example.messages is None else self._conversation(example)
                for example in examples
            ]
        self._log()
        return encoded

    def _plain(self, examples: Sequence[Example]) -> list[EncodedExample]:
        prompts = self._texts.ids([example.source for example in examples])
        for prompt in prompts:
            while len(prompt) > 1 and prompt[-1] == self._end:
                prompt.pop()  # some tokenizers close every text; a prompt is still open
        answered = [example for example in examples if example.target is not None]
        self._texts.note(example.target or "" for example in answered)
        wholes = self._texts.plain([e.source + (e.target or "") for e in answered])
        return [
            EncodedExample(example.id, tuple(prompt), ())
            if example.target is None
            else self._completion(example, next(wholes), tuple(prompt))
            for example, prompt in zip(examples, prompts, strict=True)
        ]

    def _completion(
        self, example: Example, whole: Tokens, prompt_ids: tuple[int, ...]
    ) -> EncodedExample:
        first = whole.first_from(len(example.source))
        ids = list(whole.ids[first:])
        while ids and ids[-1] == self._end:
            ids.pop()
        return self._split(example.id, whole, first, (*ids, self._end), prompt_ids)

    def _conversation(self, example: Example) -> EncodedExample:
        found = converse(example, self._tokenizer, self._texts, self._chat)
        prompt = self._texts.rendered(found.prompt, is_spelled=found.is_spelled)
        if example.answer is None:
            return EncodedExample(example.id, prompt.ids, ())
        whole = self._texts.rendered(found.whole, is_spelled=found.is_spelled)
        self._num_composed += found.is_composed
        self._num_unseen += found.num_unseen
        self._num_calls_alone += found.is_call_alone
        start, stop = found.answer
        first = whole.first_from(start)
        closing = next(
            (
                i
                for i in range(whole.first_from(stop), len(whole.ids))
                if whole.ids[i] in self._ends
            ),
            None,
        )
        if closing is None:  # the template closes turns with text, or not at all
            over = len(found.whole.rstrip("\n"))
            target = (*whole.ids[first : whole.first_from(over)], self._end)
        else:
            target = whole.ids[first : closing + 1]
        spans = tuple(self._span(found.whole, whole, span) for span in found.earlier)
        encoded = self._split(example.id, whole, first, target, prompt.ids)
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
        self._num_across += 1
        return EncodedExample(example_id, source, target, (), prompt_ids)

    def _log(self) -> None:
        self._texts.log_marks()
        if self._num_across:
            _LOG.warning(
                "%d prompts end otherwise alone than before their answers, as a token lies across "
                "the border (a blank at a prompt's end, perhaps) or the chat template opens an "
                "answer otherwise than it shows one: learned as in the whole text, generated from "
                "the prompt alone",
                self._num_across,
            )
        if self._num_composed:
            _LOG.warning(
                "the chat template drops a part of %d answers (a thought, perhaps): they are "
                "learned as they stand after the prompt",
                self._num_composed,
            )
        if self._num_calls_alone:
            _LOG.warning(
                "the chat template drops what %d answers say beside their calls: the calls alone "
                "are learned",
                self._num_calls_alone,
            )
        if self._num_unseen:
            _LOG.warning(
                "%d earlier turns of the assistant are not found in the rendered conversations: "
                "they do not count",
                self._num_unseen,
            )


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    chat: ChatSettings = PLAIN_CHAT,
    *,
    prefix_ids: Sequence[int] = (),
    declared_ends: int | Sequence[int] | None = None,
) -> list[EncodedExample]:
    """Token ids of every example, in order; `chat` says how conversations are rendered.

    `prefix_ids` are those that the model's decoder is given after its start token: targets that
    the tokenizer begins with them (a language code, <s>) lose them. `declared_ends` are what the
    model's generation config says that sequences end with: where one closes a turn it is learned.

    Of decoder-only models source and target together are the ids of the whole text, prompt and
    answer as they stand (a blank between them is the user's), up to the answer's end. A token that
    lies across the border belongs to the answer; then `prompt_ids` are those of the prompt alone.
    """
    if kind == "causal":
        ends = end_ids(tokenizer, declared_ends)
        return _CausalEncoder(tokenizer, chat, ends).encode(examples)
    if any(example.messages is not None for example in examples):
        raise DataError(
            "Rows with messages (or with columns system, tools or reasoning_content) are for "
            "decoder-only models, but the model is an encoder-decoder; give source and target "
            "columns, or name what can be left out in data.ignore_columns."
        )
    return _encode_seq2seq(examples, tokenizer, prefix_ids) if examples else []


def with_placeholder_targets(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """The examples, those without a target with their source's tokens in its place.

    For what needs a target of a likely length and does not care what it says: comparing a
    converted model with the live one, timing a batch.
    """
    return [
        example
        if example.target_ids
        else dataclasses.replace(
            example, target_ids=example.source_ids or (0,) * example.num_source
        )
        for example in examples
    ]


def _fits(max_source: int, max_target: int) -> Callable[[EncodedExample], bool]:
    return lambda e: e.num_source <= max_source and len(e.target_ids) <= max_target


def leave_out_long(
    examples: Sequence[EncodedExample], *, max_source_tokens: int, max_target_tokens: int
) -> Encoded:
    """The examples within both limits, for training; the others are counted and logged.

    Raises DataError when none is left.
    """
    fits = _fits(max_source_tokens, max_target_tokens)
    kept = tuple(example for example in examples if fits(example))
    if examples and not kept:
        raise DataError(
            f"Some examples must fit into {max_source_tokens} source and {max_target_tokens} "
            f"target tokens, but all {len(examples)} are longer; raise data.max_source_tokens and "
            "data.max_target_tokens."
        )
    if len(kept) < len(examples):
        _LOG.warning("left out %d examples longer than the limits", len(examples) - len(kept))
    return Encoded(kept, len(examples) - len(kept))


def cut_unread_targets(
    examples: Sequence[EncodedExample], *, max_target_tokens: int
) -> list[EncodedExample]:
    """Every example, its target cut to the limit: for trainings that learn from no such target.

    There a target says how long an output may be, for planning batches, and leaves nothing out.
    """
    return [
        dataclasses.replace(example, target_ids=example.target_ids[:max_target_tokens])
        if len(example.target_ids) > max_target_tokens
        else example
        for example in examples
    ]


def cut_long_sources(
    examples: Sequence[EncodedExample], *, max_source_tokens: int, kind: Kind
) -> Encoded:
    """Every example, for evaluation: long sources keep their first tokens and their end token.

    Prompts of decoder-only models keep their last tokens instead, which lead into the completion;
    earlier turns do not count in what is cut.
    """
    cut = []
    for example in examples:
        ids = example.source_ids
        if len(ids) > max_source_tokens:
            kept = ids[-max_source_tokens:]
            if kind == "seq2seq":
                kept = (*ids[: max_source_tokens - 1], ids[-1])
            own = example.own_prompt_ids and example.own_prompt_ids[-max_source_tokens:]
            example = dataclasses.replace(
                example, source_ids=kept, counted_spans=(), own_prompt_ids=own
            )
        cut.append(example)
    num_cut = sum(len(example.source_ids) > max_source_tokens for example in examples)
    if num_cut:
        _LOG.warning("cut %d sources to %d tokens", num_cut, max_source_tokens)
    return Encoded(tuple(cut), num_cut)
