"""A conversation as the one text that a model reads, and where in it the assistant speaks.

The text is the chat template's rendering of the whole. Where a turn begins and ends is found by
rendering it again with something else in that turn's place: templates may strip, insert and drop.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import DataError, ModelError
from seqdistill.data.examples import Example, Turn
from seqdistill.data.templates import Rendered, TemplateFailure, render
from seqdistill.data.tokenizing import TextTokenizer

_LOG = logging.getLogger(__name__)
_NUM_TRIED = 20
"""Examples with a key that are rendered without it, to see whether the template reads it."""
_SILENT = frozenset({"name", "tool_call_id", "id", "weight", "timestamp"})
"""Keys of turns whose loss does not change what was said."""
_STAND_IN = "\U0010f8f3"
"""Takes an answer's place; no text begins or ends with it."""
_NUMBERED = re.compile(f"{_STAND_IN}([0-9]+){_STAND_IN}")
"""The same where several answers are replaced at once."""


@dataclasses.dataclass(frozen=True)
class ChatSettings:
    """How conversations are rendered and learned."""

    template_options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Further arguments of the chat template, such as `enable_thinking`."""
    assistant_turns: Literal["all", "last"] = "all"
    """Whose tokens count: every turn of the assistant, or the last one."""


PLAIN_CHAT = ChatSettings()
Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A rendered conversation, whose assistant's stretches are given in characters."""

    prompt: str
    """What generation is given."""
    whole: str
    """The text with the answer; the prompt where there is none."""
    answer: Span
    """From where the answer is learned to where it is over, its closing mark not included."""
    earlier: tuple[Span, ...] = ()
    """The assistant's earlier turns that count."""
    is_spelled: bool = False
    """Whether the text has spellings of marks (see `TextTokenizer.spelled`)."""
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What was noticed: `unseen` counts earlier turns of the assistant that could not be found in
    the text; the template drops a part of the answer, which follows the prompt as it stands
    (`composed`), or what it says beside its call (`call alone`)."""


def prompt_text(
    example: Example, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings = PLAIN_CHAT
) -> str:
    """What the model is asked: the source, or the whole conversation up to its answer, rendered;
    of a recording the name of its file."""
    if example.messages is None:
        return Path(example.audio).name if example.audio else example.source
    return _View(example, tokenizer, None, settings).prompt


def converse(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    texts: TextTokenizer,
    settings: ChatSettings,
) -> Conversation:
    """The example's conversation. Raises DataError, with its id, when the template refuses it."""
    strings = [text for turn in _turns_of(example) for text in (turn.content or "", turn.more)]
    marked = texts.note([*strings, example.tools])
    view = _View(example, tokenizer, texts if marked else None, settings)
    prompt = view.prompt
    if example.answer is None:
        return Conversation(prompt, prompt, (len(prompt),) * 2, is_spelled=marked)
    whole, said, (start, stop) = view.whole, view.said(len(view.turns) - 1), view.answer_place
    text = whole.text
    is_dropped = bool(said) and _squashed(said) not in _squashed(text[start:stop])
    called = _called(example.answer)
    if any(name not in text[start:] for name in called):
        raise DataError(
            f"The model's chat template must render the calls of the last turn, but leaves them "
            f"out beside its content (example {example.id!r}); take the content out of the data, "
            "or set data.ignore_columns=[tool_calls] to learn without the call."
        )
    if is_dropped and not called:
        # What the prompt has already opened (`<think>`) is not said twice.
        sizes = range(len(prompt) - start, 0, -1)
        opened = next((size for size in sizes if said.startswith(prompt[-size:])), 0)
        body = prompt + said[opened:]
        place = len(prompt), len(body)
        return Conversation(
            prompt, body + text[stop:], place, is_spelled=marked, notes={"composed": 1}
        )
    if whole.generated is not None:
        start = min((max(start, a) for a, b in whole.generated if b > start), default=start)
    earlier, num_unseen = view.earlier(start) if settings.assistant_turns == "all" else ((), 0)
    notes = {"unseen": num_unseen, "call alone": int(is_dropped)}
    return Conversation(prompt, text, (start, stop), earlier, marked, notes)


def _turns_of(example: Example) -> tuple[Turn, ...]:
    """The turns of a conversation, its answer the last of them."""
    answer = () if example.answer is None else (example.answer,)
    return (*(example.messages or ()), *answer)


def check_options(tokenizer: PreTrainedTokenizerBase, settings: ChatSettings) -> None:
    """Warns of template options that the chat template does not name."""
    for name in settings.template_options:
        if name not in str(tokenizer.chat_template):
            _LOG.warning("the chat template does not read the template option %r", name)


