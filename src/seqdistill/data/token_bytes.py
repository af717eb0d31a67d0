"""Which bytes of a text each of its tokens stands for, whatever the tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError
from seqdistill.data.marks import marks

_Step = Callable[[list[bytes], bool], list[bytes]]
"""The pieces as a step of the tokenizer's decoder makes them; whether a text begins with them."""
_BLANK = "▁"
_BYTE = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Of every token of a sequence its UTF-8 bytes, of which a multi-byte character's may lie in
    several tokens. Joined they are the text that the tokenizer decodes.

    Raises ModelError for a tokenizer whose decoder cannot be taken apart token by token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._marks = frozenset({*marks(tokenizer, ends).values(), *ends})
        self._steps = _steps_of(tokenizer)

    def __call__(self, ids: Sequence[int], *, continues: bool = False) -> list[bytes | None]:
        """The bytes of each token; None for a mark of the model's form, which is no text.

        Where the sequence `continues` a text, the blank before its first token is kept.
        """
        kept = [int(i) not in self._marks for i in ids]
        names = self._tokenizer.convert_ids_to_tokens(
            [int(i) for i, is_text in zip(ids, kept, strict=True) if is_text]
        )
        pieces = [str(name).encode("utf-8", "surrogatepass") for name in names]
        for step in self._steps:
            pieces = step(pieces, not continues)
        of_text = iter(pieces)
        return [next(of_text) if is_text else None for is_text in kept]


def _steps_of(tokenizer: PreTrainedTokenizerBase) -> list[_Step]:
    if not tokenizer.is_fast:
        return _of_sentencepiece(tokenizer)
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    return [_step(each) for each in _flat(decoder)] if decoder is not None else [_spaced]


def _of_sentencepiece(tokenizer: PreTrainedTokenizerBase) -> list[_Step]:
    """Of a tokenizer in Python: SentencePiece is the one kind whose pieces are known."""
    if not any(_BLANK in token for token in tokenizer.get_vocab()):
        raise ModelError(
            "A tokenizer that is compared with another one must be a fast one or of SentencePiece, "
            f"but {type(tokenizer).__name__} is neither; convert it, or use method seq_kd"
        )
    blank = {"replacement": _BLANK, "prepend_scheme": "always"}
    return [_byte_fallback, lambda pieces, begins: _metaspace(blank, pieces, begins)]


def _flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a decoder, those of sequences one after another."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _flat(inner)]


def _step(given: dict[str, Any]) -> _Step:
    kind = given["type"]
    if kind == "ByteLevel":
        return lambda pieces, _begins: [_from_byte_level(piece) for piece in pieces]
    if kind == "ByteFallback":
        return _byte_fallback
    if kind == "Fuse":
        return lambda pieces, _begins: pieces
    if kind == "Metaspace":
        return lambda pieces, begins: _metaspace(given, pieces, begins)
    if kind == "Strip":
        return lambda pieces, begins: _stripped(given, pieces, begins)
    if kind == "Replace" and "String" in given["pattern"]:
        old, new = given["pattern"]["String"].encode(), given["content"].encode()
        return lambda pieces, _begins: [piece.replace(old, new) for piece in pieces]
    if kind == "WordPiece":
        return lambda pieces, begins: _word_pieces(given, pieces, begins)
    if kind == "BPEDecoder":
        suffix = given["suffix"].encode()
        return lambda pieces, _begins: _suffixed(suffix, pieces)
    raise ModelError(
        "A tokenizer that is compared with another one must say which bytes each token stands for, "
        f"but what its decoder does ({kind}) mixes them; use method seq_kd, which compares texts"
    )


def _spaced(pieces: list[bytes], begins: bool) -> list[bytes]:
    """What `tokenizers` does without a decoder: blanks between tokens."""
    return [piece if begins and not at else b" " + piece for at, piece in enumerate(pieces)]


def _from_byte_level(piece: bytes) -> bytes:
    characters = piece.decode("utf-8", "surrogatepass")
    if any(character not in _BYTES for character in characters):
        return piece  # an added token, which is text as it stands
    return bytes(_BYTES[character] for character in characters)


def _bytes_of_characters() -> dict[str, int]:
    """The character that byte-level tokenizers write each byte as: itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _bytes_of_characters()


def _byte_fallback(pieces: list[bytes], _begins: bool) -> list[bytes]:
    found = (_BYTE.fullmatch(piece) for piece in pieces)
    return [
        piece if byte is None else bytes([int(byte[1], 16)])
        for piece, byte in zip(pieces, found, strict=True)
    ]


def _metaspace(given: dict[str, Any], pieces: list[bytes], begins: bool) -> list[bytes]:
    mark = given["replacement"].encode()
    drops = begins and given.get("prepend_scheme", "always") != "never"
    return [
        piece.replace(mark, b"" if drops and not at else b" ") for at, piece in enumerate(pieces)
    ]


def _stripped(given: dict[str, Any], pieces: list[bytes], begins: bool) -> list[bytes]:
    """Without so many of a character where the text begins and ends: `tokenizers` fuses before."""
    content, pieces = given["content"].encode(), [*pieces]
    if begins:
        _strip(pieces, content, given["start"], from_end=False)
    _strip(pieces, content, given["stop"], from_end=True)
    return pieces


def _strip(pieces: list[bytes], content: bytes, most: int, *, from_end: bool) -> None:
    for at in reversed(range(len(pieces))) if from_end else range(len(pieces)):
        while most and (pieces[at].endswith if from_end else pieces[at].startswith)(content):
            size = len(content)
            pieces[at] = pieces[at][:-size] if from_end else pieces[at][size:]
            most -= 1
        if pieces[at]:
            return


def _word_pieces(given: dict[str, Any], pieces: list[bytes], begins: bool) -> list[bytes]:
    prefix, found = given["prefix"].encode(), []
    for at, piece in enumerate(pieces):
        if at or not begins:
            inside = piece.startswith(prefix)
            piece = piece.removeprefix(prefix) if inside else b" " + piece
        if given["cleanup"]:
            for old, new in _CLEANED:
                piece = piece.replace(old, new)
        found.append(piece)
    return found


_CLEANED = (
    *((b" " + sign, sign) for sign in (b".", b"?", b"!", b",")),
    (b" ' ", b"'"),
    *((b" " + end, end) for end in (b"n't", b"'m", b"'s", b"'ve", b"'re")),
    (b" do not", b" don't"),
)
"""What `tokenizers` puts right in the text of word pieces."""


def _suffixed(suffix: bytes, pieces: list[bytes]) -> list[bytes]:
    last = len(pieces) - 1
    return [piece.replace(suffix, b"" if at == last else b" ") for at, piece in enumerate(pieces)]
