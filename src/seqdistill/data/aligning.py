"""Tokens of two tokenizers over one text, grouped into the smallest chunks of the same bytes."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_MOST_COMPARED = 4_000_000
"""Bytes of one text x bytes of the other between what both begin and end with: of more, nothing
there is aligned."""
_BLANKS = b" \t\r\n"
_HOLES = (b"\xfe", b"\xff")
"""What stands for a token that is no text, one on each side: no byte of UTF-8, and never equal."""


class Chunk(NamedTuple):
    """Two stretches of tokens, each [start, stop), that cover exactly the same bytes."""

    start: int
    stop: int
    other_start: int
    other_stop: int


def aligned(own: Sequence[bytes | None], other: Sequence[bytes | None]) -> list[Chunk]:
    """The chunks of a text as two tokenizers cut it, in order; each piece is a token's bytes.

    Chunks end wherever both have a border between tokens at the same place, so that they are as
    many and as small as can be. Blanks that a text begins with are nobody's: tokenizers and chat
    templates write them differently. A token without bytes belongs to what follows. Where the texts
    differ (a normalizer changed characters, a token is None, which is no text), what is between is
    in no chunk.
    """
    pairs = zip((own, other), _HOLES, strict=True)
    sides = [_without_first_blanks(pieces, hole) for pieces, hole in pairs]
    ends = [list(itertools.accumulate(map(len, pieces))) for pieces in sides]
    texts = [b"".join(pieces) for pieces in sides]
    holes = [[piece is None for piece in pieces] for pieces in (own, other)]
    chunks, last = [], (0, 0, 0, 0)
    for place, other_place in _common_borders(texts, ends):
        here = (place, other_place, _tokens(ends[0], place), _tokens(ends[1], other_place))
        text, other_text = texts[0][last[0] : place], texts[1][last[1] : other_place]
        chunk = Chunk(last[2], here[2], last[3], here[3])
        is_whole = not any(holes[0][chunk.start : chunk.stop]) and not any(
            holes[1][chunk.other_start : chunk.other_stop]
        )
        if text and text == other_text and is_whole:
            chunks.append(chunk)
        last = here
    return chunks


def _without_first_blanks(pieces: Sequence[bytes | None], hole: bytes) -> list[bytes]:
    found: list[bytes] = []
    begun = False
    for piece in pieces:
        kept = hole if piece is None else piece if begun else piece.lstrip(_BLANKS)
        begun = begun or bool(kept)
        found.append(kept)
    return found


def _tokens(ends: Sequence[int], place: int) -> int:
    """How many tokens it takes to get to that byte."""
    return bisect_left(ends, place) + 1 if place else 0


def _common_borders(
    texts: Sequence[bytes], ends: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int]]:
    """The places, in order, where both have a border between tokens at the same byte."""
    borders, others = sorted({0, *ends[0]}), {0, *ends[1]}
    last = (-1, -1)
    for start, other_start, size in _same(*texts):
        inside = slice(bisect_left(borders, start), bisect_right(borders, start + size))
        for place in borders[inside]:
            pair = (place, place - start + other_start)
            if pair[1] in others and pair > last:
                yield (last := pair)


def _same(text: bytes, other: bytes) -> Iterator[tuple[int, int, int]]:
    """Where two texts are the same: (place, place in the other, how many bytes), in order."""
    if text == other:
        yield 0, 0, len(text)
        return
    shorter = min(len(text), len(other))
    first = next((i for i in range(shorter) if text[i] != other[i]), shorter)
    rest = shorter - first
    behind = next((i for i in range(rest) if text[-1 - i] != other[-1 - i]), rest)
    yield 0, 0, first
    one, two = text[first : len(text) - behind], other[first : len(other) - behind]
    if len(one) * len(two) <= _MOST_COMPARED:
        for start, other_start, size in SequenceMatcher(
            None, one, two, autojunk=False
        ).get_matching_blocks():
            yield first + start, first + other_start, size
    yield len(text) - behind, len(other) - behind, behind
