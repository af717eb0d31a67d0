"""New models and vocabularies: seeded, complete, and refused when they cannot be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import EOS, PAD, character_tokenizer

from seqdistill.core.errors import ModelError
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.identity import model_fingerprint
from seqdistill.models.scratch import configuration, random_model, train_vocabulary

Architecture = dict[str, str | int | float | bool]
_BART = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
MBART: Architecture = {
    **{"model_type": "mbart", "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    **dict.fromkeys(_BART, 2),
}
LLAMA: Architecture = {
    **{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32},
    **{"num_hidden_layers": 1, "num_attention_heads": 2},
}
T5: Architecture = {
    **{"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32},
    **{"num_layers": 1, "num_heads": 2},
}
VOCABULARY = train_vocabulary(["the cat sat on the mat", "die Katze saß"] * 3, vocab_size=270)


@pytest.mark.parametrize(("architecture", "start"), [(MBART, EOS), (T5, PAD), (LLAMA, None)])
def test_a_seed_makes_the_weights_and_the_tokenizer_sizes_and_ids(
    architecture: Architecture, start: int | None
) -> None:
    tokenizer = character_tokenizer()
    config = configuration(architecture, tokenizer)
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.eos_token_id) == (PAD, EOS)
    assert getattr(config, "decoder_start_token_id", None) == start
    before = torch.get_rng_state()
    made = [random_model(config, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = map(model_fingerprint, made)
    assert one == same != other
    assert made[0].generation_config.decoder_start_token_id == start
    assert made[0].generation_config.forced_eos_token_id is None
    SequenceModel(made[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mbrat"}, "model_type that transformers knows.*'mbrat'"),
        ({"d_modle": 16}, "'d_modle' does not"),
        ({"vocab_size": 99}, "leave vocab_size to the tokenizer, but found 99"),
        ({"decoder_start_token_id": 1}, "leave decoder_start_token_id to the tokenizer"),
    ],
)
def test_impossible_architectures_are_refused(change: Architecture, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        configuration({**MBART, **change}, character_tokenizer())


def test_a_configuration_of_no_language_model_and_a_tiny_vocabulary_are_refused() -> None:
    with pytest.raises(ModelError, match=r"must be a language model.*'vit'"):
        random_model(configuration({"model_type": "vit"}, character_tokenizer()), seed=0)
    with pytest.raises(ModelError, match=r"student.vocab_size must be at least 260.*found 259"):
        train_vocabulary(["a"], vocab_size=259)


@given(st.text(max_size=30).filter(lambda text: "s>" not in text))
@settings(max_examples=50, deadline=None)
def test_texts_round_trip_up_to_nfc_and_a_space_in_front(text: str) -> None:
    ids = VOCABULARY(text).input_ids
    assert ids[-1] == VOCABULARY.eos_token_id
    assert VOCABULARY.unk_token_id not in ids
    normal = VOCABULARY.backend_tokenizer.normalizer.normalize_str(text)
    decoded = VOCABULARY.decode(ids, skip_special_tokens=True)
    assert decoded == (normal[1:] if normal.startswith(" ") else normal)


def test_a_vocabulary_merges_what_is_frequent_within_its_size() -> None:
    assert 260 < len(VOCABULARY) <= 270
    assert len(VOCABULARY(" the the").input_ids) < len(" the the")
