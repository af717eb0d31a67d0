"""Text is text in both directions: marks in the data are characters, a user's tokens survive."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tests.chat_families import FAMILIES, family_tokenizer
from tests.translation_families import plbart

from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.examples import Example
from seqdistill.data.marks import marks
from seqdistill.data.text_encoding import encode

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_mark_of_a_chat_model_is_part_of_a_text(name: str) -> None:
    tokenizer = family_tokenizer(name)
    ids = tokenizer("the cat", add_special_tokens=False).input_ids
    around = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].turn_end)
    assert TextDecoder(tokenizer).text([*around, *ids, end]).strip() == "the cat"


def test_the_codes_of_programming_languages_are_marks_too() -> None:
    tokenizer = plbart()
    (found,) = encode([Example("1", "the __python__ cat", "a __python__")], tokenizer, "seq2seq")
    codes = {tokenizer.lang_code_to_id[code] for code in ("__python__", "__en_XX__")}
    assert [i for i in found.source_ids if i in codes] == [found.source_ids[-1]]
    assert [i for i in found.target_ids if i in codes] == [found.target_ids[-1]]


def of_class(name: str) -> Any:
    """A tokenizer of a real class with a vocabulary of letters."""
    pieces = ["▁", *"abcdehnorstuLX_<>/", "▁the"]
    head = ["<pad>", "</s>", "<unk>"] if name == "T5Tokenizer" else SPECIAL
    more: dict[str, Any] = {"src_lang": "en_XX", "tgt_lang": "de_DE"}
    vocabulary: Any = [(piece, 0.0 if piece in head else -1.0) for piece in [*head, *pieces]]
    if name == "T5Tokenizer":
        more = {"extra_ids": 2}
    if name == "NllbTokenizer":
        more = {"merges": [], "src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return getattr(transformers, name)(vocab=vocabulary, **more)


@pytest.mark.parametrize(
    "name", ["NllbTokenizer", "MBartTokenizer", "MBart50Tokenizer", "T5Tokenizer"]
)
def test_marks_are_text_there_and_back_and_a_models_own_marks_stay(name: str) -> None:
    tokenizer = of_class(name)
    tokenizer.add_tokens(["<sep>"], special_tokens=True)
    decoder, known = TextDecoder(tokenizer), set(marks(tokenizer).values())
    rows = [
        Example("1", "a the b", "c"),
        Example("2", "a </s> the deu_Latn en_XX", "</s> en_XX"),
        Example("3", "</s> a <sep> b", "<sep> </s>"),  # a user's own token is none
    ]
    plain, marked, own = encode(rows, tokenizer, "seq2seq")
    assert list(plain.source_ids) == tokenizer("a the b").input_ids
    assert list(plain.target_ids) == tokenizer(text_target="c").input_ids
    for side in ("source_ids", "target_ids"):
        theirs = [i for i in getattr(plain, side) if i in known]
        for found in (marked, own):
            assert [i for i in getattr(found, side) if i in known] == theirs
        assert getattr(own, side).count(tokenizer.convert_tokens_to_ids("<sep>")) == 1
    assert decoder.text(marked.source_ids) == rows[1].source
    assert decoder.text(plain.target_ids) == "c"
    assert decoder.text(own.target_ids).split() == ["<sep>", "</s>"]