def check_read(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, settings: ChatSettings
) -> None:
    """Raises DataError for keys of turns, or tools, that the chat template does not render.

    Said without them, a conversation means something else. A key counts as read when leaving it
    out changes the text of one of the first examples that have it.
    """
    with_key: dict[str, list[Example]] = {}
    for example in examples:
        keys = {"tools"} if example.tools else set[str]()
        for key in keys.union(*(json.loads(turn.more or "{}") for turn in _turns_of(example))):
            if len(found := with_key.setdefault(key, [])) < _NUM_TRIED:
                found.append(example)
    for key, having in with_key.items():
        if any(_reads(key, example, tokenizer, settings) for example in having):
            continue
        if key in _SILENT:
            _LOG.info("the chat template does not render the key %r of turns", key)
            continue
        what = "the column" if key == "tools" else "turns with the key"
        raise DataError(
            f"The model's chat template must render {what} {key!r}, but leaves it out (example "
            f"{having[0].id!r}); use a model whose template knows it, or set data.ignore_columns="
            f"[{key}] to learn without it."
        )


def _reads(
    key: str, example: Example, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings
) -> bool:
    def dropped(more: str) -> str:
        return json.dumps({k: v for k, v in json.loads(more or "{}").items() if k != key})

    without = dataclasses.replace(
        example,
        messages=tuple(turn._replace(more=dropped(turn.more)) for turn in example.messages or ()),
        answer_more=dropped(example.answer_more),
        tools="" if key == "tools" else example.tools,
    )
    shown = _whole_text(example, tokenizer, settings)
    try:
        return shown != _whole_text(without, tokenizer, settings)
    except DataError:
        return True  # it cannot do without


def _whole_text(
    example: Example, tokenizer: PreTrainedTokenizerBase, settings: ChatSettings
) -> str:
    """The conversation as the template renders it, with its answer where there is one."""
    view = _View(example, tokenizer, None, settings)
    return view.prompt if example.answer is None else view.whole.text


