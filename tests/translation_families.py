"""Tiny random encoder-decoders with the real tokenizer classes of their families, trained here.

Each family says how its users call transformers directly: that is the oracle. Nothing is read from
the network.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from seqdistill.models.loading import LoadedModel

TEXTS = [
    ("the cat sat on the mat", "die katze sitzt auf der matte"),
    ("a small house by the sea", "ein kleines haus am meer"),
    ("red birds sing in the morning", "rote vögel singen am morgen"),
    ("she reads an old book", "sie liest ein altes buch"),
    ("we walk to the river", "wir gehen zum fluss"),
]
_CORPUS = [text for pair in TEXTS for text in pair] * 3
_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
_BART: dict[str, Any] = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    **{"max_position_embeddings": 64, "init_std": 0.5, "dropout": 0.0},
}
_T5: dict[str, Any] = {
    **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    **{"initializer_factor": 1.5, "dropout_rate": 0.0},
}


@dataclasses.dataclass(frozen=True)
class Family:
    """One family: its tokenizer class, its model class, and what its users pass by hand."""

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    config: str
    model: str
    settings: dict[str, Any]
    languages: tuple[str, str] | None = None
    """The tokenizer's codes of source and target; None for tokenizers without any."""
    row_keys: tuple[str, str] | None = None
    """Shorter names that mean the same."""
    forced: Callable[[PreTrainedTokenizerBase], dict[str, int]] = lambda tokenizer: {}
    """What `generate` is given by hand for the target language."""

    def pair(self) -> LoadedModel:
        """Model and tokenizer as their folder has them: no language is set."""
        tokenizer = self.tokenizer()
        ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id")}
        settings = {"vocab_size": len(tokenizer), "bos_token_id": 0, **ids, **self.settings}
        start = settings.pop("start", "</s>")
        settings["decoder_start_token_id"] = (
            None if start is None else tokenizer.convert_tokens_to_ids(start)
        )
        config = getattr(transformers, self.config)(**settings)
        with torch.random.fork_rng():
            torch.manual_seed(11)
            model: PreTrainedModel = getattr(transformers, self.model)(config).eval()
        # Folders say which ends, starts and first tokens they mean; classes bring their own.
        forced = settings.get("forced_bos_token_id")
        model.generation_config.forced_bos_token_id = forced
        model.generation_config.forced_eos_token_id = None
        model.generation_config.decoder_start_token_id = settings["decoder_start_token_id"]
        return LoadedModel(model, tokenizer, "tiny")

    def oracle(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, int]]:
        """The same as a user of transformers sets it up, and what `generate` is then given."""
        pair = self.pair()
        if self.languages is not None:
            pair.tokenizer.src_lang, pair.tokenizer.tgt_lang = self.languages
        return pair.model, pair.tokenizer, self.forced(pair.tokenizer)


@functools.cache
def _unigram() -> list[tuple[str, float]]:
    """Pieces and scores without special tokens."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=70, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(_CORPUS, trainer)
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in vocabulary if piece != "<unk>"]


@functools.cache
def _bpe(*, bytes_: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    pre: Any = pre_tokenizers.ByteLevel() if bytes_ else pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=_SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@functools.cache
def _sentencepiece() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="spm-"))
    with (folder / "model.spm").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_CORPUS),
            model_writer=stream,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return folder / "model.spm"


@functools.cache
def _piece_file(*, pad_last: bool) -> Path:
    """A vocab.json over the pieces, in the order of M2M100 or of Marian."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(_sentencepiece()))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    texts = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    names = ["</s>", "<unk>", *texts, "<pad>"] if pad_last else [*_SPECIALS, *texts]
    path = _sentencepiece().parent / f"vocab-{pad_last}.json"
    path.write_text(json.dumps({name: number for number, name in enumerate(names)}))
    return path


def _nllb() -> PreTrainedTokenizerBase:
    vocab, merges = _bpe(bytes_=False)
    codes = ["deu_Latn", "eng_Latn", "spa_Latn", "zho_Hans", "zho_Hant"]
    return transformers.NllbTokenizer(vocab=vocab, merges=merges, extra_special_tokens=codes)


def _mbart50() -> PreTrainedTokenizerBase:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *_unigram()]
    return transformers.MBart50Tokenizer(vocab=pieces)


def _mbart() -> PreTrainedTokenizerBase:
    return transformers.MBartTokenizer(vocab=[*((name, 0.0) for name in _SPECIALS), *_unigram()])


def _m2m100() -> PreTrainedTokenizerBase:
    # As published folders have them: every code is among their additional special tokens.
    codes = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    return transformers.M2M100Tokenizer(
        str(_piece_file(pad_last=False)),
        str(_sentencepiece()),
        additional_special_tokens=[f"__{code}__" for code in codes],
    )


def plbart() -> PreTrainedTokenizerBase:
    """Its codes are such as `__python__`; CTranslate2 does not convert its models."""
    tokenizer = transformers.PLBartTokenizer(str(_sentencepiece()), language_codes="base")
    tokenizer.src_lang, tokenizer.tgt_lang = "__en_XX__", "__python__"
    return tokenizer


def _t5() -> PreTrainedTokenizerBase:
    specials = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    return transformers.T5Tokenizer(vocab=[*specials, *_unigram()], extra_ids=4)


def _bart() -> PreTrainedTokenizerBase:
    vocab, merges = _bpe(bytes_=True)
    return transformers.BartTokenizer(vocab=vocab, merges=merges)


def _marian() -> PreTrainedTokenizerBase:
    spm = str(_sentencepiece())
    with warnings.catch_warnings(action="ignore"):  # sacremoses is recommended
        return transformers.MarianTokenizer(spm, spm, str(_piece_file(pad_last=True)))


def _given(name: str, code: str) -> Callable[[PreTrainedTokenizerBase], dict[str, int]]:
    return lambda tokenizer: {name: int(tokenizer.convert_tokens_to_ids(code))}


_forced = functools.partial(_given, "forced_bos_token_id")
_M2M = ("M2M100Config", "M2M100ForConditionalGeneration")
_MBART = ("MBartConfig", "MBartForConditionalGeneration")
FAMILIES = {
    "nllb": Family(_nllb, *_M2M, _BART, ("eng_Latn", "deu_Latn"), None, _forced("deu_Latn")),
    "m2m100": Family(_m2m100, *_M2M, _BART, ("en", "de"), None, _forced("__de__")),
    "mbart50": Family(_mbart50, *_MBART, _BART, ("en_XX", "de_DE"), ("en", "de"), _forced("de_DE")),
    "mbart": Family(
        *(_mbart, *_MBART, {**_BART, "start": None}, ("en_XX", "de_DE"), ("en", "de")),
        _given("decoder_start_token_id", "de_DE"),
    ),
    "t5": Family(_t5, "T5Config", "T5ForConditionalGeneration", {**_T5, "start": "<pad>"}),
    "bart": Family(_bart, "BartConfig", "BartForConditionalGeneration", _BART),
    "bart-forced": Family(
        _bart, "BartConfig", "BartForConditionalGeneration", {**_BART, "forced_bos_token_id": 0}
    ),
    "marian": Family(_marian, "MarianConfig", "MarianMTModel", {**_BART, "start": "<pad>"}),
}
MULTILINGUAL = tuple(name for name, family in FAMILIES.items() if family.languages is not None)
