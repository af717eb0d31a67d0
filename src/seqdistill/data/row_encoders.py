"""Rows -> token ids, a few at a time: where a source is over, and a target begins and ends.

Of encoder-decoder models both are what the tokenizer makes of the two texts. Of decoder-only models
they are one text, split at the answer. Both end with an end token.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, ModelError
from seqdistill.data.audio import AudioError, log_mel, read_audio
from seqdistill.data.conversations import (
    PLAIN_CHAT,
    ChatSettings,
    converse,
)
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.data.marks import end_token_id
from seqdistill.data.tokenizing import TextTokenizer, Tokens

_NUM_SHOWN = 5


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


RowEncoder = _Seq2SeqEncoder | _CausalEncoder
"""Makes encoded rows of rows; `noted` counts what it noticed of them."""


def row_encoder(
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    chat: ChatSettings = PLAIN_CHAT,
    prefix_ids: Sequence[int] = (),
    ends: Sequence[int] = (),
    extractor: WhisperFeatureExtractor | None = None,
) -> RowEncoder:
    """What `encode` makes of a few rows at a time, unchecked; `ends` are a decoder-only model's."""
    if kind == "causal":
        return _CausalEncoder(tokenizer, chat, ends)
    if extractor is not None:
        return _SpeechEncoder(tokenizer, extractor)
    return _Seq2SeqEncoder(tokenizer, prefix_ids)
