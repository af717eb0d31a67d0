"""The example: one source with its target, known by an id. Knows no files and no tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple


class Turn(NamedTuple):
    """One turn of a conversation, whole."""

    role: str
    content: str | None
    more: str = ""
    """Its other keys (`tool_calls`, `reasoning_content`, `name`, ...) as the JSON of an object, or
    nothing: a value that cannot change and compares as text."""

    def as_dict(self) -> dict[str, object]:
        """The turn as chat templates know it."""
        said = {} if self.content is None else {"content": self.content}
        return {"role": self.role, **said, **(json.loads(self.more) if self.more else {})}


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A source text and what should be written for it; `target` is None where nobody wrote one.

    A conversation has the turns before its last answer in `messages`, an empty `source`, and the
    assistant's last answer (not among `messages`) as `target`.
    """

    id: str
    source: str
    target: str | None
    messages: tuple[Turn, ...] | None = None
    answer_more: str = ""
    """What the answer's turn holds besides its content, as `Turn.more`."""
    tools: str = ""
    """The tools that the assistant may call: the JSON of a list of schemas, or nothing."""

    @property
    def answer(self) -> Turn | None:
        """The assistant's last turn of a conversation."""
        if self.target is None:
            return None
        return Turn("assistant", self.target, self.answer_more)


def fingerprint_examples(examples: Iterable[Example]) -> str:
    """A sha256 in hex over ids, texts, turns and tools: equal exactly when the sets are.

    The order does not count, since everything downstream is keyed by id.
    """
    lines = sorted(json.dumps(_fields(example)) for example in examples)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("ascii"))  # json.dumps escapes everything else
        digest.update(b"\n")
    return digest.hexdigest()


def _fields(example: Example) -> list[object]:
    fields: list[object] = [example.id, example.source, example.target]
    if example.messages is None:
        return [*fields, None]
    turns = [turn if turn.more else turn[:2] for turn in example.messages]
    more = [example.answer_more, example.tools] if example.answer_more or example.tools else []
    return [*fields, turns, *more]
