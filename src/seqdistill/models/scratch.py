"""New models: a configuration and a seed in, random weights out; and a vocabulary from texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from seqdistill.core.errors import ModelError, first_line
from seqdistill.core.generators import derived_seed
from seqdistill.models.adapters import decoder_start_id
from seqdistill.models.architectures import auto_class

# Ids 0 to 3, the order that BART and mBART configurations expect.
_BOS, _PAD, _EOS, _UNK = "<s>", "<pad>", "</s>", "<unk>"
# What these architectures' decoders read first, by the convention of their checkpoints.
_START_WITH_PADDING = ("t5", "mt5", "umt5", "marian", "pegasus")
# CTranslate2's loaders ask for the keys of normalization, which transformers' own configurations
# lack. Whisper's lists of symbols to leave out are ids of its own vocabulary.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "whisper": {"suppress_tokens": None, "begin_suppress_tokens": None},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "bart": {"normalize_before": False, "normalize_embedding": True},
}


def train_vocabulary(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A joint byte-level BPE tokenizer of at most `vocab_size` tokens that closes texts with </s>.

    Every text round-trips, up to Unicode's composed form (NFC), one space in front, and names of
    special tokens: bytes never seen are spelt out, so there is no unknown token in use. Raises
    ModelError for a size below the 256 bytes and four special tokens.

    Source: Sennrich et al. 2016; byte-level as in Radford et al. 2019.
    """
    specials = [_BOS, _PAD, _EOS, _UNK]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(specials) + len(alphabet):
        raise ModelError(
            f"student.vocab_size must be at least {len(specials) + len(alphabet)}, one token for "
            f"each byte and special token, but found {vocab_size}."
        )
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, tokenizer.token_to_id(_EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BOS, eos_token=_EOS, pad_token=_PAD, unk_token=_UNK
    )


def configuration(
    architecture: Mapping[str, str | int | float | bool], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedConfig:
    """A transformers configuration with the tokenizer's size and special ids filled in.

    `architecture` names its `model_type`; its other keys are that configuration's own. Raises
    ModelError for an unknown model type, a key that the configuration does not have, and one that
    is the tokenizer's to say.
    """
    settings = dict(architecture)
    model_type = str(settings.pop("model_type", ""))
    try:
        known = AutoConfig.for_model(model_type).to_dict()
    except ValueError as error:
        raise ModelError(
            "student.architecture needs a model_type that transformers knows, such as mbart, t5 "
            f"or llama, but found {model_type!r}."
        ) from error
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ModelError(
            f"Every key of student.architecture must belong to a {model_type} configuration, but "
            f"{unknown[0]!r} does not; see transformers' {model_type} documentation."
        )
    from_tokenizer = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    taken = sorted(settings.keys() & {*from_tokenizer, "decoder_start_token_id"})
    if taken:
        raise ModelError(
            f"student.architecture must leave {taken[0]} to the tokenizer, but found "
            f"{settings[taken[0]]!r}; take it out."
        )
    config = AutoConfig.for_model(
        model_type, **settings, **_DEFAULTS.get(model_type, {}), **from_tokenizer
    )
    if config.is_encoder_decoder:
        config.decoder_start_token_id = (
            tokenizer.pad_token_id if model_type in _START_WITH_PADDING else tokenizer.eos_token_id
        )
        config.forced_eos_token_id = None
    return config


def random_model(config: PreTrainedConfig, *, seed: int) -> PreTrainedModel:
    """An fp32 model of that configuration; equal seeds give equal weights.

    Torch's own random state is put back afterwards. Raises ModelError for a configuration of no
    language model.
    """
    auto = auto_class(config)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "initial weights"))
        try:
            model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise ModelError(
                "The student must be a language model, encoder-decoder or decoder-only, but "
                f"transformers cannot make one of model_type {config.model_type!r}: "
                f"{first_line(error)}"
            ) from error
    if model.generation_config is not None and config.is_encoder_decoder:
        model.generation_config.forced_eos_token_id = None
        model.generation_config.decoder_start_token_id = decoder_start_id(model)
    return model
