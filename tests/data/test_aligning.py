"""Two tokenizers over one text: chunks cover the same bytes, and are as small as can be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tiny import character_tokenizer
from tests.tokenizers_made import FAMILIES, TEXTS, word_pieces

from seqdistill.core.errors import ModelError
from seqdistill.data.aligning import Chunk, aligned
from seqdistill.data.token_bytes import TokenBytes

PAIRS = pytest.mark.parametrize(("one", "other"), list(itertools.combinations(FAMILIES, 2)))
LETTERS = st.sampled_from("abe  \t\n.,'üéß日本語🙂👩\u200d👧ﬁ²e\u0301")
ANY_TEXT = st.text(LETTERS | st.characters(exclude_categories=["Cs"]), max_size=12)
BLANKS = b" \t\r\n"


def cut(family: str, text: str) -> list[bytes | None]:
    tokenizer = FAMILIES[family]()
    return TokenBytes(tokenizer)(tokenizer(text, add_special_tokens=False).input_ids)


def naive_chunks(one: list[bytes], other: list[bytes]) -> list[Chunk]:
    """Of two cuts of the very same bytes: token by token, whichever side is behind goes on."""
    found, a, b, c, d = [], 0, 0, 0, 0
    while b < len(one) or d < len(other):
        left, right = b"".join(one[:b]), b"".join(other[:d])
        if len(left) <= len(right) and b < len(one):
            b += 1
        else:
            d += 1
        left, right = b"".join(one[:b]), b"".join(other[:d])
        if left == right and left != b"".join(one[:a]):
            found.append(Chunk(a, b, c, d))
            a, c = b, d
    return found


@PAIRS
@settings(deadline=None, max_examples=15)
@given(text=ANY_TEXT)
@example("the cat sat on a mat in 2026")
@example("日本語 🙂 naïve\tcafé")
@example("")
@example("7\n")
def test_chunks_cover_the_same_bytes_in_order_and_cannot_be_split(
    one: str, other: str, text: str
) -> None:
    own, others = cut(one, text), cut(other, text)
    chunks = aligned(own, others)
    stops = (0, 0)
    for chunk in chunks:
        assert stops[0] <= chunk.start < chunk.stop and stops[1] <= chunk.other_start
        stops = (chunk.stop, chunk.other_stop)
        sides = (own[chunk.start : chunk.stop], others[chunk.other_start : chunk.other_stop])
        assert not any(piece is None for side in sides for piece in side)
        left, right = (b"".join(piece or b"" for piece in side) for side in sides)
        before = [*own[: chunk.start], *others[: chunk.other_start]]
        if all(piece is not None and not piece.strip(BLANKS) for piece in before):
            # Blanks that a text begins with are nobody's.
            left, right = left.lstrip(BLANKS), right.lstrip(BLANKS)
        assert left and left == right
        borders = [
            {len(b"".join(piece or b"" for piece in side[n:])) for n in range(1, len(side))}
            for side in sides
        ]
        shared = (borders[0] & borders[1]) - {0}
        assert not {n for n in shared if n < len(left)}, "a smaller chunk was there"


@settings(deadline=None, max_examples=40)
@given(text=st.binary(max_size=14), data=st.data())
def test_of_the_same_bytes_every_token_is_in_a_chunk(text: bytes, data: st.DataObject) -> None:
    """Characters may be split anywhere, and a text need not be UTF-8."""
    text = b"x" + text  # no blank is first

    def pieces() -> list[bytes]:
        borders = data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=len(text)))
        places = sorted({0, *(b for b in borders if b < len(text)), len(text)})
        return [text[a:b] for a, b in itertools.pairwise(places)]

    one, other = pieces(), pieces()
    assert aligned(one, other) == naive_chunks(one, other)
    assert aligned(one, one) == [Chunk(n, n + 1, n, n + 1) for n in range(len(one))]


@pytest.mark.parametrize(
    ("own", "other", "chunks"),
    [
        ([b"ab", b"c"], [b"a", b"b", b"c"], [(0, 1, 0, 2), (1, 2, 2, 3)]),
        ([b"a", b"bc"], [b"ab", b"c"], [(0, 2, 0, 2)]),
        # A normalizer changed what is between.
        ([b"a", b"X", b"c"], [b"a", b"x", b"c"], [(0, 1, 0, 1), (2, 3, 2, 3)]),
        ([b"a", b"  ", b"c"], [b"a", b" ", b"c"], [(0, 1, 0, 1), (2, 3, 2, 3)]),
        ([b"a", b"bX", b"c"], [b"a", b"b", b"c"], [(0, 1, 0, 1), (2, 3, 2, 3)]),
        # A token that is no text, and one without bytes, which belongs to what follows.
        ([b"a", None, b"c"], [b"a", b"b", b"c"], [(0, 1, 0, 1), (2, 3, 2, 3)]),
        ([b"a", None, b"c"], [b"a", None, b"c"], [(0, 1, 0, 1), (2, 3, 2, 3)]),
        ([b"a", b"", b"c"], [b"a", b"c"], [(0, 1, 0, 1), (1, 3, 1, 2)]),
        # Blanks that a text begins with.
        ([b" the", b" cat"], [b"the", b" cat"], [(0, 1, 0, 1), (1, 2, 1, 2)]),
        ([b"\n", b" the"], [b"the"], [(0, 2, 0, 1)]),
        ([b" ", b" "], [b" "], []),
        ([], [b"a"], []),
        ([b"abc"], [b"abd"], []),
        # Bytes of one character in several tokens.
        ([b"\xf0\x9f", b"\x99\x82"], ["🙂".encode()], [(0, 2, 0, 1)]),
    ],
)
def test_by_hand(
    own: list[bytes | None], other: list[bytes | None], chunks: list[tuple[int, ...]]
) -> None:
    assert aligned(own, other) == [Chunk(*each) for each in chunks]
    mirrored = [(c, d, a, b) for a, b, c, d in chunks]
    assert aligned(other, own) == [Chunk(*each) for each in mirrored]


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(text=ANY_TEXT)
@example("the cat sat on a mat in 2026")
@example("a <s>b")  # typed, it is no text
def test_the_bytes_of_all_tokens_are_the_text_that_the_tokenizer_decodes(
    family: str, text: str
) -> None:
    tokenizer = FAMILIES[family]()
    ids = [
        i
        for i in tokenizer(text, add_special_tokens=False).input_ids
        if i not in tokenizer.all_special_ids
    ]
    pieces = TokenBytes(tokenizer)(ids)
    found = b"".join(piece or b"" for piece in pieces).decode("utf-8")
    assert found == tokenizer.decode(ids)
    # What goes on from a text keeps the blank before it.
    before = tokenizer("a", add_special_tokens=False).input_ids
    later = TokenBytes(tokenizer)(ids, continues=True)
    whole = TokenBytes(tokenizer)([*before, *ids])
    assert later == whole[len(before) :]


def test_marks_are_no_text_and_others_than_the_models_ends_are_told() -> None:
    tokenizer = character_tokenizer()
    assert TokenBytes(tokenizer)([0, 5, 2, 6, 3]) == [None, b"a", None, b"b", None]
    assert TokenBytes(tokenizer, ends=[6])([5, 6]) == [b"a", None]


def test_the_families_hardly_lose_anything_but_word_pieces_blanks() -> None:
    for text, (one, other) in itertools.product(TEXTS, itertools.combinations(FAMILIES, 2)):
        own = cut(one, text)
        inside = sum(chunk.stop - chunk.start for chunk in aligned(own, cut(other, text)))
        known = sum(piece is not None for piece in own)
        # Of "two  blanks" and a line break some keep less than others.
        assert inside >= (0.6 if "\t" in text or "word pieces" in (one, other) else 1.0) * known


def test_a_decoder_that_mixes_tokens_is_refused() -> None:
    from tokenizers import decoders

    tokenizer = word_pieces()
    backend = tokenizer.backend_tokenizer
    before, backend.decoder = backend.decoder, decoders.CTC()
    try:
        with pytest.raises(ModelError, match=r"\(CTC\) mixes them; use method seq_kd"):
            TokenBytes(tokenizer)
    finally:
        backend.decoder = before