class _View:
    """One example's turns, rendered whole, in part and with other things in their place."""

    def __init__(
        self,
        example: Example,
        tokenizer: PreTrainedTokenizerBase,
        guard: TextTokenizer | None,
        settings: ChatSettings,
    ) -> None:
        if tokenizer.chat_template is None:
            raise ModelError(
                "Rows with messages need a tokenizer with a chat template, but this one has none; "
                "add chat_template.jinja to the model folder or give prompt and completion columns."
            )
        self._example, self._tokenizer, self._guard = example, tokenizer, guard
        self._options = settings.template_options
        self.turns = [self._shown(turn) for turn in _turns_of(example)]
        self._prompt_turns = self.turns[: len(example.messages or ())]
        tools = json.loads(example.tools) if example.tools else None
        self._tools = cast("list[dict[str, object]] | None", self._guarded(tools))

    @functools.cached_property
    def prompt(self) -> str:
        return self._render(self._prompt_turns, opens_answer=True).text

    @functools.cached_property
    def whole(self) -> Rendered:
        return self._render(self.turns, opens_answer=False, finds_generated=True)

    def said(self, index: int) -> str:
        """The content of a turn as it should stand in the rendered text."""
        content = self.turns[index].get("content")
        text = content if isinstance(content, str) else ""
        return text if self._guard is None else self._guard.spelled(text)

    @property
    def answer_place(self) -> Span:
        """Where the last turn stands in the whole text: from where generation would begin it."""
        text, prompt = self.whole.text, self.prompt
        region = self._region(len(self.turns) - 1)
        if region is None:  # the template wants this turn as it is
            return _common_prefix(prompt, text), len(text.rstrip())
        start, stop = region
        if text.startswith(prompt) and len(prompt) <= start:
            start = len(prompt)
        return start, stop

    def earlier(self, before: int) -> tuple[tuple[Span, ...], int]:
        """The assistant's turns before the answer, and how many of them could not be found."""
        if self.whole.generated is not None:
            return tuple(span for span in self.whole.generated if span[1] <= before), 0
        spans: list[Span] = []
        num_unseen, floor = 0, 0
        for index, turn in enumerate(self._prompt_turns):
            if turn["role"] != "assistant":
                continue
            region = self._region(index)
            if region is None:
                region = self._between_turns(index)
            elif region[0] >= floor:
                region = max(floor, self._opened(index, region[0])), region[1]
            if region is None or not floor <= region[0] <= region[1] <= before:
                num_unseen += 1
                continue
            spans.append(region)
            floor = region[1]
        return tuple(spans), num_unseen

    def _opened(self, index: int, start: int) -> int:
        """Where generation would have begun the turn: after what opens an answer, or at `start`.

        What lies between is what the template has every answer begin with.
        """
        text, opening = self.whole.text, self._opening
        if not index or not opening.strip() or text.endswith(opening, 0, start):
            return start
        before = self._region(index - 1)
        found = -1 if before is None else text.rfind(opening, before[1], start)
        return start if found < 0 else found + len(opening)

    @functools.cached_property
    def _opening(self) -> str:
        """What opens the answer: the prompt behind the turns in it; nothing where none can say."""
        closed = self._tried(self._prompt_turns)
        if closed is None or not self.prompt.startswith(closed):
            return ""
        return self.prompt[len(closed) :]

    def _between_turns(self, index: int) -> Span | None:
        """A turn that the template wants as it is (a call): from the text before to that with it.

        None where the text does not begin so.
        """
        before = self._tried(self.turns[:index], opens_answer=True)
        through = self._tried(self.turns[: index + 1])
        if before is None or through is None:
            return None
        if not through.startswith(before) or not self.whole.text.startswith(through):
            return None
        return len(before), max(len(before), len(through.rstrip("\n")))

    def _region(self, index: int) -> Span | None:
        """The stretch that is the turn's; None where the template wants the turn as it is."""
        return self._regions[index] if index in self._regions else self._differing(index)

    @functools.cached_property
    def _regions(self) -> dict[int, Span]:
        """The assistant's turns found with one rendering, as contents between what is around them.

        Nothing where the template does more with any of them than to strip it.
        """
        spoken = [i for i, turn in enumerate(self.turns) if turn["role"] == "assistant"]
        turns = [
            {"role": turn["role"], "content": f"{_STAND_IN}{i}{_STAND_IN}"} if i in spoken else turn
            for i, turn in enumerate(self.turns)
        ]
        around = _NUMBERED.split(self._tried(turns) or "")
        if around[1::2] != [str(i) for i in spoken]:
            return {}
        for shown_as in (str, str.strip):
            around[1::2] = [shown_as(self.said(i)) for i in spoken]
            if "".join(around) == self.whole.text:
                ends = list(itertools.accumulate(map(len, around)))
                return dict(zip(spoken, zip(ends[::2], ends[1::2], strict=False), strict=True))
        return {}

    def _differing(self, index: int) -> Span | None:
        """The stretch of the text that changes with the turn; None where it cannot change."""
        text = self.whole.text
        stand_in = {"role": self.turns[index]["role"], "content": _STAND_IN}
        other = self._tried([*self.turns[:index], stand_in, *self.turns[index + 1 :]])
        if other is None or _STAND_IN not in other:
            return None
        start = _common_prefix(text, other)
        shared = _common_prefix(text[start:][::-1], other[start:][::-1])
        return start, len(text) - shared

    def _tried(
        self, turns: Sequence[Mapping[str, object]], *, opens_answer: bool = False
    ) -> str | None:
        """The turns as text; None where the template refuses them."""
        try:
            return self._render(turns, opens_answer=opens_answer).text
        except DataError:
            return None

    def _render(
        self,
        turns: Sequence[Mapping[str, object]],
        *,
        opens_answer: bool,
        finds_generated: bool = False,
    ) -> Rendered:
        try:
            rendered = render(
                self._tokenizer,
                turns,
                opens_answer=opens_answer,
                options=self._options,
                tools=self._tools,
                finds_generated=finds_generated,
            )
        except TemplateFailure as error:
            raise DataError(
                f"The messages of example {self._example.id!r} must suit the model's chat "
                f"template, which {error}."
            ) from error
        if self._guard is None:
            return rendered
        text, spelled = rendered.text, self._guard.spelled
        generated = rendered.generated and tuple(
            (len(spelled(text[:start])), len(spelled(text[:stop])))
            for start, stop in rendered.generated
        )
        return Rendered(spelled(text), generated)

    def _shown(self, turn: Turn) -> dict[str, object]:
        return cast("dict[str, object]", self._guarded(turn.as_dict()))

    def _guarded(self, value: object) -> object:
        if isinstance(value, str) and self._guard is not None:
            return self._guard.guarded(value)
        if isinstance(value, list):
            return [self._guarded(one) for one in value]
        if isinstance(value, dict):
            return {key: self._guarded(one) for key, one in value.items()}
        return value


def _called(turn: Turn) -> list[str]:
    """The names of the functions that a turn calls."""
    more = json.loads(turn.more or "{}")
    given = more.get("tool_calls") or more.get("function_call")
    calls = [
        one for one in (given if isinstance(given, list) else [given]) if isinstance(one, dict)
    ]
    functions = [call.get("function", call) for call in calls]
    return [str(one["name"]) for one in functions if isinstance(one, dict) and one.get("name")]


def _squashed(text: str) -> str:
    return "".join(text.split())


def _common_prefix(first: str, second: str) -> int:
    """How many characters both begin with."""
    size = min(len(first), len(second))
    # The first length at which they differ, by bisection over comparisons of slices.
    return bisect.bisect_left(range(1, size + 1), True, key=lambda n: first[:n] != second[:n])
