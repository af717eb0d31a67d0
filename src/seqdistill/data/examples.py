"""The example: one source with its target, known by an id. Knows no files and no tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A source text and what should be written for it; `target` is None where nobody wrote one.

    A chat example has its prompt's turns as (role, content) pairs in `messages`, an empty
    `source`, and the assistant's answer (not among `messages`) as `target`.
    """

    id: str
    source: str
    target: str | None
    messages: tuple[tuple[str, str], ...] | None = None


def fingerprint_examples(examples: Iterable[Example]) -> str:
    """A sha256 in hex over ids, texts and turns: equal exactly when the sets of examples are.

    The order does not count, since everything downstream is keyed by id.
    """
    lines = sorted(
        json.dumps([example.id, example.source, example.target, example.messages])
        for example in examples
    )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("ascii"))  # json.dumps escapes everything else
        digest.update(b"\n")
    return digest.hexdigest()
