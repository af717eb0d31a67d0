"""New models: a configuration and a seed in, random weights out; and a vocabulary from texts.

Trains no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from seqdistill.core.errors import ModelError
from seqdistill.core.generators import derived_seed

# Ids 0 to 3, the order that BART and mBART configurations expect.
_BOS, _PAD, _EOS, _UNK = "<s>", "<pad>", "</s>", "<unk>"
# CTranslate2's loaders ask for these keys, which transformers' own configurations lack.
_NORMALIZATION = {
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "bart": {"normalize_before": False, "normalize_embedding": True},
}


def train_vocabulary(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A joint byte-level BPE tokenizer of at most `vocab_size` tokens that closes texts with </s>.

    Every text round-trips: bytes never seen are spelt out, so there is no unknown token in use.

    Source: Sennrich et al. 2016; byte-level as in Radford et al. 2019.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_BOS, _PAD, _EOS, _UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
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
    ModelError for an unknown model type or a key that the configuration does not have.
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
    config = AutoConfig.for_model(
        model_type,
        **settings,
        **_NORMALIZATION.get(model_type, {}),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if config.is_encoder_decoder:
        start = {"t5": tokenizer.pad_token_id, "marian": tokenizer.pad_token_id}
        config.decoder_start_token_id = start.get(model_type, tokenizer.eos_token_id)
        config.forced_eos_token_id = None
    return config


def random_model(config: PreTrainedConfig, *, seed: int) -> PreTrainedModel:
    """An fp32 model of that configuration; equal seeds give equal weights.

    Torch's own random state is put back afterwards.
    """
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "initial weights"))
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    if model.generation_config is not None and config.is_encoder_decoder:
        model.generation_config.forced_eos_token_id = None
        model.generation_config.decoder_start_token_id = config.decoder_start_token_id
    return model
