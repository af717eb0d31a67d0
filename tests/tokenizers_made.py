"""Tokenizers of several families, trained in memory on a few texts."""

from __future__ import annotations

import functools
import string

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "the cat sat on a mat in 2026",
    "Grüße aus Köln! we'll see 12345",
    "a = b + c;\t# ok\n  two  blanks",
    "日本語のテキスト 🙂 emoji",
    "naïve café",
    "eins zwei drei rot blau",
    "snie iewz ierd tor ualb",
)
SPECIAL = ("<s>", "<pad>", "</s>")


def finished(tokenizer: Tokenizer, *, closes: bool, unknown: str | None) -> PreTrainedTokenizerFast:
    """With the marks that encoder-decoders, or decoder-only models, put around a text."""
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if closes else "<s> $A", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token=unknown,
    )


@functools.cache
def byte_level(*, closes: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text comes back, characters may be split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[*SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return finished(tokenizer, closes=closes, unknown=None)


@functools.cache
def unigram(*, closes: bool = True) -> PreTrainedTokenizerFast:
    """As SentencePiece: NFKC, a blank before every word and the text, an unknown token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=[*SPECIAL, "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return finished(tokenizer, closes=closes, unknown="<unk>")


@functools.cache
def byte_fallback(*, closes: bool = True) -> PreTrainedTokenizerFast:
    """As Llama 2: letters and a few merges; other characters byte by byte."""
    merges = [("t", "h"), ("th", "e"), ("▁", "a"), ("▁", "the"), ("e", "i")]
    bytes_named = [f"<0x{byte:02X}>" for byte in range(256)]
    names = [*SPECIAL, "<unk>", *bytes_named, "▁", *string.ascii_lowercase]
    names += [first + second for first, second in merges]
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return finished(tokenizer, closes=closes, unknown="<unk>")


@functools.cache
def word_pieces(*, closes: bool = True) -> PreTrainedTokenizerFast:
    """As BERT: words and their continuations; blanks are lost."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=[*SPECIAL, "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return finished(tokenizer, closes=closes, unknown="<unk>")


FAMILIES = {
    "byte-level": byte_level,
    "unigram": unigram,
    "byte fallback": byte_fallback,
    "word pieces": word_pieces,
}
