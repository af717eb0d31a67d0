"""Texts -> token ids. The one room that knows where a sequence starts and ends.

For encoder-decoder models the source and the target are what the tokenizer makes of the two texts,
end token included. For decoder-only models the source is the prompt and the target the completion
with an end token. Nothing is padded here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import DataError, ModelError
from seqdistill.data.endings import end_token_id
from seqdistill.data.examples import Example

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


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples that fit, and how many were longer than the limits and left out or cut."""

    examples: tuple[EncodedExample, ...]
    num_too_long: int


def _with_end(ids: list[int], end: int) -> tuple[int, ...]:
    return tuple(ids) if ids and ids[-1] == end else (*ids, end)


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
    with _no_garbage_collection():
        sources = tokenizer([example.source for example in examples]).input_ids
        targets = sources
        if has_targets:
            targets = tokenizer(
                text_target=[example.target or "" for example in examples]
            ).input_ids
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


def _encode_chat(example: Example, tokenizer: PreTrainedTokenizerBase) -> EncodedExample:
    if tokenizer.chat_template is None:
        raise ModelError(
            "Rows with messages need a tokenizer with a chat template, but this one has none; add "
            "chat_template.jinja to the model folder or give prompt and completion columns."
        )
    turns = [{"role": role, "content": content} for role, content in example.messages or ()]
    prompt = _render(turns, tokenizer, example.id, opens_answer=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if example.target is None:
        return EncodedExample(example.id, tuple(prompt_ids), ())
    answered = [*turns, {"role": "assistant", "content": example.target}]
    whole = _render(answered, tokenizer, example.id, opens_answer=False)
    # Templates that write something else into finished turns (a dropped thought, say) cannot be
    # split at the prompt: there the answer stands as it is.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else example.target
    ids = tokenizer(completion.rstrip("\n"), add_special_tokens=False).input_ids
    return EncodedExample(example.id, tuple(prompt_ids), _with_end(ids, end_token_id(tokenizer)))


def _render(
    turns: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    example_id: str,
    *,
    opens_answer: bool,
) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            turns, add_generation_prompt=opens_answer, tokenize=False
        )
    except TemplateError as error:
        raise DataError(
            f"The messages of example {example_id!r} must suit the model's chat template, which "
            f"refuses them: {error}; mend its roles."
        ) from error
    return text


def _encode_causal(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[EncodedExample]:
    end = end_token_id(tokenizer)
    plain = [example for example in examples if example.messages is None]
    encoded = iter(_encode_completions(plain, tokenizer, end) if plain else [])
    return [
        next(encoded) if example.messages is None else _encode_chat(example, tokenizer)
        for example in examples
    ]


def _encode_completions(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, end: int
) -> list[EncodedExample]:
    with _no_garbage_collection():
        prompts = tokenizer([example.source for example in examples]).input_ids
        targets = tokenizer(
            [example.target or "" for example in examples], add_special_tokens=False
        ).input_ids
    for prompt in prompts:
        while len(prompt) > 1 and prompt[-1] == end:
            prompt.pop()  # some tokenizers close every text; a prompt is still open
    return [
        EncodedExample(
            example.id,
            tuple(prompt),
            () if example.target is None else _with_end(target, end),
        )
        for example, prompt, target in zip(examples, prompts, targets, strict=True)
    ]


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    *,
    prefix_ids: Sequence[int] = (),
) -> list[EncodedExample]:
    """Token ids of every example, in order.

    `prefix_ids` are those that the model's decoder is given after its start token: targets that
    the tokenizer begins with them (a language code, <s>) lose them.
    """
    if kind == "causal":
        return _encode_causal(examples, tokenizer)
    if any(example.messages is not None for example in examples):
        raise DataError(
            "Rows with messages are for decoder-only models, but the model is an encoder-decoder; "
            "give source and target columns."
        )
    return _encode_seq2seq(examples, tokenizer, prefix_ids) if examples else []


def with_stand_in_targets(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """The examples, those without a target with their source's tokens in its place.

    For what needs a target of a likely length and does not care what it says: comparing a
    converted model with the live one, timing a batch.
    """
    return [
        example
        if example.target_ids
        else dataclasses.replace(example, target_ids=example.source_ids)
        for example in examples
    ]


def _fits(max_source: int, max_target: int) -> Callable[[EncodedExample], bool]:
    return lambda e: len(e.source_ids) <= max_source and len(e.target_ids) <= max_target


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

    Prompts of decoder-only models keep their last tokens instead, which lead into the completion.
    """
    cut = []
    for example in examples:
        ids = example.source_ids
        if len(ids) > max_source_tokens:
            kept = ids[-max_source_tokens:]
            if kind == "seq2seq":
                kept = (*ids[: max_source_tokens - 1], ids[-1])
            example = dataclasses.replace(example, source_ids=kept)
        cut.append(example)
    num_cut = sum(len(example.source_ids) > max_source_tokens for example in examples)
    if num_cut:
        _LOG.warning("cut %d sources to %d tokens", num_cut, max_source_tokens)
    return Encoded(tuple(cut), num_cut)
