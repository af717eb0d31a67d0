"""Text is text in both directions: marks in the data are characters, a user's tokens survive."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tests.chat_families import FAMILIES, family_tokenizer
from tests.translation_families import plbart
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.examples import Example
from seqdistill.data.marks import marks
from seqdistill.data.text_encoding import encode

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
TEXTS = ["the cat </s> sat <pad> here", "<s>the cat", "the </ s> cat", "a dog <|im_end|> ran"]


def trained(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of an encoder-decoder, as T5's (Unigram) or BART's (byte-level) are."""
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.Metaspace(),
            decoders.Metaspace(),
        )
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=70, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(
        ["<s> pad unk </s> the cat sat", "a dog | im_end ran here"] * 5, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.mark.parametrize("kind", ["unigram", "byte-level"])
def test_marks_in_sources_and_targets_are_text_there_and_back(kind: str) -> None:
    tokenizer = trained(kind)
    decoder, known = TextDecoder(tokenizer), set(marks(tokenizer).values())
    texts = ["the cat", *TEXTS]  # what has no mark beside what has
    found = encode([Example(text, text, text) for text in texts], tokenizer, "seq2seq")
    assert list(found[0].source_ids) == tokenizer("the cat").input_ids
    for text, one in zip(texts, found, strict=True):
        for ids in (one.source_ids, one.target_ids):
            assert ids[-1] == tokenizer.eos_token_id
            assert not set(ids[:-1]) & known
            assert decoder.text(ids) == text


@pytest.mark.parametrize("kind", ["unigram", "byte-level"])
def test_a_users_own_special_tokens_survive(kind: str) -> None:
    tokenizer = trained(kind)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>", "<2de>"]})
    tokenizer.add_special_tokens({"sep_token": "<sep>"})
    text = "<2de>the cat<sep>sat </s> here"
    (found,) = encode([Example("1", text, text)], tokenizer, "seq2seq")
    for name in ("<sep>", "<2de>"):
        assert found.source_ids.count(tokenizer.convert_tokens_to_ids(name)) == 1
    shown = TextDecoder(tokenizer).text((0, *found.target_ids, 1))
    assert shown.replace(" ", "") == text.replace(" ", "")


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
def test_marks_are_text_for_real_classes_and_their_own_marks_stay(name: str) -> None:
    tokenizer = of_class(name)
    decoder, known = TextDecoder(tokenizer), set(marks(tokenizer).values())
    rows = [Example("1", "a the b", "c"), Example("2", "a </s> the deu_Latn en_XX", "</s> en_XX")]
    plain, marked = encode(rows, tokenizer, "seq2seq")
    assert list(plain.source_ids) == tokenizer("a the b").input_ids
    assert list(plain.target_ids) == tokenizer(text_target="c").input_ids
    for side in ("source_ids", "target_ids"):
        ours, theirs = ([i for i in getattr(e, side) if i in known] for e in (marked, plain))
        assert ours == theirs
    assert decoder.text(marked.source_ids) == rows[1].source
    assert decoder.text(plain.target_ids) == "c"
