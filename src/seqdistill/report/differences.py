"""Where an output leaves its reference, word by word, for light highlighting.

A word is a run of letters and digits, a punctuation mark, or one character of a script written
without spaces; white space is not compared. Does not judge: another wording can be as good.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Literal

from seqdistill.metrics.scripts import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")

Kind = Literal["same", "other", "missing"]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of an output, which may be empty where words are missing."""

    text: str
    kind: Kind
    """`same`: the reference has it too. `other`: it has something else, or nothing, here.
    `missing`: the reference has words here where the output has none."""


def pieces(output: str, reference: str | None) -> tuple[Piece, ...]:
    """The output cut into stretches that follow the reference and stretches that differ.

    Joined, the pieces are the output. Without a reference everything is `same`; an empty output
    has no pieces.
    """
    if reference is None or not output:
        return (Piece(output, "same"),) if output else ()
    spans = [match.span() for match in _WORD.finditer(output)]
    words = [output[start:end] for start, end in spans]
    matcher = difflib.SequenceMatcher(None, _WORD.findall(reference), words, autojunk=False)
    found: list[Piece] = []

    def add(text: str, kind: Kind) -> None:
        if found and kind == "same" and found[-1].kind == "same":
            text = found.pop().text + text
        if text or kind == "missing":
            found.append(Piece(text, kind))

    position = 0
    for operation, _, _, first, last in matcher.get_opcodes():
        if operation == "delete":
            add("", "missing")
            continue
        start, end = spans[first][0], spans[last - 1][1]
        add(output[position:start], "same")
        add(output[start:end], "same" if operation == "equal" else "other")
        position = end
    add(output[position:], "same")
    return tuple(found)
