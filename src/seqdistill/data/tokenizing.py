"""Texts -> token ids and the characters behind each, with a model's marks in the data read as text.

`</s>` in a sentence about markup is four characters and no end.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import DataError, ModelError
from seqdistill.data.marks import marks

MARK = "mark "
"""What the notes on marks in the data begin with."""
_GUARD = "\U0010f8f0"
"""Stands inside a mark of the data while a template is rendered, so that it is none."""
_SPELLED = "\U0010f8f1{}\U0010f8f2"
"""How a mark is spelled for a tokenizer that takes its usual spelling for text."""


class Tokens(NamedTuple):
    """The ids of one text; `first_from(c)` is the first token that covers a character from c on.

    A token that lies across c is from c on: it belongs to what begins there.
    """

    ids: tuple[int, ...]
    first_from: Callable[[int], int]


class TextTokenizer:
    """Tokenizes for one model; counts in `noted` the texts with marks, as `MARK` and the mark."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, noted: Counter[str], ends: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._noted = tokenizer, noted
        self._marks = marks(tokenizer, ends)
        each_before_its_beginnings = sorted(self._marks, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, each_before_its_beginnings)) or r"(?!)")

    def note(self, texts: Iterable[str]) -> bool:
        """Counts the texts that hold marks; whether any does."""
        marked = [found.group() for found in map(self._pattern.search, texts) if found is not None]
        self._noted.update(MARK + mark for mark in marked)
        return bool(marked)

    def guarded(self, text: str) -> str:
        """The text with its marks made unrecognizable; `spelled` undoes it."""
        return self._pattern.sub(lambda found: found[0][0] + _GUARD + found[0][1:], text)

    def spelled(self, text: str) -> str:
        """A rendered text of guarded ones, for `tokens` with `is_spelled`: the marks that are left
        are the template's and get a spelling of their own, and the guards are gone."""
        marked = self._pattern.sub(lambda found: _SPELLED.format(self._marks[found[0]]), text)
        return marked.replace(_GUARD, "")

    def ids(self, texts: Sequence[str], *, as_targets: bool = False) -> list[list[int]]:
        """The ids of each text with what the tokenizer puts around it.

        With `as_targets`, around a target (`text_target`) of an encoder-decoder.
        """
        encode = self._tokenizer
        if not texts:
            return []
        given = list(texts)
        found: list[list[int]] = (
            encode(text_target=given) if as_targets else encode(given)
        ).input_ids
        if self.note(given):
            for place, text in enumerate(given):
                if self._pattern.search(text):
                    found[place] = self._with_marks_as_text(text, as_target=as_targets)
        return found

    def rendered(self, text: str, *, is_spelled: bool) -> Tokens:
        """The tokens of a rendered text, which brings all its marks; from `spelled` perhaps."""
        if not self._tokenizer.is_fast:
            return self._tokens_without_offsets(text, False, is_spelled)
        if is_spelled:
            found = self._renamed.encode(text, add_special_tokens=False)
        else:
            found = self._tokenizer(text, add_special_tokens=False).encodings[0]
        return _with_offsets(found, len(text))

    def plain(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """The tokens of texts, marks in them read as text, with what the tokenizer puts around."""
        if not self._tokenizer.is_fast:
            for text in texts:
                yield self._tokens_without_offsets(text, True, bool(self._pattern.search(text)))
            return
        encodings = self._tokenizer(list(texts)).encodings if texts else []
        for text, encoding in zip(texts, encodings, strict=True):
            found = self._renamed.encode(text) if self._pattern.search(text) else encoding
            yield _with_offsets(found, len(text))

    def _tokens_without_offsets(self, text: str, adds_marks: bool, is_spelled: bool) -> Tokens:
        """By comparing with the tokens of the text's beginnings: exact, and slower."""
        if is_spelled and not adds_marks:
            raise DataError(
                "Conversations whose texts hold marks of the model must be tokenized by a fast "
                f"tokenizer, but {type(self._tokenizer).__name__} is none; convert it, or take "
                "the texts with marks out of the data"
            )

        def ids_of(beginning: str) -> list[int]:
            ids: list[int] = self._tokenizer(
                beginning, add_special_tokens=adds_marks, split_special_tokens=is_spelled
            ).input_ids
            return ids

        whole = ids_of(text)

        def first_from(character: int) -> int:
            pairs = zip(whole, ids_of(text[:character]), strict=False)
            return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

        return Tokens(tuple(whole), first_from)

    def _with_marks_as_text(self, text: str, *, as_target: bool) -> list[int]:
        if not self._tokenizer.is_fast:
            key = "text_target" if as_target else "text"
            slow: list[int] = self._tokenizer(**{key: text}, split_special_tokens=True).input_ids
            return slow
        # What stands around a target is a state of multilingual tokenizers; others have no modes.
        enter = getattr(self._tokenizer, "_switch_to_target_mode", None) if as_target else None
        if enter is None:
            return list(self._renamed.encode(text).ids)
        enter()
        try:
            target = _renamed(self._tokenizer.backend_tokenizer, self._marks)
        finally:
            self._tokenizer._switch_to_input_mode()
        return list(target.encode(text).ids)

    @functools.cached_property
    def _renamed(self) -> Tokenizer:
        return _renamed(self._tokenizer.backend_tokenizer, self._marks)


def _with_offsets(encoding: Encoding, length: int) -> Tokens:
    """The tokens of a text of `length` characters."""

    def first_from(character: int) -> int:
        # Some tokenizers leave blanks before a token out of its characters.
        covering = (encoding.char_to_token(place) for place in range(character, length))
        return next((i for i in covering if i is not None), len(encoding.ids))

    return Tokens(tuple(encoding.ids), first_from)


def _renamed(backend: Tokenizer, known: Mapping[str, int]) -> Tokenizer:
    """The tokenizer with other spellings for its marks: the usual ones are characters to it.

    Not `split_special_tokens`, which cannot tell a user's own tokens from marks, and under which
    a Unigram model still takes `</s>` for the piece that its vocabulary lists.
    """
    settings = json.loads(backend.to_str())
    names = {text: _SPELLED.format(token_id) for text, token_id in known.items()}
    for token in settings["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = settings["model"]
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {names.get(text, text): i for text, i in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        model["vocab"] = [[names.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    renamed: Tokenizer = Tokenizer.from_str(json.dumps(settings))
    renamed.no_truncation()
    renamed.no_padding()
    moved = [text for text, i in known.items() if renamed.token_to_id(names[text]) != i]
    if moved:
        raise ModelError(
            f"The tokenizer must be able to read {moved[0]!r} in the data as text, but cannot be "
            "told to; take texts with it out of the data."
        )
    return renamed
